"""Figures of an evaluation: parity, calibration, error against distance, and error per element and per space group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import ELEMENTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from surrogates.ensemble import Ensemble
    from surrogates.held_out import TestSets

LABELS = ("formation energy (eV/atom)", "band gap (eV)")


def parity(target: NDArray[np.float64], predicted: NDArray[np.float64], label: str) -> Figure:
    """Predicted against labelled, both ``(n,)``, as a density in the range of the labels; the title counts predictions outside of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    margin = 0.1 * (target.max() - target.min())
    bounds = (float(target.min() - margin), float(target.max() + margin))
    outside = int(((predicted < bounds[0]) | (predicted > bounds[1])).sum())
    axes.hexbin(target, predicted, gridsize=70, bins="log", cmap="viridis", mincnt=1, extent=(*bounds, *bounds))
    axes.plot(bounds, bounds, color="black", linewidth=0.8)
    title = f"n = {len(target):,}" + (f", {outside} outside" if outside else "")
    axes.set(xlabel=f"labelled {label}", ylabel=f"predicted {label}", title=title, xlim=bounds, ylim=bounds)
    return figure


def calibration(scores: dict[str, NDArray[np.float64]]) -> Figure:
    """Observed against promised coverage for each name's standardised errors ``(n,)``."""
    from matplotlib.figure import Figure
    from scipy.stats import norm

    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.subplots()
    promised = np.linspace(0.02, 0.98, 49)
    for name, values in scores.items():
        observed = [(np.abs(values) <= norm.ppf(0.5 + share / 2)).mean() for share in promised]
        axes.plot(promised, observed, label=name)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlabel="promised coverage", ylabel="observed coverage")
    axes.legend(frameon=False)
    return figure


def error_by_distance(distance: NDArray[np.float64], error: NDArray[np.float64], deviation: NDArray[np.float64], label: str) -> Figure:
    """Mean absolute error and mean spread in eight equal groups of rows by distance; all ``(n,)``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    inside = distance <= 0
    parts = [np.flatnonzero(inside), *np.array_split(np.flatnonzero(~inside)[np.argsort(distance[~inside])], 7)]
    parts = [part for part in parts if len(part)]
    position = [distance[part].mean() for part in parts]
    axes.plot(position, [np.abs(error[part]).mean() for part in parts], "o-", label="mean |error|")
    axes.plot(position, [deviation[part].mean() for part in parts], "s--", label="mean standard deviation")
    axes.set(xlabel="distance from the training data", ylabel=label)
    axes.legend(frameon=False)
    return figure


def error_by_group(names: list[str], values: list[float], label: str) -> Figure:
    """One bar per name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, 0.16 * len(names)), 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(names)), values)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set(ylabel=f"MAE, {label}", xlim=(-1, len(names)))
    return figure


def draw_all(ensemble: Ensemble, sets: TestSets, folder: Path) -> None:
    """Write every figure of one ensemble, as served (source unknown), as PNG files."""
    parts = [ensemble.predict_rows(table.rows) for table in (sets.seed, sets.matbench)]
    targets = np.concatenate([table.targets.numpy() for table in (sets.seed, sets.matbench)]).astype(float)
    median = np.concatenate([part.median.numpy() for part in parts]).astype(float)
    lean = np.concatenate([(part.mean - part.median).numpy() for part in parts]).astype(float)
    deviation = np.concatenate([part.standard_deviation.numpy() for part in parts]).astype(float)
    distance = np.concatenate([part.distance.numpy() for part in parts]).astype(float)
    groups = np.concatenate([table.rows.space_group.numpy() for table in (sets.seed, sets.matbench)])
    scores = {}
    for column, (name, label) in enumerate(zip(("energy", "gap"), LABELS, strict=True)):
        known = ~np.isnan(targets[:, column])
        error = median[known, column] - targets[known, column]
        scores[label] = (error + lean[known, column]) / deviation[known, column]
        parity(targets[known, column], median[known, column], label).savefig(folder / f"surrogate_parity_{name}.png", dpi=110)
        error_by_distance(distance[known], error, deviation[known, column], label).savefig(
            folder / f"surrogate_distance_{name}.png", dpi=110
        )
        if column == 1:
            gapped = targets[known, 1] > 0
            scores["band gap, non-metals"] = scores[label][gapped]
        chosen = [number for number in np.unique(groups[known]) if (groups[known] == number).sum() >= 60]
        values = [float(np.abs(error[groups[known] == number]).mean()) for number in chosen]
        error_by_group([str(number) for number in chosen], values, label).savefig(folder / f"surrogate_space_groups_{name}.png", dpi=110)
        _by_element(sets, error, known, label).savefig(folder / f"surrogate_elements_{name}.png", dpi=110)
    apart = ensemble.predict_rows(sets.wbm.rows)
    wild = ((apart.mean - sets.wbm.targets) / apart.standard_deviation)[:, 0].double().numpy()
    scores["formation energy, WBM"] = wild[~np.isnan(wild)]
    calibration(scores).savefig(folder / "surrogate_calibration.png", dpi=110)


def _by_element(sets: TestSets, error: NDArray[np.float64], known: NDArray[np.bool_], label: str) -> Figure:
    """Errors of the crystals that hold each element, for elements in at least 30 of them."""
    contained: list[set[int]] = [set(row) for table in (sets.seed, sets.matbench) for row in table.rows.elements.tolist()]
    contained = [row for row, keep in zip(contained, known, strict=True) if keep]
    sums: dict[int, list[float]] = {}
    for row, value in zip(contained, np.abs(error), strict=True):
        for number in row - {0}:
            sums.setdefault(number, []).append(float(value))
    numbers = [number for number in sorted(sums) if len(sums[number]) >= 30]
    return error_by_group([ELEMENTS[number - 1] for number in numbers], [float(np.mean(sums[number])) for number in numbers], label)
