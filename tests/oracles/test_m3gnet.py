"""Our M3GNet against matgl's own forward pass: the same function, for both aggregation conventions."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles.m3gnet import neighbours
from oracles.symmetric_cell import SymmetricCell


def crystals() -> list[Structure]:
    perovskite = Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(5.5, 7.7, 5.4),
        ["Ca", "Ti", "O", "O"],
        [[0.04, 0.25, 0.99], [0, 0, 0.5], [0.48, 0.25, 0.08], [0.29, 0.04, 0.71]],
    )
    layered = Structure.from_spacegroup("R-3m", Lattice.hexagonal(2.85, 14.1), ["Li", "Co", "O"], [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.26]])
    low = Structure(Lattice.from_parameters(3.9, 4.6, 5.1, 84, 97, 103), ["Fe", "S", "O"], [[0, 0, 0], [0.45, 0.52, 0.4], [0.7, 0.2, 0.75]])
    return [perovskite, layered, low]


@pytest.mark.models
@pytest.mark.parametrize(("aggregation", "force", "stress"), [("destination", 5e-5, 2e-6), ("source", 2e-3, 2e-4)])
def test_same_as_matgl(m3gnet, aggregation, force, stress):
    """eV/Å and eV/Å3. These weights mean ``destination``; summed into the source atom they give meaningless, ill-conditioned values."""
    structures = crystals()
    before = m3gnet.record.aggregation
    try:
        m3gnet.use_aggregation(aggregation)
        ours, theirs = m3gnet.evaluate(structures), m3gnet.evaluate_with_matgl(structures)
    finally:
        m3gnet.use_aggregation(before)
    assert ours.energies == pytest.approx(theirs.energies, abs=2e-4)
    for one, other in zip(ours.forces, theirs.forces, strict=True):
        assert np.allclose(one, other, atol=force, rtol=0)
    assert np.allclose(ours.stresses, theirs.stresses, atol=stress, rtol=0)
    assert max(np.abs(each).max() for each in theirs.forces) > 0.5  # they are far from rest, or this proves little


@pytest.mark.models
def test_asymmetric_units_give_the_same_crystals(m3gnet):
    cells = [SymmetricCell.from_structure(structure) for structure in crystals()]
    assert [len(cell.numbers) for cell in cells] == [4, 3, 3]
    whole, quotient = m3gnet.evaluate([cell.to_structure() for cell in cells]), m3gnet.evaluate_cells(cells)
    assert quotient.energies == pytest.approx(whole.energies, abs=2e-4)
    assert np.allclose(quotient.stresses, whole.stresses, atol=2e-6)
    for cell, own, every in zip(cells, quotient.forces, whole.forces, strict=True):
        assert np.allclose(own, cell.on_representatives(every), atol=2e-4)
    ranked = m3gnet.evaluate_cells(cells, derivatives=False)
    assert ranked.energies == pytest.approx(quotient.energies, abs=1e-5)


@pytest.mark.models
def test_features_belong_to_their_atoms(m3gnet):
    structure = crystals()[0]
    features = m3gnet.atom_features([structure])[0]
    assert features.shape == (20, 64)
    for first, site in enumerate(structure):
        equal = [np.allclose(features[first], features[second], atol=1e-4) for second in range(20)]
        assert sum(equal) in (4, 8)
        assert {structure[index].specie for index in np.flatnonzero(equal)} == {site.specie}


@pytest.mark.models
def test_atoms_out_of_range_have_no_energy(m3gnet):
    found = m3gnet.evaluate([Structure(Lattice.cubic(12), ["Na"], [[0, 0, 0]]), crystals()[1]])
    assert np.isnan(found.energies[0])
    assert np.isfinite(found.energies[1])


def test_neighbours_are_pymatgens():
    structure = crystals()[2]
    cell = SymmetricCell.from_structure(structure, symprec=None)
    moved = cell.moved(cell.lattice, cell.positions + np.array([[1.3, -2.0, 0.4]]))  # whole crystal, other lattice points
    for one in (cell, moved):
        source, atom, image = neighbours(one, 5.0)
        vectors = (one.atom_positions[atom] + image - one.positions[source]) @ one.lattice
        found = sorted(np.linalg.norm(vectors, axis=1).round(6))
        expected = sorted(round(float(site.nn_distance), 6) for shell in structure.get_all_neighbors(5.0) for site in shell)
        assert found == pytest.approx(expected, abs=1e-5)
