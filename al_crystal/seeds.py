"""Randomness by coordinates: the same (seed, round, stage, index) gives the same numbers in any order of execution.

No global generator is ever seeded, so a campaign that was killed and resumed draws what an uninterrupted one draws.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _sequence(seed: int, round: int, stage: str, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, round, zlib.crc32(stage.encode()), index])


def rng(seed: int, round: int, stage: str, index: int = 0) -> np.random.Generator:
    """A numpy generator for one place in a campaign (``stage`` is a word such as ``"pool"``; all integers are >= 0)."""
    return np.random.default_rng(_sequence(seed, round, stage, index))


def torch_rng(seed: int, round: int, stage: str, index: int = 0) -> torch.Generator:
    """A torch CPU generator for one place in a campaign, independent of :func:`rng` at the same place."""
    import torch

    state = int(_sequence(seed, round, f"torch/{stage}", index).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))
