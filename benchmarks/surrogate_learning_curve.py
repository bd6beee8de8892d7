"""Held-out error of one trunk against the number of training rows.

Usage: python -m benchmarks.surrogate_learning_curve --shift benchmarks.surrogate_scale:shift [--data FOLDER] [--epochs 6] [--output FILE]

Random shares of the rows of folds 3-9 and all of them, tested on folds 0-1 (source given on MatBench rows, source and cell hidden on seed
rows). The settings are those of training but for the number of passes, and no wrong cells are shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from surrogates.learning import TrainingSettings, train_network
from surrogates.tables import KEPT_APART, join, matbench_table, seed_table
from surrogates.train import TEST_FOLDS, TRAIN_FOLDS, of_folds, run, without
from surrogates.wrong_cells import load_function


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA")],
    epochs: Annotated[
        float, typer.Option(help="passes at the full table; smaller shares get as many steps as a third of it, up to four times the passes")
    ] = 6,
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in surrogates.train")] = None,
    output: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Train on growing shares and print the errors."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report: dict[str, int] = {}
    convert = load_function(shift) if shift else None
    seed, matbench = without(seed_table(data, report, convert), KEPT_APART), matbench_table(data, report, convert)
    train = of_folds(join([seed, matbench]), TRAIN_FOLDS)
    test_seed, test_matbench = of_folds(seed, TEST_FOLDS).without_cells(), of_folds(matbench, TEST_FOLDS).as_published()
    rows = []
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    for share in (0.03, 0.1, 0.3, 1.0):
        part = train[order[: round(share * len(train))]]
        settings = TrainingSettings(epochs=max(epochs, min(4 * epochs, epochs / 3 / share)))
        network = train_network(part, None, settings, torch.Generator().manual_seed(0))
        row: dict[str, float] = {"rows": len(part), "epochs": settings.epochs}
        for name, table, source in (
            ("seed", test_seed, torch.zeros_like(test_seed.source)),
            ("MatBench", test_matbench, test_matbench.source),
        ):
            found = run((network,), table.rows, source)
            for column, value in enumerate((found.energy.mean(0), found.gap.clamp(min=0).mean(0))):
                difference = value - table.targets[:, column]
                row[f"{name} {'energy' if column == 0 else 'gap'}"] = float(difference[~difference.isnan()].abs().mean())
        rows.append(row)
        typer.echo("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if output:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
