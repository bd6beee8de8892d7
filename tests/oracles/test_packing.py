from __future__ import annotations

import math

import pytest

from al_crystal.crystal import Crystal
from al_crystal.seeds import rng
from oracles.crowding import crowding, shortest_distance
from oracles.packing import SEARCH, overlap
from oracles.positions import ways
from oracles.wyckoff import conventional_lattice

PEROVSKITE = Crystal(space_group=62, composition={"Ca": 4, "Ti": 4, "O": 12}, lattice_parameters=(5.5, 7.7, 5.4, 90, 90, 90))
CRYSTALS = [
    PEROVSKITE,
    Crystal(space_group=14, composition={"Cs": 4, "In": 4, "S": 8}, lattice_parameters=(6.5, 9.0, 7.5, 90, 105, 90)),
    Crystal(space_group=148, composition={"Na": 6, "Ge": 6, "O": 18}, lattice_parameters=(5.5, 5.5, 15.0, 90, 90, 120)),
    Crystal(space_group=1, composition={"Li": 1, "Ga": 1, "Se": 2}, lattice_parameters=(4.0, 4.4, 5.0, 80, 95, 104)),
]


def rock_salt(edge: float) -> Crystal:
    return Crystal(space_group=225, composition={"Na": 4, "Cl": 4}, lattice_parameters=(edge, edge, edge, 90, 90, 90))


def test_a_squeezed_rock_salt_overlaps_as_its_geometry_says():
    """Nothing is free: six neighbours of the other kind at half the edge, twelve of each kind at the edge over the square root of two."""
    edge = 4.0
    unlike = 6 * (1 - edge / 2 / shortest_distance("Na", "Cl")) ** 2
    like = [12 * max(0.0, 1 - edge / math.sqrt(2) / shortest_distance(symbol, symbol)) ** 2 for symbol in ("Na", "Cl")]
    assert overlap(rock_salt(edge)) == pytest.approx(unlike + sum(like) / 2)
    assert overlap(rock_salt(5.69)) == 0.0


def test_known_crystals_have_room_and_squeezed_ones_have_not():
    assert overlap(PEROVSKITE, enough=0.01) <= 0.01
    a, b, c, *angles = PEROVSKITE.lattice_parameters
    squeezed = PEROVSKITE.model_copy(update={"lattice_parameters": (0.8 * a, 0.8 * b, 0.8 * c, *angles)})
    assert overlap(Crystal.model_validate(squeezed.model_dump())) > 0.05


@pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda crystal: f"{crystal.formula} in {crystal.space_group}")
def test_moving_orbits_finds_more_room_than_drawing_them(crystal):
    generator, lattice = rng(2, 0, "test"), conventional_lattice(crystal)
    drawn = min(crowding(way.template(lattice, True), way.draw(12, generator))[0].min() for way in ways(crystal, SEARCH, generator)[0])
    assert overlap(crystal) <= drawn


@pytest.mark.parametrize("enough", [0.1, 0.01, 0.001])
def test_stopping_early_decides_the_same(enough):
    for crystal in CRYSTALS:
        assert (overlap(crystal, enough) <= enough) == (overlap(crystal) <= enough)


def test_the_same_crystal_has_the_same_overlap():
    assert overlap(PEROVSKITE) == overlap(PEROVSKITE)


def test_where_no_way_fits_there_is_no_room():
    assert overlap(Crystal(space_group=227, composition={"C": 5}, lattice_parameters=(3.5, 3.5, 3.5, 90, 90, 90))) == math.inf
