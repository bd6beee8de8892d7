from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles.at_rest import energies_at_rest
from oracles.settings import RelaxationSettings


def layered(a: float, c: float, height: float = 0.19) -> Structure:
    """A Cu-Au arrangement with free heights."""
    return Structure.from_spacegroup("P4/nmm", Lattice.tetragonal(a, c), ["Cu", "Au"], [[0, 0.5, height], [0, 0.5, 0.66]])


def test_the_atoms_come_to_rest_where_ase_brings_them_in_the_same_cell(emt):
    from ase.calculators.emt import EMT
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    cells = [layered(4.1, 6.6), layered(3.9, 6.9), layered(4.3, 6.2)]
    found = energies_at_rest(cells, emt, RelaxationSettings(fmax=0.005))
    for structure, energy in zip(cells, found, strict=True):
        atoms = AseAtomsAdaptor.get_atoms(structure)
        before = atoms.cell.array.copy()
        atoms.calc = EMT()
        FIRE(atoms, logfile=None).run(fmax=0.002, steps=2000)
        assert np.array_equal(atoms.cell.array, before)
        assert energy == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-3)


def test_the_start_and_the_choice_of_the_cell_do_not_matter(emt):
    one = layered(4.1, 6.6)
    other = layered(4.1, 6.6, 0.2)
    energies = energies_at_rest([one, other, one * (2, 1, 1)], emt, RelaxationSettings(fmax=0.005))
    assert np.ptp(energies) < 1e-3
    assert energies[0] < float(emt.evaluate([one]).energies_per_atom[0]) - 0.005


def test_no_rest_is_no_number(emt):
    energies = energies_at_rest([layered(4.1, 6.6)], emt, RelaxationSettings(max_steps=2))
    assert np.isnan(energies[0])


@pytest.mark.models
def test_a_strained_crystal_lies_above_the_relaxed_one_and_below_its_frozen_atoms(m3gnet):
    rutile = Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(4.65, 2.97), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
    lengths = [(4.65, 2.97), (4.95, 2.62), (4.35, 3.39)]
    strained = [Structure(Lattice.tetragonal(*pair), rutile.species, rutile.frac_coords) for pair in lengths]
    frozen = m3gnet.evaluate(strained).energies_per_atom
    at_rest = energies_at_rest(strained, m3gnet)
    assert (at_rest <= frozen + 1e-4).all()
    assert (at_rest[1:] > at_rest[0] + 0.01).all()
