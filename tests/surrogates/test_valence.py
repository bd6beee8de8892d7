import pytest
import torch

from al_crystal.crystal import ATOMIC_NUMBER
from surrogates.features import Rows
from surrogates.valence import TOKEN_FEATURES, valences


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
