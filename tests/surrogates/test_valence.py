import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from al_crystal.crystal import ATOMIC_NUMBER
from surrogates.features import Rows
from surrogates.valence import TOKEN_FEATURES, charges, valences


def of(*compositions):
    rows = [{ATOMIC_NUMBER[symbol]: float(count) for symbol, count in composition.items()} for composition in compositions]
    made = Rows.from_compositions(rows, [1] * len(rows))
    return made, valences(made)


def needed(composition, symbol):
    rows, found = of(composition)
    return float(found.token[0, rows.elements[0].tolist().index(ATOMIC_NUMBER[symbol]), 2]) * 3


@pytest.mark.parametrize(
    ("composition", "metal", "state"),
    [
        ({"Li": 1, "Mn": 1, "O": 2}, "Mn", 3),
        ({"Li": 2, "Mn": 1, "O": 3}, "Mn", 4),
        ({"Fe": 3, "O": 4}, "Fe", 8 / 3),
        ({"K": 1, "Mn": 1, "O": 4}, "Mn", 7),
        ({"Ca": 1, "Ti": 1, "O": 3}, "Ti", 4),
        ({"Cu": 2, "O": 1}, "Cu", 1),
    ],
)
def test_the_state_of_a_transition_metal_follows_from_the_others(composition, metal, state):
    assert needed(composition, metal) == pytest.approx(state, abs=1e-4)


@pytest.mark.parametrize(
    ("composition", "excess"), [({"Mg": 1, "O": 1}, 0), ({"Na": 1, "Mg": 1, "O": 1}, 1 / 3), ({"Na": 1, "Cl": 2}, -1 / 3)]
)
def test_unbalanced_electrons_are_counted_per_atom(composition, excess):
    _, found = of(composition)
    assert found.crystal[0, :2].tolist() == pytest.approx([1.0, excess], abs=1e-6)


def test_elements_and_alloys_have_no_ions():
    _, found = of({"Si": 8}, {"Na": 1, "K": 1}, {"Fe": 1, "Al": 1})
    assert not found.token.any()
    assert not found.crystal.any()


def test_one_element_alone_and_multiples_of_a_formula():
    _, alone = of({"Si": 8})
    assert alone.token.shape == (1, 1, TOKEN_FEATURES)
    _, found = of({"Li": 1, "Fe": 1, "P": 1, "O": 4}, {"Li": 4, "Fe": 4, "P": 4, "O": 16})
    torch.testing.assert_close(found.token[0], found.token[1])
    torch.testing.assert_close(found.crystal[0], found.crystal[1])


def test_every_element_is_finite_with_every_other():
    symbols = [symbol for symbol, number in ATOMIC_NUMBER.items() if number <= 103]
    for symbol in ("O", "Si", "Na", "Xe", "Fe"):
        _, found = of(*({symbol: 1, other: 2} for other in symbols if other != symbol))
        assert torch.isfinite(found.token).all()
        assert torch.isfinite(found.crystal).all()


TABULATED = [symbol for symbol, number in ATOMIC_NUMBER.items() if number <= 94]


def smallest_imbalance(composition: dict[str, int]) -> float:
    """Electrons per atom that the best of all possible assignments leaves; infinite where none is possible."""
    facts, counts = charges().double(), {ATOMIC_NUMBER[symbol]: count for symbol, count in composition.items()}
    ordered = sorted(((count, facts[number]) for number, count in sorted(counts.items())), key=lambda pair: -float(pair[1][0]))
    best = math.inf
    for number in range(1, len(ordered)):
        anions, cations = ordered[:number], ordered[number:]
        if all(fact[1] < 0 for _, fact in anions) and all(fact[3] > 0 for _, fact in cations):
            taken = sum(count * float(fact[1]) for count, fact in anions)
            least, most = (taken + sum(count * float(fact[column]) for count, fact in cations) for column in (2, 3))
            best = min(best, (max(least, 0) - min(most, 0)) / sum(composition.values()))
    return best


@given(st.dictionaries(st.sampled_from(TABULATED), st.integers(1, 16), min_size=2, max_size=6))
def test_the_assignment_is_the_one_that_leaves_least(composition):
    _, found = of(composition)
    possible, excess, root, _ = found.crystal[0].tolist()
    best = smallest_imbalance(composition)
    assert bool(possible) == math.isfinite(best)
    if possible:
        assert abs(excess) == pytest.approx(best, abs=1e-5)
        assert root**2 == pytest.approx(best, abs=1e-5)
