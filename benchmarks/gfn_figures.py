"""Figures of the sampler's page: training curves, what is sampled beside real crystals, log p against log R, the temperature knob.

Usage: python benchmarks/gfn_figures.py CHECKPOINT --samples FILE --real seed_crystals.parquet [--published FILE] [--correlation FILE]
       [--temperature FILE] [--output docs/figures]

CHECKPOINT is a folder of gfn.train, the samples are of gfn.sample, the published samples are those of the Crystal-GFN authors, the other
two files are written by gfn_correlation.py and gfn_temperature.py. A figure whose input is not given is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from al_crystal.crystal import ATOMIC_NUMBER, crystals_from_frame
from gfn.symmetry import CRYSTAL_SYSTEMS, crystal_system

INK, OURS, REAL, PUBLISHED = "#30343b", "#2a6f97", "#c9ada7", "#e09f3e"
SYSTEM_COLOURS = dict(zip(CRYSTAL_SYSTEMS, ("#8d99ae", "#5e60ce", "#2a6f97", "#2a9d8f", "#8ab17d", "#e9c46a", "#e76f51"), strict=True))


def new(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure and its axes, without the frame's upper and right lines."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(**grid)
    for one in np.atleast_1d(axes).flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8, colors=INK)
    return figure, axes


def training(history: list[dict[str, float]], batch: int) -> Figure:
    """Loss, log Z and mean log-reward against trajectories: running means of 25 iterations, quantities of all trajectories."""
    figure, axes = new(9, 2.7, ncols=3)
    kernel = np.ones(25) / 25
    for one, (name, label) in zip(
        axes, (("loss", "loss (squared nats)"), ("log_z", "log Z"), ("mean_log_reward", "mean log R of a batch")), strict=True
    ):
        values = np.array([record[name] for record in history])
        one.plot(np.arange(1, len(values) + 1)[24:] * batch / 1000, np.convolve(values, kernel, mode="valid"), color=OURS, linewidth=1.2)
        one.set(xlabel="thousand trajectories", ylabel=label)
    axes[0].set_yscale("log")
    return figure


def shares(compositions: pd.Series) -> pd.Series:
    """Share of the crystals that contain each element."""
    present = pd.Series([symbol for text in compositions for symbol in json.loads(text)]).value_counts() / len(compositions)
    return present.reindex(sorted(present.index, key=ATOMIC_NUMBER.__getitem__))


def elements(samples: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """How many crystals contain each element, sampled and real."""
    figure, axes = new(9, 2.7)
    ours, theirs = shares(samples["composition"]), shares(real["composition"])
    symbols = [symbol for symbol in sorted(set(ours.index) | set(theirs.index), key=ATOMIC_NUMBER.__getitem__)]
    place = np.arange(len(symbols))
    axes.bar(place - 0.2, 100 * ours.reindex(symbols).fillna(0), 0.4, color=OURS, label=f"{len(samples):,} sampled crystals")
    axes.bar(place + 0.2, 100 * theirs.reindex(symbols).fillna(0), 0.4, color=REAL, label=f"{len(real):,} real crystals of the same space")
    axes.set_xticks(place, symbols)
    axes.set(ylabel="crystals with the element (%)", xlim=(-0.6, len(symbols) - 0.4))
    axes.legend(frameon=False, fontsize=8)
    return figure


def space_groups(samples: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Share of every space group, sampled above and real below, coloured by crystal system."""
    figure, axes = new(9, 3.6, nrows=2, sharex=True)
    for one, table, title in zip(axes, (samples, real), ("sampled", "real crystals of the same space"), strict=True):
        counts = table["space_group_number"].value_counts(normalize=True) * 100
        colours = [SYSTEM_COLOURS[crystal_system(int(group))] for group in counts.index]
        one.bar(counts.index, counts.to_numpy(), width=1.2, color=colours)
        one.set(ylabel="crystals (%)", xlim=(0, 231))
        one.set_title(f"{title}: {len(counts)} groups", fontsize=9, loc="left", color=INK)
    axes[1].set_xlabel("space group")
    handles = [(system, axes[0].bar([0], [0], color=colour)) for system, colour in SYSTEM_COLOURS.items()]
    axes[0].legend(
        [h for _, h in handles], [s for s, _ in handles], frameon=False, fontsize=7, ncols=4, loc="upper right", bbox_to_anchor=(1, 1.2)
    )
    return figure


def _distribution(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str, label: str, filled: bool = False) -> None:
    axes.hist(
        values,
        edges.tolist(),
        weights=np.full(len(values), 100 / len(values)),
        histtype="stepfilled" if filled else "step",
        color=colour,
        alpha=0.6 if filled else 1.0,
        label=label,
        linewidth=1.4,
    )


def cells(samples: pd.DataFrame, real: pd.DataFrame, published: pd.DataFrame | None) -> Figure:
    """Volume per atom and the longest and shortest edges, sampled, real and as published by the authors of Crystal-GFN."""
    figure, axes = new(9, 2.9, ncols=2)
    tables = [(real, REAL, "real, same space", True), (samples, OURS, "sampled", False)]
    tables += [(published, PUBLISHED, "published by the authors", False)] if published is not None else []
    for table, colour, label, filled in tables:
        _distribution(axes[0], table["volume_per_atom"].to_numpy(), np.geomspace(1, 20_000, 90), colour, label, filled)
        _distribution(axes[1], table[["a", "b", "c"]].max(axis=1).to_numpy(), np.geomspace(2, 110, 60), colour, label, filled)
    for one, label in zip(axes, ("volume (Å³ per atom)", "longest edge (Å)"), strict=True):
        one.set_xscale("log")
        one.set(xlabel=label, ylabel="crystals (%)")
    axes[0].legend(frameon=False, fontsize=8)
    for one, window in zip(axes, ((6, 60), (2.5, 40)), strict=True):
        one.axvspan(*window, color="#f1efe9", zorder=0)
        one.set_title("shaded: plausible", fontsize=8, loc="left", color=INK)
    return figure


def correlation(numbers: dict[str, Any]) -> Figure:
    """log p against log R of fresh crystals, with the line p = R / Z."""
    figure, axes = new(4.6, 4.2)
    log_p, log_r = np.array(numbers["log_p"]), np.array(numbers["log_r"])
    half = len(log_p) // 2
    for rows, colour, label in ((slice(half, None), PUBLISHED, "untrained"), (slice(0, half), OURS, "trained")):
        text = f"from the {label} sampler ({numbers[f'correlation_{label}']:.2f})"
        axes.scatter(log_r[rows], log_p[rows], s=6, color=colour, alpha=0.6, linewidths=0, label=text)
    ends = np.array([log_r.min(), log_r.max()])
    axes.plot(ends, ends - numbers["log_z"], color=INK, linewidth=0.9, label="p = R / Z")
    axes.set(xlabel="log R", ylabel="log p", title=f"correlation {numbers['correlation_all']:.3f}, n = {len(log_p):,}")
    axes.title.set_size(9)
    axes.legend(frameon=False, fontsize=8)
    return figure


def temperature(rows: list[dict[str, float]]) -> Figure:
    """Energy and diversity at each temperature, and one against the other."""
    rows = sorted(rows, key=lambda row: row["temperature"])
    figure, axes = new(9, 2.9, ncols=3)
    at = [row["temperature"] for row in rows]
    middle = [row["value_quantile_50"] for row in rows]
    axes[0].fill_between(
        at, [row["value_quantile_5"] for row in rows], [row["value_quantile_95"] for row in rows], color=OURS, alpha=0.2, linewidth=0
    )
    axes[0].plot(at, middle, "o-", color=OURS, markersize=4)
    axes[0].set(xlabel="temperature", ylabel="predicted energy (eV/atom)\nmedian, 5 to 95 %")
    for name, label, colour in (
        ("effective_space_groups", "space groups", OURS),
        ("effective_chemical_systems", "chemical systems", PUBLISHED),
    ):
        axes[1].plot(at, [row[name] for row in rows], "o-", color=colour, markersize=4, label=label)
    axes[1].set(xlabel="temperature", ylabel="effective number", yscale="log")
    axes[1].legend(frameon=False, fontsize=8)
    systems = [row["effective_chemical_systems"] for row in rows]
    axes[2].plot(middle, systems, "o-", color=OURS, markersize=4)
    for x, y, t in zip(middle, systems, at, strict=True):
        axes[2].annotate(f"T = {t:g}", (x, y), textcoords="offset points", xytext=(5, -9), fontsize=8, color=INK)
    axes[2].set(xlabel="median predicted energy (eV/atom)", ylabel="effective chemical systems", yscale="log")
    axes[2].margins(x=0.2, y=0.15)
    for one in axes[:2]:
        one.set_xscale("log", base=2)
        one.set_xticks(at, [f"{t:g}" for t in at])
    return figure


def main(
    checkpoint: Annotated[Path, typer.Argument(help="folder written by gfn.train")],
    samples: Annotated[Path, typer.Option(help="parquet table of gfn.sample")],
    real: Annotated[Path, typer.Option(help="parquet table of known crystals with the column in_paper_space")],
    published: Annotated[Path | None, typer.Option(help="parquet table of the authors' samples")] = None,
    correlation_file: Annotated[Path | None, typer.Option("--correlation", help="JSON of gfn_correlation.py")] = None,
    temperature_file: Annotated[Path | None, typer.Option("--temperature", help="JSON lines of gfn_temperature.py")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="folder of the figures")] = Path("docs/figures"),
) -> None:
    """Draw and write."""
    record = json.loads((checkpoint / "trainer.json").read_text())
    table, known = pd.read_parquet(samples), pd.read_parquet(real)
    known = known[known["in_paper_space"]]
    authors = pd.read_parquet(published) if published else None
    if authors is not None:
        authors["volume_per_atom"] = [crystal.volume_per_atom for crystal in crystals_from_frame(authors)]
    figures = {
        "training": training(record["history"], record["settings"]["batch_size"]),
        "elements": elements(table, known),
        "space_groups": space_groups(table, known),
        "cells": cells(table, known, authors),
    }
    if correlation_file is not None:
        figures["correlation"] = correlation(json.loads(correlation_file.read_text()))
    if temperature_file is not None:
        figures["temperature"] = temperature([json.loads(line) for line in temperature_file.read_text().splitlines()])
    output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = output / f"gfn_{name}.png"
        figure.savefig(path, dpi=110)
        typer.echo(f"{path} {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
