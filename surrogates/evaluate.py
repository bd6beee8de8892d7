"""Measure an ensemble on chemical systems kept apart: ``python -m surrogates.evaluate --data FOLDER --shift MODULE:FUNCTION``.

Everything is measured on folds 0-1, which neither trained nor calibrated anything. MatBench and WBM are on the Materials Project's
scale of 2018. Told the source "matbench" the ensemble speaks on that scale, so these errors are against the labels as published; with
the source unknown it speaks on that of 2020, and the shift (``--shift``, as in training) carries the labels there.
Prints one table and writes it with all numbers to ``OUTPUT/evaluation.json``, figures beside it.
``--baselines`` adds a constant, a random forest and a Gaussian process, ``--learning-curve 4`` a trunk on growing shares of the rows.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer

from surrogates.baselines import baselines, learning_curve
from surrogates.calibration import NINETY
from surrogates.ensemble import Ensemble, Predictions
from surrogates.features import Rows, cell_features
from surrogates.held_out import Measure, TestSets, training_rows
from surrogates.tables import TEST_FOLDS, Deformations, Table, deformations
from surrogates.wrong_cells import TEST_VOLUMES, load_function

if TYPE_CHECKING:
    from numpy.typing import NDArray


def predictions(ensemble: Ensemble, table: Table, source: bool, cell: bool) -> Predictions:
    """Predictions with or without the source and the cell stated."""
    shown = table if cell else table.without_cells()
    return ensemble.predict_rows(shown.rows, source=table.source if source else None)


def errors(prediction: Predictions, table: Table, column: int) -> NDArray[np.float64]:
    """``(n,)`` median prediction - label, NaN where there is no label."""
    return (prediction.median[:, column] - table.targets[:, column]).double().numpy()


def single_trunks(
    ensemble: Ensemble, prediction: Predictions, table: Table, column: int, where: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Mean and standard deviation over the trunks, each an independent training seed, of the mean absolute error of that trunk alone."""
    if len(ensemble.networks) < 2:
        return None, None
    sizes = [network.settings.heads for network in ensemble.networks]
    values = []
    for members in prediction.members[..., column].split(sizes):
        error = (members.mean(0) - table.targets[:, column]).abs().numpy()[where]
        values.append(float(np.nanmean(error)))
    return float(np.mean(values)), float(np.std(values, ddof=1))


def accuracy(ensemble: Ensemble, sets: TestSets) -> list[Measure]:
    """Mean absolute errors, and the bias where the formation energy is positive."""
    found = []
    for name, table, column, source, cell, where in _accuracy_cases(sets):
        prediction = predictions(ensemble, table, source, cell)
        error = errors(prediction, table, column)
        chosen = where & ~np.isnan(error)
        alone = single_trunks(ensemble, prediction, table, column, chosen)
        found.append(Measure(name, float(np.abs(error[chosen]).mean()), int(chosen.sum()), *alone))
    for name, table, source in (
        ("MatBench, source given", sets.matbench.as_published(), True),
        ("MatBench, as served", sets.matbench, False),
        ("seed, as served", sets.seed, False),
    ):
        error = errors(predictions(ensemble, table, source, True), table, 0)
        chosen = (table.as_published().targets[:, 0] > 0).numpy()
        found.append(Measure(f"bias where formation energy > 0: {name}", float(error[chosen].mean()), int(chosen.sum())))
    return found


def _accuracy_cases(sets: TestSets) -> list[tuple[str, Table, int, bool, bool, NDArray[np.bool_]]]:
    seed, matbench, published = sets.seed, sets.matbench, sets.matbench.as_published()
    everything = np.ones(len(seed), dtype=bool)
    all_matbench = np.ones(len(matbench), dtype=bool)
    inside, inside_seed = matbench.columns["in_22el"].astype(bool), seed.columns["in_22el"].astype(bool)
    gapped = (seed.targets[:, 1] > 0).numpy()
    return [
        ("formation energy, seed: as given (cell and source)", seed, 0, True, True, everything),
        ("formation energy, seed: cell and source hidden", seed, 0, False, False, everything),
        ("formation energy, seed: as served (cell given, source hidden)", seed, 0, False, True, everything),
        ("formation energy, seed, 22 elements: as served", seed, 0, False, True, inside_seed),
        ("formation energy, MatBench: all", published, 0, True, False, all_matbench),
        ("formation energy, MatBench: 22 elements", published, 0, True, False, inside),
        ("formation energy, MatBench: as served", matbench, 0, False, False, all_matbench),
        ("formation energy, WBM: as served", sets.wbm, 0, False, True, np.ones(len(sets.wbm), dtype=bool)),
        ("band gap, MatBench: all", matbench, 1, True, False, all_matbench),
        ("band gap, MatBench: 22 elements", matbench, 1, True, False, inside),
        ("band gap, seed: all", seed, 1, True, True, everything),
        ("band gap, seed: non-metals", seed, 1, True, True, gapped),
        ("band gap, seed: non-metals, as served", seed, 1, False, True, gapped),
    ]


def uncertainty(ensemble: Ensemble, sets: TestSets) -> list[Measure]:
    """Coverage of the 90 % interval around the mean and the rank correlation of the median's error and the spread, all as served."""
    from scipy.stats import spearmanr

    served = {name: predictions(ensemble, table, False, True) for name, table in vars(sets).items()}
    held_out = [(sets.seed, served["seed"]), (sets.matbench, served["matbench"])]
    found = []
    for name, parts, column, gapped in (
        ("formation energy, held-out systems", held_out, 0, False),
        ("band gap, held-out systems", held_out, 1, False),
        ("band gap, held-out non-metals", held_out, 1, True),
        ("formation energy, WBM", [(sets.wbm, served["wbm"])], 0, False),
        ("formation energy, JARVIS (another level of theory)", [(sets.jarvis, served["jarvis"])], 0, False),
    ):
        error = np.concatenate([errors(prediction, table, column) for table, prediction in parts])
        lean = np.concatenate([(prediction.mean - prediction.median)[:, column].numpy() for _, prediction in parts])
        deviation = np.concatenate([prediction.standard_deviation[:, column].numpy() for _, prediction in parts])
        target = np.concatenate([table.targets[:, column].numpy() for table, _ in parts])
        chosen = ~np.isnan(error) & ((target > 0) | (not gapped))
        error, lean, deviation = error[chosen], lean[chosen], deviation[chosen]
        inside = np.abs(error + lean) <= NINETY * deviation
        found.append(Measure(f"coverage of the 90 % interval: {name}", float(inside.mean()), len(error)))
        found.append(Measure(f"Spearman of |error| and spread: {name}", float(spearmanr(np.abs(error), deviation).statistic), len(error)))
    return found


def in_volume(rows: Rows, factor: float) -> Rows:
    """The same crystals with ``factor`` times the volume."""
    lattice = rows.lattice_parameters.clone()
    lattice[:, :3] *= factor ** (1 / 3)
    return replace(rows, lattice_parameters=lattice)


def cells(ensemble: Ensemble, sets: TestSets, deformed: Deformations | None) -> list[Measure]:
    """Whether the energy rises in wrong cells, how its order follows the potential, and what the mere presence of a cell earns."""
    from scipy.stats import spearmanr

    found = []
    rows = sets.seed.rows
    real = ensemble.predict_rows(rows).median[:, 0]
    for factor in (0.5, 0.7, 0.85, 1.4, 2.0):
        share = (ensemble.predict_rows(in_volume(rows, factor)).median[:, 0] > real).double().mean()
        found.append(Measure(f"formation energy rises when a real crystal's volume is scaled by {factor}", float(share), len(rows)))
    hidden = ensemble.predict_rows(sets.seed.without_cells().rows).median[:, 0]
    log_volume, _ = cell_features(rows)
    lattice = rows.lattice_parameters.clone()
    lattice[:, :3] /= (log_volume / 3).exp()[:, None]
    expected = ensemble.predict_rows(replace(rows, lattice_parameters=lattice)).median[:, 0]
    target = sets.seed.targets[:, 0]
    known = ~target.isnan()
    for name, value in (("no cell", hidden), ("the composition's expected volume", expected), ("the real cell", real)):
        found.append(Measure(f"error with {name}, source hidden", float((value - target)[known].abs().mean()), int(known.sum())))
        found.append(Measure(f"mean change of the energy against no cell: {name}", float((value - hidden).mean()), len(rows)))
    if deformed is not None:
        test = deformed.of_folds(TEST_FOLDS)
        strain = ensemble.predict_rows(test.deformed()).strain.numpy()
        curves = np.array([spearmanr(strain[where], test.energies.numpy()[where]).statistic for where in _volume_curves(test)])
        inside = test.in_22el.astype(bool)
        for name, chosen in (("", np.ones(len(test), dtype=bool)), (", 22 elements", inside), (", other elements", ~inside)):
            if chosen.any():
                name = f"Spearman with the potential over {len(TEST_VOLUMES)} volumes{name}"
                found.append(Measure(f"{name}: mean", float(curves[chosen].mean()), int(chosen.sum())))
                found.append(Measure(f"{name}: median", float(np.median(curves[chosen])), int(chosen.sum())))
        for position, factor in enumerate(volume for volume in TEST_VOLUMES if volume != 1):
            rises = [test.energies[where[1 + position]] > 0 for where in _volume_curves(test)]
            found.append(Measure(f"for comparison, the potential's own energy rises at {factor}", float(np.mean(rises)), len(rises)))
        large = test.energies.numpy() > 0.02
        ratio = np.abs(strain - test.energies.numpy())[large] / test.energies.numpy()[large]
        found.append(Measure("relative error of the strain energy, median", float(np.median(ratio)), int(large.sum())))
    return found


def _volume_curves(test: Deformations) -> list[NDArray[np.int64]]:
    """For each crystal the indices of its relaxed cell and its scaled cells, which come first in its list of cells."""
    first = np.searchsorted(test.crystal.numpy(), np.arange(len(test)))
    return [start + np.arange(len(TEST_VOLUMES)) for start in first]


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    ensemble: Annotated[Path | None, typer.Option(help="folder of the ensemble; default: the one shipped")] = None,
    wrong_cells: Annotated[Path | None, typer.Option(help="output of surrogates.wrong_cells")] = None,
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in training; without it two scales are compared")] = None,
    output: Annotated[Path, typer.Option(help="folder for evaluation.json and the figures")] = Path("surrogate_evaluation"),
    with_baselines: Annotated[bool, typer.Option("--baselines", help="also fit the baselines (some minutes)")] = False,
    curve: Annotated[
        float | None,
        typer.Option("--learning-curve", min=0, help="passes; also trains a trunk on growing shares of the rows"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print how good an ensemble is on chemical systems it has never seen."""
    from surrogates.figures import draw_all

    torch.set_num_threads(threads)
    made = Ensemble.load(ensemble) if ensemble else Ensemble.pretrained()
    convert = load_function(shift) if shift else None
    sets = TestSets.load(data, convert)
    report: dict[str, int] = {}
    deformed = deformations(wrong_cells, report) if wrong_cells else None
    for line, number in report.items():
        typer.echo(f"{line}: {number:,}")
    measures = accuracy(made, sets) + uncertainty(made, sets) + cells(made, sets, deformed)
    if with_baselines:
        measures += baselines(training_rows(data, convert), sets)
    if curve:
        torch.set_flush_denormal(True)  # as in training
        measures += learning_curve(training_rows(data, convert), sets, curve)
    for measure in measures:
        spread = "" if measure.spread is None else f"  (single trunks {measure.alone:.4f} +- {measure.spread:.4f})"
        typer.echo(f"{measure.name:<88}{measure.value:>9.4f}  n = {measure.rows:,}{spread}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "evaluation.json").write_text(json.dumps([vars(measure) for measure in measures], indent=1) + "\n")
    draw_all(made, sets, output)


if __name__ == "__main__":
    typer.run(main)
