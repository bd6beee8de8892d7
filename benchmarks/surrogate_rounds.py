"""Does fine-tuning learn from round to round without forgetting? Errors after each of five rounds of labels.

Usage: python benchmarks/surrogate_rounds.py --data FOLDER [--history RUN/history.jsonl] [--output FILE.json]

With ``--history`` the labels are those of a campaign: every fifth candidate (by id) is kept apart from all rounds and tested on,
the others are learned in the order they were labelled, in five equal rounds. Without it, crystals of WBM stand in for generated ones
(made by element substitution, DFT labels, no row of it in pretraining): 100 labels a round, tested on 2,000 others. Forgetting is measured
on 4,000 real crystals of folds 0-1.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from al_crystal.crystal import Crystal, Observation, Value, crystals_from_frame
from surrogates.ensemble import Ensemble
from surrogates.settings import SurrogateSettings
from surrogates.tables import KEPT_APART, PROPERTIES, REFERENCE_LEVEL, Table, matbench_table, seed_table
from surrogates.train import TEST_FOLDS, of_folds, without
from surrogates.training import fine_tune, observation_table

ROUNDS = 5


def wbm_observations(data: Path, number: int, seed: int) -> list[Observation]:
    """Random WBM rows as observations at the reference level."""
    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    frame = frame[frame["source"] == "wbm_val10k"].sample(number, random_state=np.random.default_rng(seed))

    def observation(crystal: Crystal, values: tuple[float, ...]) -> Observation:
        stated = {n: Value(value=v, level_of_theory=REFERENCE_LEVEL) for n, v in zip(PROPERTIES, values, strict=True) if np.isfinite(v)}
        return Observation(crystal=crystal, properties=stated, group=crystal.id, kind="relaxed")

    values = frame[list(PROPERTIES)].to_numpy(float)
    return [observation(crystal, tuple(row)) for crystal, row in zip(crystals_from_frame(frame), values, strict=True)]


def history_observations(file: Path) -> tuple[list[Observation], list[Observation]]:
    """The observations of a campaign in order, and those of every fifth candidate."""
    from al_crystal.history import read

    rows = read(file).observations()
    apart = [int(hashlib.md5(row.group.encode()).hexdigest(), 16) % 5 == 0 for row in rows]
    return [row for row, kept in zip(rows, apart, strict=True) if not kept], [row for row, kept in zip(rows, apart, strict=True) if kept]


def error(ensemble: Ensemble, table: Table, column: int) -> float:
    """Mean absolute error as served."""
    difference = ensemble.predict_rows(table.rows).mean[:, column] - table.targets[:, column]
    return float(difference[~difference.isnan()].abs().mean())


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA")],
    history: Annotated[Path | None, typer.Option(help="history.jsonl of a campaign")] = None,
    start: Annotated[str, typer.Option(help="warm or cold")] = "cold",
    seeds: Annotated[int, typer.Option(help="repetitions with other seeds")] = 1,
    output: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Run the rounds and print one line each."""
    torch.set_num_threads(1)
    settings = SurrogateSettings.model_validate({"start": start})
    pretrained, rows = Ensemble.pretrained(), []
    report: dict[str, int] = {}
    real = [of_folds(without(seed_table(data, report), KEPT_APART), TEST_FOLDS), of_folds(matbench_table(data, report), TEST_FOLDS)]
    real = [table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:2000]] for table in real]
    for seed in range(seeds):
        if history:
            learned, tested = history_observations(history)
        else:
            observations = wbm_observations(data, 2000 + 100 * ROUNDS, seed)
            learned, tested = observations[2000:], observations[:2000]
        levels = tuple({value.level_of_theory for row in tested + learned for value in row.properties.values()} - {REFERENCE_LEVEL})
        test, _ = observation_table(tested, levels, settings)
        ensemble = pretrained
        for number in range(ROUNDS + 1):
            begin = time.process_time()
            if number:
                ensemble = fine_tune(ensemble, learned[: round(len(learned) * number / ROUNDS)], settings, seed)
            row = {
                "seed": seed,
                "round": number,
                "labels": round(len(learned) * number / ROUNDS),
                "cpu_seconds": round(time.process_time() - begin, 1),
            }
            for column, name in enumerate(PROPERTIES):
                row |= {
                    f"generated {name}": error(ensemble, test, column),
                    f"real {name}": float(np.mean([error(ensemble, t, column) for t in real])),
                }
            rows.append(row)
            typer.echo("  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    if output:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
