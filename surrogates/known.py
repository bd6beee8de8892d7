"""What known compounds look like to the residual: crystals whose atoms have room, and how far off the networks are about them.

They are of the fold that calibrates, described by the ensemble itself, and kept beside its weights: numbers that the residual learns beside
the measured cells of a campaign, no crystals. ``surrogates.train`` makes them; ``python -m surrogates.known`` gives them to an ensemble
that is there already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from al_crystal.seeds import torch_rng
from surrogates.ensemble import PRETRAINED, Ensemble
from surrogates.residual import Scores
from surrogates.tables import CALIBRATION_FOLDS, KEPT_APART, Table, seed_table
from surrogates.wrong_cells import load_function

NUMBER = 400
"""Compounds; enough that real crystals stay where they were (docs/surrogates.md), few beside what a campaign measures."""


def scores_of_compounds(ensemble: Ensemble, table: Table, number: int = NUMBER) -> Scores:
    """Of some rows of a table, drawn evenly from those that state a cell and an energy, as the sampler is served: source unknown."""
    whole = ~table.rows.lattice_parameters.isnan().any(1) & ~table.targets[:, 0].isnan()
    order = torch.randperm(int(whole.sum()), generator=torch_rng(0, 0, "known compounds"))[:number]
    some = table[whole.nonzero()[:, 0][order]]
    predicted = ensemble.predict_rows(some.rows)
    return Scores.of(some.rows, predicted, some.targets[:, 0] - predicted.median[:, 0])


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    ensemble: Annotated[Path, typer.Option(help="folder; default: the one shipped")] = PRETRAINED,
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in surrogates.train")] = None,
) -> None:
    """Describe known compounds and write them beside the weights of an ensemble."""
    torch.set_num_threads(1)
    table = seed_table(data, {}, load_function(shift) if shift else None).without(KEPT_APART).of_folds(CALIBRATION_FOLDS)
    found = scores_of_compounds(Ensemble.load(ensemble), table)
    found.save(ensemble)
    typer.echo(f"{len(found.z)} compounds, z {float(found.z.mean()):+.2f} on average")


if __name__ == "__main__":
    typer.run(main)
