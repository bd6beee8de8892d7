"""The properties that the paper's rewards ask for, from the project's pretrained surrogate."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from al_crystal.crystal import CrystalBatch
    from al_crystal.stability import Hull
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


def formation_energy_in_the_best_cell(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV/atom without what the stated cell costs: what the surrogate says of group and composition alone."""
    predictions = _ensemble().predict(batch)
    return predictions.mean[:, list(_ensemble().properties).index("formation_energy_per_atom")] - predictions.strain


def band_gap(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV."""
    return _mean(batch, "band_gap")


@cache
def _hull() -> Hull:
    from al_crystal.stability import Hull

    folder = os.environ.get("AL_CRYSTAL_DATA")
    if folder is None:
        raise ValueError("the hull is read from $AL_CRYSTAL_DATA/mp_hull_entries_matbench.csv.gz: set AL_CRYSTAL_DATA")
    return Hull.from_file(Path(folder) / "mp_hull_entries_matbench.csv.gz", "PBE")


def _above_hull(batch: CrystalBatch, energies: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(_hull().energies_above([crystal.composition for crystal in batch], energies.double().numpy()))


def energy_above_hull(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV/atom: the surrogate's formation energy minus the Materials Project's hull."""
    return _above_hull(batch, formation_energy(batch))


def energy_above_hull_in_the_best_cell(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` eV/atom: the same without what the stated cell costs."""
    return _above_hull(batch, formation_energy_in_the_best_cell(batch))
