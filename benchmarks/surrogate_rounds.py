"""Does fine-tuning learn from round to round without forgetting? Errors after each of five rounds of labels.

Usage: python benchmarks/surrogate_rounds.py --data FOLDER --shift MODULE:FUNCTION [--labels FILE.jsonl --crystals FILE.parquet]
[--history RUN/history.jsonl] [--seeds 3] [--output FILE.json]

With ``--labels`` (of ``python -m oracles.label CRYSTALS --output LABELS``) or ``--history`` (of a campaign) the crystals are
generated ones, a campaign's looks at crystals that it passed over among them. They are split by chemical system: a share is kept apart
from all rounds and tested on, the others are learned in five equal rounds; every seed splits anew. Without either, crystals of WBM stand
in (made by element substitution, DFT labels, no row of it in pretraining). Forgetting is measured on 4,000 real crystals of folds 0-1.
Errors are of best guesses, as served; those of generated crystals at the level of theory of their labels (correction as learned, none
before).
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

from al_crystal.crystal import Crystal, CrystalBatch, Label, Observation, Value, crystals_from_frame
from surrogates.ensemble import Ensemble
from surrogates.settings import SurrogateSettings
from surrogates.tables import KEPT_APART, PROPERTIES, REFERENCE_LEVEL, TEST_FOLDS, Shift, Table, matbench_table, seed_table
from surrogates.training import fine_tune
from surrogates.wrong_cells import load_function

ROUNDS = 5


def wbm_observations(data: Path, number: int, seed: int, shift: Shift | None) -> list[Observation]:
    """Random WBM rows as observations at the reference level."""
    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    frame = frame[frame["source"] == "wbm_val10k"].sample(number, random_state=np.random.default_rng(seed))

    def observation(crystal: Crystal, values: tuple[float, ...]) -> Observation:
        stated = {n: Value(value=v, level_of_theory=REFERENCE_LEVEL) for n, v in zip(PROPERTIES, values, strict=True) if np.isfinite(v)}
        return Observation(crystal=crystal, properties=stated, group=crystal.id, kind="relaxed")

    values = frame[list(PROPERTIES)].to_numpy(float)
    if shift:
        values[:, 0] += [shift(json.loads(text)) for text in frame["composition"]]
    return [observation(crystal, tuple(row)) for crystal, row in zip(crystals_from_frame(frame), values, strict=True)]


def history_observations(file: Path) -> list[Observation]:
    """What a campaign measured, round by round: its labels, and its looks at crystals that were passed over."""
    from al_crystal.history import read
    from al_crystal.screening import Correction, observations_of_looks, screened_and_labelled

    state = read(file)
    labelled = list(state.labelled())
    correction = Correction.fit(screened_and_labelled(state))
    found: list[Observation] = []
    for number, entry in enumerate(state.rounds):
        found += [row for at, candidate, label in labelled if at == number for row in label.observations(candidate.crystal)]
        found += observations_of_looks(entry.passed_over, correction)
    return found


def label_observations(labels: Path, crystals: Path) -> list[Observation]:
    """The observations of labels made by hand, with the crystals they are of."""
    import pandas as pd

    by_id = {crystal.id: crystal for crystal in crystals_from_frame(pd.read_parquet(crystals))}
    found = [Label.model_validate_json(line) for line in labels.read_text().splitlines()]
    return [row for label in found for row in label.observations(by_id[label.crystal_id])]


def split(observations: list[Observation], seed: int, share: float) -> tuple[list[Observation], list[Observation]]:
    """Learned and tested rows: whole chemical systems (those of the proposals) are kept apart, about ``share`` of them."""
    system: dict[str, str] = {}
    for row in observations:
        if row.kind in ("proposal", "look") or row.group not in system:
            system[row.group] = row.crystal.chemical_system

    def apart(row: Observation) -> bool:
        return int(hashlib.md5(f"{seed} {system[row.group]}".encode()).hexdigest(), 16) % 1000 < 1000 * share

    return [row for row in observations if not apart(row)], [row for row in observations if apart(row)]


def error(ensemble: Ensemble, table: Table, column: int) -> float:
    """Mean absolute error as served."""
    difference = ensemble.predict_rows(table.rows).median[:, column] - table.targets[:, column]
    return float(difference[~difference.isnan()].abs().mean())


def generated_errors(ensemble: Ensemble, rows: list[Observation]) -> dict[str, float]:
    """Errors of best guesses about generated crystals: energies of proposed cells (of labels and of looks) and of relaxed ones, gaps."""
    found: dict[str, list[float]] = {}
    for level in sorted({value.level_of_theory for row in rows for name, value in row.properties.items() if name in PROPERTIES}):
        known = level if level in (REFERENCE_LEVEL, *ensemble.levels) else None
        predicted = ensemble.predict(CrystalBatch.from_crystals([row.crystal for row in rows]), known).median
        for row, values in zip(rows, predicted.tolist(), strict=True):
            for name, value in zip(PROPERTIES, values, strict=True):
                label = row.properties.get(name)
                if label is not None and label.level_of_theory == level:
                    found.setdefault(f"{name} {row.kind}", []).append(abs(value - label.value))
                    found.setdefault(name, []).append(abs(value - label.value))
    return {f"generated {name}": float(np.mean(errors)) for name, errors in found.items()} | {
        f"generated {name}, median": float(np.median(errors)) for name, errors in found.items()
    }


def real_tables(data: Path, shift: Shift | None) -> list[Table]:
    """2,000 seed rows and 2,000 MatBench rows of folds 0-1."""
    report: dict[str, int] = {}
    real = [
        seed_table(data, report, shift).without(KEPT_APART).of_folds(TEST_FOLDS),
        matbench_table(data, report, shift).of_folds(TEST_FOLDS),
    ]
    return [table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:2000]] for table in real]


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA")],
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in surrogates.train")] = None,
    labels: Annotated[Path | None, typer.Option(help="labels of generated crystals, output of oracles.label")] = None,
    crystals: Annotated[Path | None, typer.Option(help="the table of the crystals that were labelled")] = None,
    history: Annotated[Path | None, typer.Option(help="history.jsonl of a campaign")] = None,
    settings: Annotated[str, typer.Option(help="settings of the section surrogate that differ, as JSON")] = "{}",
    seeds: Annotated[int, typer.Option(help="repetitions with other seeds and splits")] = 1,
    output: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Run the rounds and print one line each."""
    torch.set_num_threads(1)
    tuning = SurrogateSettings.model_validate_json(settings)
    convert = load_function(shift) if shift else None
    real, rows = real_tables(data, convert), []
    for seed in range(seeds):
        if labels and crystals:
            learned, tested = split(label_observations(labels, crystals), seed, 0.3)
        elif history:
            learned, tested = split(history_observations(history), seed, 0.3)
        else:
            observations = wbm_observations(data, 2000 + 100 * ROUNDS, seed, convert)
            learned, tested = observations[2000:], observations[:2000]
        groups = list(dict.fromkeys(row.group for row in learned))
        if not history:
            groups = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
        ensemble = Ensemble.pretrained()
        for number in range(ROUNDS + 1):
            begin = time.process_time()
            known = set(groups[: round(len(groups) * number / ROUNDS)])
            if known:
                ensemble = fine_tune(ensemble, [row for row in learned if row.group in known], tuning, seed)
            row: dict[str, float] = {"seed": seed, "round": number, "labelled": len(known), "tested": len({row.group for row in tested})}
            row |= {"cpu_seconds": round(time.process_time() - begin, 1)} | generated_errors(ensemble, tested)
            row |= {f"real {name}": float(np.mean([error(ensemble, t, c) for t in real])) for c, name in enumerate(PROPERTIES)}
            rows.append(row)
            typer.echo("  ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    if output:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
