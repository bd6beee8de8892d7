"""What the experience of other campaigns is worth in the first round of a campaign (:mod:`al_crystal.experience`).

Usage: python -m benchmarks.surrogate_experience runs/NAME runs/OTHER [...] [--number 700] [--output FILE.json]

Each run in turn is a campaign that begins without any experience, or with that of the other runs. Printed are the errors about everything
that its first round looked at (surrogate alone, best guess against the look; eV/atom: mean, cut off at 1, median, share inside the 90 %
interval, rank correlation of error and standard deviation), and of beliefs about its first picks (surrogate and look) against their labels.
The runs must have begun without experience (``surrogate: {experience: false}``), so that what was looked at and picked owes nothing to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from al_crystal.crystal import CrystalBatch
from al_crystal.experience import NUMBER, gathered
from al_crystal.history import State, read
from al_crystal.screening import ENERGY, Correction, evenly, remembered, screened_and_labelled
from benchmarks.surrogate_residual import errors
from surrogates.ensemble import Ensemble
from surrogates.settings import SurrogateSettings
from surrogates.training import fine_tune


def about_looks(state: State, ensemble: Ensemble) -> dict[str, float]:
    """Errors of an ensemble about everything that the first round looked at."""
    looks = state.rounds[0].looks
    values = [one.screening.formation_energy_per_atom for one in looks]
    energies = np.array([value.value for value in values])
    noise = np.array([value.standard_deviation or 0.0 for value in values])
    return errors(ensemble.predict(CrystalBatch.from_crystals([one.crystal for one in looks])), energies, noise)


def about_picks(state: State, correction: Correction | None) -> dict[str, float]:
    """Errors of the beliefs about the first picks: of the surrogate where nothing has shown what a look is worth."""
    pairs = screened_and_labelled(state, before_round=1)
    truth = np.array([label.value for _, label in pairs])
    screenings = [screening for screening, _ in pairs]
    if correction is not None:
        believed, _ = correction(screenings)
    else:
        believed = np.array([one.surrogate.mean[ENERGY] for one in screenings])
    wrong = np.abs(believed - truth)
    return {"picks": float(len(pairs)), "picked: mean": float(wrong.mean()), "picked: median": float(np.median(wrong))}


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of screened campaigns, two at least")],
    number: Annotated[int, typer.Option(min=1, help="crystals of the other runs that are learned, taken evenly")] = NUMBER,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print two lines a run: without and with the experience of the others."""
    torch.set_num_threads(1)
    states = {run: read(run / "history.jsonl") for run in runs}
    settings, table = SurrogateSettings(), []
    for run, state in states.items():
        others = [one for other, its_state in states.items() if other != run for one in gathered(its_state)]
        for earlier in ([], evenly(others, number)):
            correction = Correction.before(State(), 0, earlier)
            ensemble = fine_tune(Ensemble.pretrained(), remembered(earlier, correction), settings, seed=0)
            row = {"experience": float(len(earlier))} | about_looks(state, ensemble) | about_picks(state, correction)
            table.append({"run": run.name} | row)
            typer.echo(f"{run.name}: " + "  ".join(f"{name} {value:.3f}".replace(".000", "") for name, value in row.items()))
    if output:
        output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
