"""Fit one volume per element on real crystals and print how well their sum tells a crystal's volume.

Usage: python benchmarks/element_volumes.py SEED_CRYSTALS.parquet [--write]

The least-squares fit is on the relative error (each crystal's row divided by its volume), on folds 2-9; folds 0-1 (other chemical
systems) test it. ``--write`` replaces ``al_crystal/data/element_volumes.json``. Elements without data take the mean volume.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from scipy.optimize import nnls

from al_crystal.crystal import ATOMIC_NUMBER, ELEMENTS

OUTPUT = Path(__file__).parents[1] / "al_crystal" / "data" / "element_volumes.json"


def fit(composition: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Non-negative volumes v (Å3) minimising |counts v / volume - 1|; counts ``(n, 118)``, cell volumes ``(n,)`` in Å3."""
    return nnls(composition / volume[:, None], np.ones(len(volume)))[0]


def main(table: Path, write: Annotated[bool, typer.Option(help="replace the shipped table")] = False) -> None:
    """Fit, test on chemical systems kept apart, print, and write on demand."""
    frame = pd.read_parquet(table)
    counts = np.zeros((len(frame), len(ELEMENTS)))
    for row, text in enumerate(frame["composition"]):
        for symbol, count in json.loads(text).items():
            counts[row, ATOMIC_NUMBER[symbol] - 1] = count
    volume = frame["volume_per_atom"].to_numpy(float) * counts.sum(1)
    train, test = (frame["fold"] >= 2).to_numpy(), (frame["fold"] < 2).to_numpy()
    known = counts[train].sum(0) > 0
    volumes = np.full(len(ELEMENTS), np.nan)
    volumes[known] = fit(counts[train][:, known], volume[train])
    volumes[~known] = np.nanmean(volumes)
    for name, rows in [("test, all", test), ("test, 22 elements", test & frame["in_22el"].to_numpy())]:
        ratio = volume[rows] / (counts[rows] @ volumes)
        inside = ((ratio > 0.6) & (ratio < 1.6)).mean()
        quantiles = np.quantile(ratio, [0.005, 0.5, 0.995])
        print(f"{name}: n = {rows.sum()}, within 0.6-1.6: {inside:.1%}, 0.5/50/99.5 % quantiles: {np.round(quantiles, 3)}")
    if write:
        text = {"about": "Å3 per atom; relative least squares on relaxed crystals, benchmarks/element_volumes.py", "rows": int(train.sum())}
        text["volumes"] = {symbol: round(float(value), 3) for symbol, value in zip(ELEMENTS, volumes, strict=True)}
        OUTPUT.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
