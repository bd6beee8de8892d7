"""Rows that stand for inventions: crystals of elements that no training row holds together.

What a sampler proposes differs from held-out rows of a table of known compounds, and no table says how large the errors are there. So a
second ensemble, the scouts, is trained as the first is, but without every row that holds one of some randomly drawn **pairs of
elements**. On these rows it knows each element and not their company, as the served ensemble does on a proposal: how errors grow with the
members' disagreement, the learned scale and the distance is read off them.
"""

from __future__ import annotations

import torch

from al_crystal.seeds import torch_rng
from surrogates.features import Rows, element_table

SHARE = 0.1
"""Share of all pairs that are drawn; a crystal of three elements holds three pairs, so a good quarter of the rows is left out."""


def uncharted_pairs(seed: int, share: float = SHARE) -> torch.Tensor:
    """``(104, 104)`` booleans by atomic numbers, symmetric: the pairs that are drawn."""
    count = len(element_table())
    drawn = torch.rand(count, count, generator=torch_rng(seed, 0, "uncharted pairs")).triu(1) > 1 - share
    drawn[0] = False  # padding
    return drawn | drawn.T


def uncharted(rows: Rows, pairs: torch.Tensor) -> torch.Tensor:
    """``(n,)`` whether a crystal holds one of the ``pairs``."""
    found = torch.zeros(len(rows), dtype=torch.bool)
    for elements in rows.elements.unbind(1):
        found |= pairs[elements[:, None], rows.elements].any(1)
    return found
