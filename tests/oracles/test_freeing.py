from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from al_crystal.seeds import rng
from oracles.freeing import free
from oracles.relaxation import relax_all
from oracles.self_test import reference_structure
from oracles.settings import FreeingSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell, conventional, stirred

RELAXATION = RelaxationSettings()


def bcc_copper() -> SymmetricCell:
    """A saddle point of the potential: the Bain path leads downhill on both sides."""
    return SymmetricCell.from_structure(Structure.from_spacegroup("Im-3m", Lattice.cubic(2.9), ["Cu"], [[0, 0, 0]]))


def test_a_saddle_is_left_and_a_minimum_is_not(emt):
    minimum = SymmetricCell.from_structure(reference_structure("Cu", 3.7))
    starts = [bcc_copper(), minimum]
    kept = relax_all(starts, emt, RELAXATION)
    strict = RelaxationSettings(fmax=0.01, max_stress=0.02)
    saddle, still = free(kept, starts, emt, FreeingSettings(shake=0.1), strict, [rng(0, 0, "test", index) for index in range(2)])
    assert (saddle.left, still.left) == (True, False)
    assert (saddle.walks, still.walks) == (3, 3)  # gentle, stirred, and from the start
    assert saddle.gain > 0.005
    assert saddle.relaxed.energy_per_atom == pytest.approx(still.relaxed.energy_per_atom, abs=2e-3)  # bcc falls to fcc
    assert still.gain == pytest.approx(0.0, abs=1e-3)
    assert len(still.relaxed.cell.point_group) == 48  # a minimum keeps its symmetry, whatever the noise of the other walks
    assert saddle.evaluations > saddle.relaxed.evaluations


def test_freed_is_never_higher_and_judged_by_ase(emt):
    from ase.calculators.emt import EMT
    from pymatgen.io.ase import AseAtomsAdaptor

    kept = relax_all([bcc_copper()], emt, RELAXATION)
    for seed in range(3):
        freed = free(kept, [bcc_copper()], emt, FreeingSettings(shake=0.05), RELAXATION, [rng(seed, 0, "test")])[0]
        assert freed.relaxed.energy_per_atom <= kept[0].energy_per_atom
        atoms = AseAtomsAdaptor.get_atoms(freed.relaxed.cell.to_structure())
        atoms.calc = EMT()
        assert atoms.get_potential_energy() / len(atoms) == pytest.approx(freed.relaxed.energy_per_atom, abs=1e-6)
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= RELAXATION.fmax


def test_neighbours_do_not_matter(emt):
    starts = [bcc_copper(), SymmetricCell.from_structure(reference_structure("Al", 4.2))]
    kept = relax_all(starts, emt, RELAXATION)
    settings = FreeingSettings(shake=0.05)
    both = free(kept, starts, emt, settings, RELAXATION, [rng(0, 0, "test", index) for index in range(2)])
    alone = free(kept[1:], starts[1:], emt, settings, RELAXATION, [rng(0, 0, "test", 1)])
    assert both[1].relaxed.energy_per_atom == alone[0].relaxed.energy_per_atom


def test_what_ended_unphysical_is_left_alone_and_what_did_not_converge_gets_another_chance(emt):
    window = RelaxationSettings(energy_window=(50.0, 60.0))
    unphysical = relax_all([bcc_copper()], emt, window)
    assert unphysical[0].outcome == "unphysical"
    left = free(unphysical, [bcc_copper()], emt, FreeingSettings(gentle_steps=0, from_start=False), window, [rng(0, 0, "test")])[0]
    assert (left.relaxed, left.walks) == (unphysical[0], 0)
    impatient = relax_all([bcc_copper()], emt, RelaxationSettings(max_steps=2))
    assert impatient[0].outcome == "not converged"
    found = free(impatient, [bcc_copper()], emt, FreeingSettings(shake=0.05), RELAXATION, [rng(0, 0, "test")])[0]
    assert found.relaxed.outcome == "converged"
    assert found.gain is None


def test_walks_take_place_in_the_conventional_cell():
    cell = bcc_copper()
    assert (cell.number_of_atoms, conventional(cell).number_of_atoms) == (1, 2)
    moved = stirred(conventional(cell), np.random.default_rng(0), 0.05)
    displaced = (moved.positions - conventional(cell).positions) @ moved.lattice
    assert np.abs(displaced).max() <= 0.05 + 1e-9
    assert np.abs(moved.lattice @ np.linalg.inv(conventional(cell).lattice) - np.eye(3)).max() <= 0.05 / 4 + 1e-9
