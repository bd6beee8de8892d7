from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from al_crystal.seeds import rng
from oracles.wyckoff import assignments, group_sites

CELLS = {
    "cubic": (9, 9, 9, 90, 90, 90),
    "hexagonal": (8, 8, 11, 90, 90, 120),
    "tetragonal": (8, 8, 11, 90, 90, 90),
    "orthorhombic": (7, 9, 11, 90, 90, 90),
    "monoclinic": (7, 9, 11, 90, 103, 90),
    "triclinic": (7, 9, 11, 81, 95, 103),
}


def cell_of(group: int) -> np.ndarray:
    limits = ((2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal"), (194, "hexagonal"), (230, "cubic"))
    kind = next(name for last, name in limits if group <= last)
    return np.array(Lattice.from_parameters(*CELLS[kind]).matrix)


@pytest.mark.parametrize("group", [1, 2, 5, 12, 15, 38, 63, 70, 122, 141, 146, 160, 166, 167, 194, 217, 225, 227, 230])
def test_general_position_has_exactly_the_group(group):
    """Atoms on one general position have the group's symmetry; spglib, which knows nothing of our tables, must find it."""
    general = group_sites(group).sites[0]
    found = set()
    for seed in range(4):
        from oracles.wyckoff import Assignment

        way = Assignment(group, (("Si", 0), ("C", 0)))
        cell = way.template(cell_of(group), fixed_cell=True)
        cell = cell.moved(cell.lattice, way.draw(1, np.random.default_rng(seed))[0])
        found.add(spglib.get_symmetry_dataset(cell.to_arrays(), symprec=1e-4).number)
        assert cell.number_of_atoms * round(1 / abs(np.linalg.det(group_sites(group).primitive))) == 2 * general.multiplicity
    assert group in found


def test_tables_are_consistent_for_all_groups():
    for group in range(1, 231):
        table = group_sites(group)
        lattice_points = round(1 / abs(np.linalg.det(table.primitive)))
        for site in table.sites:
            assert len(site.rotations) * lattice_points == site.multiplicity, (group, site.letter)
            assert round(float(np.trace(site.projector))) == site.freedom, (group, site.letter)


def brute_force(group: int, composition: dict[str, int]) -> set[tuple[tuple[str, int], ...]]:
    sites = group_sites(group).sites
    choices = []
    for symbol, count in composition.items():
        most = [1 if site.freedom == 0 else count // site.multiplicity for site in sites]
        numbers = product(*(range(min(limit, count // site.multiplicity) + 1) for limit, site in zip(most, sites, strict=True)))
        choices.append(
            [(symbol, number) for number in numbers if sum(n * s.multiplicity for n, s in zip(number, sites, strict=True)) == count]
        )
    found = set()
    for combination in product(*choices):
        used = np.sum([number for _, number in combination], axis=0)
        if all(count <= 1 for count, site in zip(used, sites, strict=True) if site.freedom == 0):
            found.add(tuple(sorted((symbol, index) for symbol, number in combination for index, n in enumerate(number) for _ in range(n))))
    return found


@pytest.mark.parametrize(
    ("group", "composition"),
    [(225, {"Mg": 4, "O": 4}), (166, {"Li": 3, "Co": 3, "O": 6}), (62, {"Ca": 4, "Ti": 4, "O": 12}), (123, {"A": 2, "B": 2, "C": 2})],
)
def test_enumeration_is_complete(group, composition):
    composition = {{"A": "Li", "B": "Na", "C": "K"}.get(symbol, symbol): count for symbol, count in composition.items()}
    found = [tuple(sorted(way.occupied)) for way in assignments(group, composition, 10**6)]
    assert len(found) == len(set(found))
    assert set(found) == brute_force(group, composition)


@given(st.integers(1, 230), st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=40)
def test_ways_exist_exactly_where_pyxtal_says_so_and_hold_the_composition(group, counts, seed):
    from pyxtal.symmetry import Group

    composition = dict(zip(("Li", "Na", "K"), counts, strict=False))
    found = assignments(group, composition, 50, rng(seed, 0, "test"))
    assert bool(found) == Group(group).check_compatible(counts)[0]
    for way in found:
        held = Counter()
        for (symbol, _), site in zip(way.occupied, way.sites, strict=True):
            held[symbol] += site.multiplicity
        assert held == composition
