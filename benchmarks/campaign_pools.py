"""What a campaign's sampler proposed, round by round: how sure the surrogate was, how many kinds there were, how many were new.

Usage: python -m benchmarks.campaign_pools runs/NAME [runs/OTHER ...] [--output FILE.json]

One line for every pool that is there: crystals with room for their atoms, the mean standard deviation and prediction of the formation
energy (eV/atom), for every target of the campaign the share predicted to be on it, numbers of chemical systems, formulas and space
groups, and the shares whose formula and group, or whose chemical system, was measured in an earlier round. No label is needed, no
potential.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from al_crystal.config import load
from al_crystal.crystal import crystals_from_frame
from al_crystal.history import read
from benchmarks.surrogate_generated import ENERGY, repeats

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.crystal import Crystal
    from al_crystal.objective import Objective

ON_TARGET = np.exp(-0.5)
"""Desirability from which a property counts as on its target: that within one width of a wanted value."""


def described(pool: pd.DataFrame, objective: Objective, before: list[Crystal]) -> dict[str, float]:
    """What a pool holds, how much of it is predicted to be on target, and how much of it was measured before."""
    import torch

    crystals = crystals_from_frame(pool)
    predicted = {name: torch.tensor(pool[f"predicted_{name}"].to_numpy()) for name in objective.properties}
    on_target = {name: objective.targets[name].desirability(value) >= ON_TARGET for name, value in predicted.items()}
    return {
        "crystals": len(crystals),
        "standard deviation": float(pool[f"predicted_{ENERGY}_std"].mean()),
        "energy": float(pool[f"predicted_{ENERGY}"].mean()),
        **{f"{name} on target": float(share.double().mean()) for name, share in on_target.items()},
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
        objective, state = load(run / "campaign.yaml").objective, read(run / "history.jsonl")
        for number, path in enumerate(sorted(run.glob("round-*/pool.parquet"))):
            row = {"run": run.name, "round": number} | described(pd.read_parquet(path), objective, state.measured(number))
            typer.echo("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()))
            rows.append(row)
    if output:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
