"""Crystals and small ensembles for the tests of the surrogates."""

from __future__ import annotations

import torch

from al_crystal.crystal import Crystal, CrystalBatch
from surrogates.calibration import Calibration
from surrogates.distance import Distance
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.network import Network, NetworkSettings

ROCK_SALT = Crystal(space_group=225, composition={"Mg": 4, "O": 4}, lattice_parameters=(4.21, 4.21, 4.21, 90, 90, 90))
SILICON = Crystal(space_group=227, composition={"Si": 8}, lattice_parameters=(5.43, 5.43, 5.43, 90, 90, 90))
PEROVSKITE = Crystal(space_group=221, composition={"Ca": 1, "Ti": 1, "O": 3}, lattice_parameters=(3.84, 3.84, 3.84, 90, 90, 90))
ORTHORHOMBIC = Crystal(space_group=62, composition={"Li": 4, "Fe": 4, "P": 4, "O": 16}, lattice_parameters=(10.3, 6.0, 4.7, 90, 90, 90))
CRYSTALS = [ROCK_SALT, SILICON, PEROVSKITE, ORTHORHOMBIC]
SMALL = NetworkSettings(width=16, hidden=24, head_hidden=12, cell_hidden=8, heads=2)


def batch(crystals: list[Crystal] = CRYSTALS) -> CrystalBatch:
    return CrystalBatch.from_crystals(crystals)


def small_ensemble(networks: int = 2) -> Ensemble:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = tuple(Network(SMALL).eval() for _ in range(networks))
    rows = Rows.from_batch(batch())
    return Ensemble(made, Calibration(), Distance.fit(rows, seed=0, axes=3, centres=4))
