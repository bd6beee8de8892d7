"""The properties that the paper's rewards ask for, from the project's pretrained surrogate."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from al_crystal.crystal import CrystalBatch
    from surrogates.ensemble import Ensemble


@cache
def _ensemble() -> Ensemble:
    from surrogates.ensemble import Ensemble

    return Ensemble.pretrained()


def _mean(batch: CrystalBatch, name: str) -> torch.Tensor:
    ensemble = _ensemble()
    return ensemble.predict(batch).mean[:, list(ensemble.properties).index(name)]


def formation_energy(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV/atom."""
    return _mean(batch, "formation_energy_per_atom")


def band_gap(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV."""
    return _mean(batch, "band_gap")
