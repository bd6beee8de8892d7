from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from al_crystal.crystal import Crystal
from al_crystal.seeds import rng
from oracles.crowding import crowding, shortest_distance
from oracles.positions import ways
from oracles.settings import PositionSettings
from oracles.wyckoff import conventional_lattice

CRYSTALS = [
    Crystal(space_group=62, composition={"Ca": 4, "Ti": 4, "O": 12}, lattice_parameters=(5.5, 7.7, 5.4, 90, 90, 90)),
    Crystal(space_group=14, composition={"Cs": 4, "In": 4, "S": 8}, lattice_parameters=(6.5, 9.0, 7.5, 90, 105, 90)),
    Crystal(space_group=148, composition={"Na": 6, "Ge": 6, "O": 18}, lattice_parameters=(5.5, 5.5, 15.0, 90, 90, 120)),
    Crystal(space_group=1, composition={"Li": 1, "Ga": 1, "Se": 2}, lattice_parameters=(4.0, 4.4, 5.0, 80, 95, 104)),
]


@pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda crystal: f"{crystal.formula} in {crystal.space_group}")
def test_overlap_and_closest_pair_are_those_of_ase_s_neighbour_list(crystal):
    way = ways(crystal, PositionSettings(enumerated_ways=300, ways=40), rng(0, 0, "test"))[0][0]
    template = way.template(conventional_lattice(crystal), fixed_cell=True)
    points = way.draw(5, rng(1, 0, "test"))
    overlaps, closest = crowding(template, points)
    for point, overlap, smallest in zip(points, overlaps, closest, strict=True):
        atoms = template.moved(template.lattice, point).to_structure().to_ase_atoms()
        first, second, distance = neighbor_list("ijd", atoms, 4.5)
        ratio = distance / [shortest_distance(atoms[i].symbol, atoms[j].symbol) for i, j in zip(first, second, strict=True)]
        assert overlap == pytest.approx((np.clip(1 - ratio, 0, None) ** 2).sum() / len(atoms), abs=1e-9)
        assert smallest == pytest.approx(ratio.min(), abs=1e-9)


def test_two_atoms_in_one_place_overlap_wholly():
    way = ways(CRYSTALS[3], PositionSettings(), rng(0, 0, "test"))[0][0]
    template = way.template(conventional_lattice(CRYSTALS[3]), fixed_cell=True)
    points = way.draw(1, rng(1, 0, "test"))
    points[0, 1] = points[0, 0]
    overlap, closest = crowding(template, points)
    assert closest[0] == 0.0
    assert overlap[0] > 2 / 4


def test_distances_are_sensible():
    assert 1.7 < shortest_distance("Mg", "O") < 2.2
    assert shortest_distance("Mg", "O") == shortest_distance("O", "Mg")
    assert shortest_distance("Cs", "Cs") > shortest_distance("Li", "Li") > 1.5
    assert shortest_distance("Og", "Rn") > 1  # never seen: from radii
