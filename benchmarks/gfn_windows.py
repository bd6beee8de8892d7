"""What share of real crystals the default windows of the cell hold.

Usage: python benchmarks/gfn_windows.py SEED_CRYSTALS.parquet

Crystals of folds 3-9 with at most 5 elements, 16 atoms of each and 80 in all (any elements and groups), and those of them in the paper's
space. For each window: the share inside, and the quantiles of the data that decide it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import typer

from al_crystal.crystal import crystals_from_frame, expected_volume_per_atom
from gfn.constraints import LatticeWindows

QUANTILES = (0.001, 0.005, 0.01, 0.5, 0.99, 0.995, 0.999)


def measures(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """What each window bounds, ``(n, values)``, named as its field."""
    crystals = crystals_from_frame(frame)
    cells = np.array([crystal.lattice_parameters for crystal in crystals])
    ratio = [crystal.volume_per_atom / expected_volume_per_atom(crystal.composition) for crystal in crystals]
    return {
        "lengths": cells[:, :3],
        "angles": cells[:, 3:],
        "volume_ratio": np.array(ratio)[:, None],
        "edge_ratio": cells[:, :3] / np.prod(cells[:, :3], axis=1, keepdims=True) ** (1 / 3),
    }


def report(name: str, frame: pd.DataFrame) -> None:
    """Print the share inside each window and inside all."""
    windows = LatticeWindows()
    together = np.ones(len(frame), dtype=bool)
    heads, half = ", ".join(f"{100 * q:g} %" for q in QUANTILES), len(QUANTILES) // 2
    typer.echo(f"{name}: {len(frame)} crystals\n{'':14}{'window':>16}{'inside':>9}   quantiles {heads}")
    for field, values in measures(frame).items():
        low, high = getattr(windows, field)
        inside = ((values >= low) & (values <= high)).all(axis=1)
        together &= inside
        lowest, highest = values.min(axis=1), values.max(axis=1)
        ends = [*np.quantile(lowest, QUANTILES[:half]), np.median(values), *np.quantile(highest, QUANTILES[half + 1 :])]
        typer.echo(f"{field:14}{low:8g}{high:8g}{inside.mean():9.2%}   " + " ".join(f"{value:7.3f}" for value in ends))
    typer.echo(f"{'all of them':30}{together.mean():9.2%}")


def main(table: Path) -> None:
    """Measure and print."""
    frame = pd.read_parquet(table)
    counts = [list(json.loads(text).values()) for text in frame["composition"]]
    fits = np.array([len(row) <= 5 and max(row) <= 16 and sum(row) <= 80 for row in counts])
    frame = frame[(frame["fold"] >= 3) & fits]
    report("all elements and groups", frame)
    report("the paper's space", frame[frame["in_paper_space"]])


if __name__ == "__main__":
    typer.run(main)
