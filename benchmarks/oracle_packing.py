"""Room for the atoms: what the packing search says of real crystals, and of crystals about which the surrogate was wrong.

Usage: python -m benchmarks.oracle_packing runs/NAME [runs/OTHER ...] [--number 400] [--output FILE.json]

Real crystals are a random sample of the seed table's folds 0-1 (whose structures taught the shortest distances nothing) inside the space
of the first run's campaign; for several limits the share that has room is printed, and CPU seconds a crystal. Then, of everything that the
runs looked at, by classes of overlap: how many, and the error of the shipped ensemble, eV/atom, against the look: median, mean cut off at
1, share above 0.3 and above 1. Runs whose pools were not filtered (``selection: {overlap: null}``) say most.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from al_crystal.config import Campaign, load
from al_crystal.crystal import LATTICE_PARAMETERS, Crystal, CrystalBatch
from al_crystal.seeds import rng
from benchmarks.surrogate_residual import looks
from oracles.packing import overlap
from surrogates.ensemble import Ensemble
from surrogates.tables import TEST_FOLDS

LIMITS = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


def real_crystals(data: Path, campaign: Campaign, number: int) -> list[Crystal]:
    """Held-out crystals of the seed table that the campaign's sampler may propose."""
    import pandas as pd

    from gfn.environment import CrystalEnvironment

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    frame = frame[frame["fold"].isin(TEST_FOLDS) & (frame["n_atoms"] <= campaign.space.atoms[1])]
    environment, found = CrystalEnvironment(campaign.space), []
    for row in rng(0, 0, "packing benchmark").permutation(len(frame)):
        record = frame.iloc[row]
        crystal = Crystal(
            space_group=int(record["space_group_number"]),
            composition={symbol: int(count) for symbol, count in json.loads(record["composition"]).items()},
            lattice_parameters=tuple(float(record[name]) for name in LATTICE_PARAMETERS),
        )
        if not environment.contains(crystal):
            found.append(crystal)
        if len(found) == number:
            break
    return found


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of screened campaigns")],
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="development data, for the real crystals")],
    number: Annotated[int, typer.Option(help="real crystals")] = 400,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line on real crystals and one for each class of overlap."""
    real = real_crystals(data, load(runs[0] / "campaign.yaml"), number)
    overlap(real[0])  # compiles
    start = time.process_time()
    of_real = np.array([overlap(crystal, LIMITS[0]) for crystal in real])
    line = {f"{limit:g}": float((of_real <= limit).mean()) for limit in LIMITS}
    typer.echo(f"{len(real)} real crystals, {(time.process_time() - start) / len(real):.3f} CPU-s each; with room, by limit: {line}")
    crystals, energies, _ = looks(runs)
    start = time.process_time()
    of_looks = np.array([overlap(crystal, LIMITS[0]) for crystal in crystals])
    typer.echo(f"{len(crystals)} crystals looked at, {(time.process_time() - start) / len(crystals):.3f} CPU-s each")
    error = np.abs(Ensemble.pretrained().predict(CrystalBatch.from_crystals(crystals)).median[:, 0].numpy() - energies)
    rows = []
    for above, limit in zip((-1.0, *LIMITS), (*LIMITS, np.inf), strict=True):
        own = error[(of_looks > above) & (of_looks <= limit)]
        if len(own):
            shares = {"above 0.3": float((own > 0.3).mean()), "above 1": float((own > 1).mean())}
            means = {"median": float(np.median(own)), "cut off at 1": float(own.clip(max=1).mean())}
            rows.append({"overlap up to": float(limit), "n": len(own)} | means | shares)
            typer.echo("  ".join(f"{name} {value:.3g}" for name, value in rows[-1].items()))
    if output:
        output.write_text(json.dumps({"real": line, "looked at": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
