"""What measured cells teach about other chemical systems: the residual of :mod:`surrogates.residual` on looks that it did not learn.

Usage: python -m benchmarks.surrogate_residual runs/NAME [runs/OTHER ...] [--seeds 3] [--proposals-alone] [--output FILE.json]

All crystals that screened campaigns looked at, picked or passed over, are split into five parts by chemical system; each part is predicted
by the shipped ensemble with a residual that learned so many of the others, and by the ensemble alone. Printed for each number of
learned cells: errors against the look (best guess, eV/atom; mean, cut off at 1 eV/atom, median), share inside the 90 % interval, rank
correlation of error and standard deviation, error on 2,000 real crystals of folds 0-1 with their cells (where the development data is), and
CPU seconds of a fit; mean and standard deviation over seeds, which draw what is learned. ``--proposals-alone`` leaves out the known
compounds that are learned beside them, to see what they are for.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from al_crystal.crystal import Crystal, CrystalBatch
from al_crystal.experience import gathered
from al_crystal.history import read
from al_crystal.seeds import rng
from benchmarks.surrogate_rounds import error, real_tables
from benchmarks.surrogate_scale import shift
from surrogates.ensemble import Ensemble, Predictions
from surrogates.features import Rows
from surrogates.residual import Residual, Scores

PARTS = 5
SIZES = (100, 200, 400, 800)


def looks(runs: list[Path]) -> tuple[list[Crystal], np.ndarray, np.ndarray]:
    """Every crystal that the runs looked at, once; the formation energy (eV/atom) that the look reached, and its standard deviation."""
    found = {one.look.crystal.id: one.look for run in runs for one in gathered(read(run / "history.jsonl"))}
    values = [look.screening.formation_energy_per_atom for look in found.values()]
    noise = np.array([value.standard_deviation or 0.0 for value in values])
    return [look.crystal for look in found.values()], np.array([value.value for value in values]), noise


def part_of(crystal: Crystal) -> int:
    """Which of the parts a crystal's chemical system belongs to."""
    return int(hashlib.md5(f"residual {crystal.chemical_system}".encode()).hexdigest(), 16) % PARTS


def errors(predicted: Predictions, energies: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """Of best guesses and intervals about energies with standard deviations ``noise``."""
    from scipy.stats import spearmanr

    error = np.abs(predicted.median[:, 0].numpy() - energies)
    deviation = predicted.standard_deviation[:, 0].numpy()
    inside = np.abs(predicted.mean[:, 0].numpy() - energies) <= 1.6449 * np.hypot(deviation, noise)
    return {
        "mean": float(error.mean()),
        "cut off at 1": float(np.minimum(error, 1).mean()),
        "median": float(np.median(error)),
        "within 90 %": float(inside.mean()),
        "rank": float(spearmanr(error, deviation).statistic),
    }


def joined(parts: list[Predictions], order: np.ndarray) -> Predictions:
    """Predictions of the parts as those of all crystals; ``order`` says where each row belongs."""
    back = torch.tensor(np.argsort(order))
    values = {name: torch.cat([getattr(part, name) for part in parts])[back] for name in ("median", "mean", "standard_deviation")}
    return replace(parts[0], **values)


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of screened campaigns")],
    seeds: Annotated[int, typer.Option(help="repetitions")] = 3,
    data: Annotated[Path | None, typer.Option(envvar="AL_CRYSTAL_DATA", help="development data, for the real crystals")] = None,
    proposals_alone: Annotated[bool, typer.Option("--proposals-alone", help="learn no known compounds")] = False,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line for each number of learned cells."""
    torch.set_num_threads(1)
    crystals, energies, noise = looks(runs)
    rows = Rows.from_batch(CrystalBatch.from_crystals(crystals))
    part = np.array([part_of(crystal) for crystal in crystals])
    ensemble = Ensemble.pretrained()
    alone = ensemble.predict_rows(rows)
    residuals = torch.tensor(energies) - alone.median[:, 0]
    real = real_tables(data, shift)[0] if data else None
    known = None if proposals_alone else ensemble.known
    table = [{"learned": 0.0} | errors(alone, energies, noise) | ({"real": error(ensemble, real, 0)} if real else {})]
    typer.echo(f"{len(crystals)} crystals, {len({crystal.chemical_system for crystal in crystals})} chemical systems")
    for size in SIZES:
        if size > min((part != number).sum() for number in range(PARTS)):
            break
        found, fitting = [], 0.0
        for seed in range(seeds):
            tested, order, moved = [], [], []
            for number in range(PARTS):
                others = np.nonzero(part != number)[0]
                learned = torch.tensor(rng(seed, number, "residual benchmark").permutation(others)[:size])
                measured = Scores.of(rows[learned], ensemble.predict_rows(rows[learned]), residuals[learned])
                start = time.process_time()
                fitted = replace(ensemble, residual=Residual.fit(measured, known))
                fitting += time.process_time() - start
                own = np.nonzero(part == number)[0]
                tested.append(fitted.predict_rows(rows[torch.tensor(own)]))
                order.append(own)
                moved += [error(fitted, real, 0)] if real else []
            found.append(errors(joined(tested, np.concatenate(order)), energies, noise) | ({"real": float(np.mean(moved))} if real else {}))
        row = {"learned": float(size), "CPU s a fit": fitting / (PARTS * seeds)}
        for name in found[0]:
            values = [one[name] for one in found]
            row |= {name: float(np.mean(values)), f"{name}, deviation": float(np.std(values))}
        table.append(row)
    for row in table:
        typer.echo("  ".join(f"{name} {value:.3f}".replace(".000", "") for name, value in row.items()))
    if output:
        output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
