"""The rows that an ensemble is measured on, the rows it was trained on, and what a measured number is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from surrogates.tables import KEPT_APART, TEST_FOLDS, TRAIN_FOLDS, Shift, Table, join, matbench_table, seed_table


@dataclass(frozen=True)
class Measure:
    """One number with what it is and on how many rows.

    ``alone`` and ``spread`` are the mean and the standard deviation of the same number over the trunks alone, each an independent seed.
    """

    name: str
    value: float
    rows: int
    alone: float | None = None
    spread: float | None = None


@dataclass(frozen=True)
class TestSets:
    """The held-out rows: seed crystals without the sources kept apart, MatBench, WBM (all folds: none of it trained), JARVIS (likewise)."""

    seed: Table
    matbench: Table
    wbm: Table
    jarvis: Table

    @classmethod
    def load(cls, data: Path, shift: Shift | None = None) -> TestSets:
        """Read the development data; targets are carried to the scale of 2020."""
        report: dict[str, int] = {}
        seed = seed_table(data, report, shift)
        origin = seed.columns["origin"]
        apart = [seed[torch.tensor(origin == name)] for name in KEPT_APART]
        return cls(seed.without(KEPT_APART).of_folds(TEST_FOLDS), matbench_table(data, report, shift).of_folds(TEST_FOLDS), *apart)


def training_rows(data: Path, shift: Shift | None) -> Table:
    """The rows that the shipped ensemble was trained on."""
    report: dict[str, int] = {}
    return join([seed_table(data, report, shift).without(KEPT_APART), matbench_table(data, report, shift)]).of_folds(TRAIN_FOLDS)
