"""What a campaign's sampler proposed, round by round: how sure the surrogate was, how many kinds there were, how many were new.

Usage: python -m benchmarks.campaign_pools runs/NAME [runs/OTHER ...] [--output FILE.json]

One line for every pool that is there: crystals with room for their atoms, the mean standard deviation and prediction of the formation
energy (eV/atom), the share whose predicted gap lies within 0.25 eV of 1.34 eV, numbers of chemical systems, formulas and space groups, and
the shares whose formula and group, or whose chemical system, was measured in an earlier round. No label is needed, no potential.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from al_crystal.crystal import crystals_from_frame
from al_crystal.history import read
from benchmarks.surrogate_generated import ENERGY, repeats

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.crystal import Crystal

GAP, WIDTH = 1.34, 0.25
"""eV: the optimum of a single-junction cell, and what the solar campaigns count as near it."""


def described(pool: pd.DataFrame, before: list[Crystal]) -> dict[str, float]:
    """What a pool holds, and how much of it was measured before."""
    crystals = crystals_from_frame(pool)
    return {
        "crystals": len(crystals),
        "standard deviation": float(pool[f"predicted_{ENERGY}_std"].mean()),
        "energy": float(pool[f"predicted_{ENERGY}"].mean()),
        "gap on target": float(np.mean(np.abs(pool["predicted_band_gap"] - GAP) < WIDTH)),
        "systems": len({one.chemical_system for one in crystals}),
        "formulas": len({one.formula for one in crystals}),
        "groups": len({one.space_group for one in crystals}),
    } | repeats(crystals, before)


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs")],
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line a pool."""
    import pandas as pd

    rows = []
    for run in runs:
        state = read(run / "history.jsonl")
        for number, path in enumerate(sorted(run.glob("round-*/pool.parquet"))):
            row = {"run": run.name, "round": number} | described(pd.read_parquet(path), state.measured(number))
            typer.echo("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()))
            rows.append(row)
    if output:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
