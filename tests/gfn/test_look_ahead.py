"""The look-ahead is exact: the crystals that the masks can reach are the crystals that independent checks accept, no more and no fewer."""

import itertools
import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_crystal.crystal import Crystal
from gfn.checks import atoms, elements, neutrality, room, wyckoff_positions
from gfn.constraints import EmptySpace, Space
from gfn.environment import CrystalEnvironment

CUBE = (5.0, 5.0, 5.0, 90.0, 90.0, 90.0)


def reachable(environment: CrystalEnvironment) -> set[tuple[int, tuple[int, ...]]]:
    """Every (group, counts) that allowed actions lead to; fails where a state has no allowed action."""
    space = environment.composition
    found = set()
    for group in environment.space_group.groups:
        partial = space.initial(np.array([group]))
        while len(partial.last):
            allowed = space.allowed(partial)
            assert allowed.any(axis=1).all(), "a dead end"
            rows, actions = np.nonzero(allowed)
            partial = partial.rows(rows)
            stopped = actions == space.number_of_actions - 1
            finished = {(int(group), tuple(row)) for row in partial.counts[stopped].tolist()}
            assert len(finished) == stopped.sum(), "a composition has one trajectory"
            found |= finished
            partial, actions = partial.rows(np.nonzero(~stopped)[0]), actions[~stopped]
            space.apply(partial, actions)
    return found


def valid(space: Space) -> set[tuple[int, tuple[int, ...]]]:
    """Every (group, counts) that the checks accept, by trying all."""
    found = set()
    for counts in itertools.product(range(space.atoms_per_element[1] + 1), repeat=len(space.elements)):
        composition = {symbol: count for symbol, count in zip(space.elements, counts, strict=True) if count}
        if not composition:
            continue
        crystals = [Crystal(space_group=group, composition=composition, lattice_parameters=CUBE) for group in space.space_groups]
        if any(check(space, crystals[0]) for check in (elements, atoms, neutrality)):
            continue
        found |= {
            (crystal.space_group, counts) for crystal in crystals if not wyckoff_positions(space, crystal) and not room(space, crystal)
        }
    return found


def compare(space: Space) -> int:
    expected = valid(space)
    if not expected:
        with pytest.raises(EmptySpace):
            CrystalEnvironment(space)
        return 0
    assert reachable(CrystalEnvironment(space)) == expected
    return len(expected)


GROUPS = [1, 2, 12, 47, 62, 123, 166, 194, 216, 221, 225, 227, 230]

SPACES = {
    "oxides": {"elements": ["Li", "Fe", "Mn", "O"], "atoms_per_element": (1, 5)},
    "without Pauling": {"elements": ["C", "N", "S", "Se"], "atoms_per_element": (1, 4), "electronegativity": False},
    "equal electronegativity": {"elements": ["C", "Se", "S", "H"], "atoms_per_element": (1, 5)},
    "no charge rule": {"elements": ["Na", "Cl", "O"], "atoms_per_element": (1, 8), "charge_neutrality": None, "electronegativity": False},
    "alloys": {"elements": ["Cu", "Ni", "O", "Al"], "atoms_per_element": (1, 6), "charge_neutrality": {"alloys": True}},
    "mixed valence": {"elements": ["Fe", "Cu", "O"], "atoms_per_element": (1, 8), "charge_neutrality": {"mixed_valence": True}},
    "atoms": {"elements": ["Li", "Al", "O", "F"], "atoms_per_element": (2, 8), "atoms": (11, 17), "number_of_elements": (2, 3)},
    "one element's counts": {"elements": ["Li", "Al", "O"], "atoms_per_element": (1, 8), "atoms_of": {"Li": (3, 5), "O": (4, 8)}},
    "required": {"elements": ["Li", "Al", "O", "F"], "atoms_per_element": (1, 6), "required_elements": ["Li", "F"]},
    "excluded": {
        "elements": ["Li", "Na", "Al", "O", "F"],
        "atoms_per_element": (1, 4),
        "excluded_combinations": [["Li", "O"], ["Na", "Al", "F"], ["Na", "O"]],
    },
    "room for long edges": {
        "elements": ["Li", "Na", "O", "Cl"],
        "atoms_per_element": (1, 5),
        "number_of_elements": (2, 4),
        "lattice": {"lengths": (4.5, 40.0)},
    },
    "room between": {"elements": ["Li", "Na", "O", "Cl"], "atoms_per_element": (1, 5), "lattice": {"lengths": (4.0, 4.5)}},
    "room and mixed valence": {
        "elements": ["Fe", "Cu", "O"],
        "atoms_per_element": (1, 8),
        "charge_neutrality": {"mixed_valence": True},
        "lattice": {"lengths": (4.5, 5.2)},
    },
    "volume per atom": {
        "elements": ["Li", "K", "O", "I"],
        "atoms_per_element": (1, 6),
        "lattice": {"volume_per_atom": (18.0, 19.0), "volume_ratio": (0.9, 1.1)},
    },
    "volume per atom and long edges": {
        "elements": ["H", "Na", "O", "Cl"],
        "atoms_per_element": (1, 5),
        "lattice": {"volume_per_atom": (12.0, 14.0), "volume_ratio": (0.8, 1.3), "lengths": (4.0, 5.0)},
    },
    "angles that exclude hexagonal cells": {"elements": ["Na", "Cl"], "atoms_per_element": (1, 8), "lattice": {"angles": (60.0, 110.0)}},
    "elements without states": {"elements": ["He", "Pm", "Na", "Cl"], "atoms_per_element": (1, 6)},
}


@pytest.mark.parametrize("name", SPACES)
def test_masks_reach_exactly_the_valid_compositions(name):
    assert compare(Space(space_groups=GROUPS, **SPACES[name])) > 0


POOL = ["H", "Li", "C", "N", "O", "F", "Na", "Mg", "S", "Cl", "Mn", "Fe", "Cu", "Se", "Pm"]


@st.composite
def spaces(draw):
    symbols = draw(st.lists(st.sampled_from(POOL), min_size=2, max_size=4, unique=True))
    most = draw(st.integers(2, 6))
    low = draw(st.integers(1, 2))
    fields = {
        "elements": symbols,
        "space_groups": draw(st.lists(st.integers(1, 230), min_size=1, max_size=3, unique=True)),
        "number_of_elements": (low, draw(st.integers(low, 4))),
        "atoms_per_element": (draw(st.integers(1, 2)), most),
    }
    fewest = draw(st.integers(1, 8))
    fields["atoms"] = (fewest, draw(st.integers(fewest, 24)))
    rule = draw(st.sampled_from(["strict", "alloys", "mixed", "none"]))
    if rule == "none":
        fields |= {"charge_neutrality": None, "electronegativity": False}
    else:
        fields["charge_neutrality"] = {"alloys": rule == "alloys", "mixed_valence": rule == "mixed"}
        fields["electronegativity"] = draw(st.booleans())
    fields["excluded_combinations"] = draw(st.lists(st.lists(st.sampled_from(symbols), min_size=2, max_size=3, unique=True), max_size=2))
    shortest = draw(st.floats(2.0, 6.0))
    fields["lattice"] = {"lengths": (shortest, shortest + draw(st.floats(0.3, 10.0)))}
    if draw(st.booleans()):
        dense = draw(st.floats(5.0, 30.0))
        fields["lattice"] |= {"volume_per_atom": (dense, dense + draw(st.floats(0.3, 20.0))), "volume_ratio": (0.8, 1.25)}
    return Space(**fields)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(spaces())
def test_masks_are_exact_in_random_spaces(space):
    compare(space)


@cache
def pyxtal_group(number: int):
    from pyxtal.symmetry import Group

    return Group(number)


@pytest.mark.slow
def test_ten_thousand_crystals_satisfy_pyxtal_and_smact():
    import torch
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    from gfn.sampler import Sampler

    for rule in ({}, {"alloys": True}, {"mixed_valence": True}):
        environment = CrystalEnvironment(Space(elements="all", space_groups="all", charge_neutrality=rule))
        crystals = Sampler.uniform(environment).sample(3400, torch.Generator().manual_seed(7)).to_crystals()
        for crystal in crystals:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert smact_validity(
                    Composition(crystal.composition),
                    use_pauling_test=True,
                    include_alloys=rule.get("alloys", False),
                    mixed_valence=rule.get("mixed_valence", False),
                    oxidation_states_set="icsd24",
                ), crystal
            assert pyxtal_group(crystal.space_group).check_compatible(list(crystal.composition.values()))[0], crystal
            assert crystal.volume > 0
            assert not environment.contains(crystal)


def test_an_empty_space_says_which_constraint_empties_it():
    with pytest.raises(EmptySpace, match=r"charge_neutrality"):
        CrystalEnvironment(Space(elements=["Na", "Li"], number_of_elements=(2, 2)))
    with pytest.raises(EmptySpace, match=r"space_groups \(their Wyckoff positions\)"):
        CrystalEnvironment(Space(elements=["Na", "Cl"], space_groups=[230], number_of_elements=(2, 2), atoms_per_element=(1, 8)))


def test_a_window_of_the_cell_that_empties_everything_is_named():
    for window in ((1.0, 1.5), (300.0, 400.0)):
        with pytest.raises(EmptySpace, match=r"Without the windows of the cell there would be some.*lattice volume_per_atom"):
            CrystalEnvironment(Space(lattice={"volume_per_atom": window}))
    with pytest.raises(EmptySpace, match=r"Lifting one of these alone would leave some: number_of_elements; atoms\."):
        CrystalEnvironment(Space(elements="all", space_groups="all", number_of_elements=(2, 2), atoms=(1, 1)))
