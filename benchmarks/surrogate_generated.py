"""The surrogate alone about what its own sampler generates: before and after a campaign's rounds, on a random sample of each pool.

Usage: python -m benchmarks.surrogate_generated runs/NAME [--rounds 0 --rounds 5] [--number 100] [--looks 3] [--output FILE.json]

In every round a campaign trains a sampler on the surrogate of that round and draws a pool. This takes a random sample of the pools of the
rounds named (no acquisition, no look has chosen among them), looks at every crystal ``--looks`` times with its potential (default: as
often as a campaign does at most), and keeps the lowest energy in the proposed cell. Printed are the errors of that round's surrogate and of
the first ensemble: best guesses, eV/atom; crystals without an energy are counted; and the error, cut off at 1, against the lowest of
one look, of two, ...: what of it is the looks' own. The campaign may still be running; its history is not touched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from al_crystal.config import load
from al_crystal.crystal import Crystal, CrystalBatch, Value, crystals_from_frame
from al_crystal.seeds import rng
from benchmarks.surrogate_residual import errors
from oracles.engines import make_engine
from oracles.potentials import load as load_potential
from oracles.potentials import resolve
from oracles.screening import LOOKS, Screener
from surrogates.ensemble import Ensemble

ENERGY = "formation_energy_per_atom"


def sample(run: Path, number: int, size: int) -> list[Crystal]:
    """Crystals of a round's pool, drawn evenly."""
    import pandas as pd

    pool = pd.read_parquet(run / f"round-{number:03d}" / "pool.parquet")
    chosen = rng(0, number, "generated benchmark").permutation(len(pool))[:size]
    return crystals_from_frame(pool.iloc[chosen])


def main(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    rounds: Annotated[list[int], typer.Option(help="rounds to measure")] = [0, 5],  # noqa: B006  (typer's way to state a default list)
    number: Annotated[int, typer.Option(help="crystals of each pool")] = 100,
    looks: Annotated[int, typer.Option(min=1, help="looks at each crystal")] = LOOKS,
    workers: Annotated[int, typer.Option(help="processes that look")] = 2,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line a round and the ratios of the last to the first."""
    import torch

    torch.set_num_threads(1)
    campaign = load(run / "campaign.yaml")
    record = load_potential(resolve(campaign.oracles.potential, campaign.oracles.models)).record
    screener = Screener(campaign.oracles, record, campaign.seed)
    engine = make_engine(campaign.engine.model_copy(update={"workers": workers}), run / "tasks")
    pretrained = campaign.surrogate.pretrained
    began = Ensemble.load(pretrained) if pretrained else Ensemble.pretrained()
    rows = []
    for at in rounds:
        crystals = sample(run, at, number)
        found: dict[str, Value] = {}
        after: list[dict[str, float]] = []
        for attempt in range(looks):
            for label in engine.run(screener, [(crystal, attempt) for crystal in crystals]):
                look = label.proposal_properties.get(ENERGY)
                if look is not None and (label.crystal_id not in found or look.value < found[label.crystal_id].value):
                    found[label.crystal_id] = look
            after.append({crystal: value.value for crystal, value in found.items()})
        known = [crystal for crystal in crystals if crystal.id in found]
        batch, values = CrystalBatch.from_crystals(known), [found[crystal.id] for crystal in known]
        truth = np.array([value.value for value in values]), np.array([value.standard_deviation or 0.0 for value in values])
        predicted = Ensemble.load(run / f"round-{at:03d}" / "surrogate").predict(batch)
        own = errors(predicted, *truth)
        at_first = [crystal.id in after[0] for crystal in known]  # the same crystals at every depth
        for depth, values_then in enumerate(after, 1):
            lowest = np.array([values_then[crystal.id] for crystal, there in zip(known, at_first, strict=True) if there])
            wrong = np.abs(predicted.median[at_first, 0].numpy() - lowest).clip(max=1)
            own[f"lowest of {depth}"] = float(wrong.mean())
        row = {"round": float(at), "n": float(len(known)), "without an energy": float(len(crystals) - len(known))} | own
        row |= {f"{name}, first ensemble": value for name, value in errors(began.predict(batch), *truth).items()}
        rows.append(row)
        typer.echo("  ".join(f"{name} {value:.3f}".replace(".000", "") for name, value in row.items()))
    ratios = {name: rows[-1][name] / rows[0][name] for name in ("mean", "cut off at 1", "median")}
    typer.echo("last over first: " + "  ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    if output:
        output.write_text(json.dumps({"rounds": rows, "last over first": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
