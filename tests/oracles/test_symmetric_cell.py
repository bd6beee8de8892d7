from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles.symmetric_cell import SymmetricCell


def perovskite() -> Structure:
    """Pnma, all four atoms of CaTiO3 on sites of different freedom."""
    lattice = Lattice.orthorhombic(5.5, 7.7, 5.4)
    species = ["Ca", "Ti", "O", "O"]
    return Structure.from_spacegroup("Pnma", lattice, species, [[0.04, 0.25, 0.99], [0, 0, 0.5], [0.48, 0.25, 0.08], [0.29, 0.04, 0.71]])


def test_generates_the_atoms_it_was_made_from():
    structure = perovskite()
    cell = SymmetricCell.from_structure(structure)
    assert sorted(cell.multiplicities) == [4, 4, 4, 8]
    assert cell.number_of_atoms == 20
    found = cell.to_structure()
    assert np.allclose(np.sort(found.distance_matrix.ravel()), np.sort(structure.distance_matrix.ravel()), atol=1e-6)


def test_primitive_cell_of_a_centred_crystal():
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cell = SymmetricCell.from_structure(rock_salt)
    assert (cell.number_of_atoms, len(cell.numbers), len(cell.point_group)) == (2, 2, 48)
    assert np.allclose(cell.site_projectors, 0)  # nothing is free to move
    strain = np.random.default_rng(0).normal(size=(3, 3))
    assert np.allclose(cell.symmetric_stress(strain), np.trace(strain) / 3 * np.eye(3))  # a cubic crystal feels pressure only


def test_projections_agree_with_averaging_over_the_group():
    """Forces of a real potential on a symmetric crystal are symmetric already: projecting changes nothing."""
    from ase.calculators.emt import EMT
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = Structure.from_spacegroup("P4/nmm", Lattice.tetragonal(4.4, 6.1), ["Cu", "Au"], [[0, 0.5, 0.17], [0, 0.5, 0.67]])
    cell = SymmetricCell.from_structure(structure)
    atoms = AseAtomsAdaptor.get_atoms(cell.to_structure())
    atoms.calc = EMT()
    own = cell.on_representatives(atoms.get_forces())
    assert np.abs(own).max() > 0.1
    assert np.allclose(cell.symmetric_forces(own), own, atol=1e-8)
    assert np.allclose(cell.symmetric_stress(atoms.get_stress(voigt=False)), atoms.get_stress(voigt=False), atol=1e-8)


def test_without_symmetry_it_is_the_same_crystal():
    cell = SymmetricCell.from_structure(perovskite())
    free = cell.without_symmetry()
    assert len(free.numbers) == cell.number_of_atoms
    assert np.allclose(free.site_projectors, np.eye(3))
    assert np.allclose(free.strain_projector @ np.eye(3).ravel(), np.eye(3).ravel())
    assert free.to_structure().composition == cell.to_structure().composition


@pytest.mark.parametrize("symprec", [1e-3, 0.01])
def test_noise_below_the_tolerance_is_symmetrised_away(symprec):
    noisy = perovskite().perturb(symprec / 20)
    cell = SymmetricCell.from_structure(noisy, symprec=symprec)
    assert sorted(cell.multiplicities) == [4, 4, 4, 8]
