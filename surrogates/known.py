"""What known compounds look like to the residual: crystals whose atoms have room, and how far off the networks are about them.

``python -m surrogates.known`` describes compounds of the fold that calibrates, with the shipped ensemble, and writes
``surrogates/pretrained/known.safetensors``: numbers that the residual learns beside the measured cells of a campaign, no crystals. An
ensemble of other weights needs a file of its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from al_crystal.seeds import torch_rng
from surrogates.ensemble import PRETRAINED, Ensemble
from surrogates.residual import Scores
from surrogates.tables import CALIBRATION_FOLDS, KEPT_APART, Table, seed_table
from surrogates.wrong_cells import load_function

FILE = PRETRAINED / "known.safetensors"
NUMBER = 200
"""Compounds; enough that real crystals stay where they were (docs/surrogates.md), few beside what a campaign measures."""


@cache
def known_scores() -> Scores:
    """The shipped ones.

    Raises:
        FileNotFoundError: when the file is missing.
    """
    from safetensors.torch import load_file

    if not FILE.exists():
        raise FileNotFoundError(f"{FILE} is missing; make it with python -m surrogates.known")
    tensors = load_file(FILE)
    return Scores(tensors["described"].double(), tensors["z"].double())


def scores_of_compounds(ensemble: Ensemble, table: Table, number: int = NUMBER) -> Scores:
    """Of some rows of a table, drawn evenly from those that state a cell and an energy, as the sampler is served: source unknown."""
    whole = ~table.rows.lattice_parameters.isnan().any(1) & ~table.targets[:, 0].isnan()
    order = torch.randperm(int(whole.sum()), generator=torch_rng(0, 0, "known compounds"))[:number]
    some = table[whole.nonzero()[:, 0][order]]
    predicted = ensemble.predict_rows(some.rows)
    return Scores.of(some.rows, predicted, some.targets[:, 0] - predicted.median[:, 0])


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in surrogates.train")] = None,
) -> None:
    """Describe known compounds and write them beside the shipped ensemble."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    table = seed_table(data, {}, load_function(shift) if shift else None).without(KEPT_APART).of_folds(CALIBRATION_FOLDS)
    found = scores_of_compounds(Ensemble.pretrained("float32"), table)
    save_file({"described": found.described.float(), "z": found.z.float()}, FILE)
    typer.echo(f"{len(found.z)} compounds, z {float(found.z.mean()):+.2f} on average, {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
