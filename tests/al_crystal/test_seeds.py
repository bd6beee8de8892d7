from __future__ import annotations

import numpy as np
import torch

from al_crystal.seeds import rng, torch_rng


def test_same_coordinates_give_the_same_numbers():
    assert np.array_equal(rng(1, 2, "pool", 3).random(5), rng(1, 2, "pool", 3).random(5))
    first, second = (torch.rand(5, generator=torch_rng(1, 2, "pool", 3)) for _ in range(2))
    assert torch.equal(first, second)


def test_every_coordinate_matters():
    places = [(0, 0, "pool", 0), (1, 0, "pool", 0), (0, 1, "pool", 0), (0, 0, "batch", 0), (0, 0, "pool", 1)]
    draws = {rng(*place).integers(2**62) for place in places}
    assert len(draws) == len(places)
    draws = {int(torch.randint(2**62, (), generator=torch_rng(*place))) for place in places}
    assert len(draws) == len(places)


def test_golden_draw():
    """A change of these numbers would make every published campaign irreproducible."""
    assert rng(0, 0, "pool").integers(10**6, size=3).tolist() == [427454, 9827, 88033]
