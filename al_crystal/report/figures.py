"""Figures of a campaign: functions of the ranked table that return plotly figures; nothing is shown or saved here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from al_crystal.crystal import UNITS

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.history import State
    from al_crystal.objective import Objective

ARMS = {"gfn": ("chosen from the sampler", "#2a6fdb"), "random": ("random control", "#9aa3ad"), "seed": ("seed crystals", "#d99a2b")}
"""Words and colour of each arm."""
NAMES = {
    "formation_energy_per_atom": "formation energy",
    "band_gap": "band gap",
    "e_above_hull": "energy above hull",
    "e_above_campaign_hull": "above the campaign's own hull",
    "volume_per_atom": "volume per atom",
}
"""Properties in words, where the name alone does not do."""


def axis_title(name: str) -> str:
    """A property in words with its unit."""
    unit = UNITS.get(name)
    return NAMES.get(name, name.replace("_", " ")) + (f" ({unit})" if unit else "")


def desirability_by_round(table: pd.DataFrame) -> go.Figure:
    """Every label's desirability by round and arm, with the best so far as a step line."""
    figure = go.Figure()
    jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(table))
    for arm, (words, colour) in ARMS.items():
        rows = (table["arm"] == arm).to_numpy()
        if rows.any():
            figure.add_scatter(
                x=table["round"].to_numpy()[rows] + jitter[rows],
                y=table["desirability"].to_numpy()[rows],
                mode="markers",
                name=words,
                marker={"color": colour, "size": 9, "opacity": 0.8, "line": {"color": "white", "width": 1}},
                text=_hover(table[rows]),
                hoverinfo="text",
            )
    best = table.groupby("round")["desirability"].max().sort_index().cummax()
    line = {"color": "#1b2733", "shape": "hv", "width": 1.5}
    figure.add_scatter(x=best.index, y=best.to_numpy(), mode="lines", name="best so far", line=line, hoverinfo="skip")
    figure.update_xaxes(title="round", dtick=1)
    figure.update_yaxes(title="desirability", range=[-0.03, 1.05])
    return _style(figure)


def property_map(table: pd.DataFrame, x: str, y: str, objective: Objective) -> go.Figure:
    """Labelled crystals in the plane of two labelled properties, coloured by round, over the objective's desirability."""
    labelled = table[table["status"] == "ok"]
    figure = go.Figure()
    xs, ys = labelled[f"labelled_{x}"], labelled[f"labelled_{y}"]
    if len(labelled):
        figure.add_trace(_desirability_field(x, y, xs.to_numpy(float), ys.to_numpy(float), objective))
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="markers",
        text=_hover(labelled),
        hoverinfo="text",
        marker={
            "size": 10,
            "color": labelled["round"],
            "colorscale": "Blues",
            "cmin": -1,
            "line": {"color": "#1b2733", "width": 1},
            "symbol": ["diamond" if arm == "random" else "circle" for arm in labelled["arm"]],
            "colorbar": {"title": "round", "dtick": 1, "thickness": 10, "outlinewidth": 0},
        },
        showlegend=False,
    )
    figure.update_xaxes(title=axis_title(x))
    figure.update_yaxes(title=axis_title(y))
    return _style(figure)


def parity(table: pd.DataFrame, name: str) -> go.Figure:
    """Predicted before labelling against labelled, with 90 % intervals; held against the proposed cell's label where there is one.

    A few hopeless cells lie electronvolts off and would squeeze the rest into a corner: the frame holds the middle 98 % of the numbers,
    and says how many crystals are beyond.
    """
    good = table[table["status"] == "ok"]
    truth, cell = good[f"labelled_{name}"], ""
    if f"proposal_{name}" in good:
        truth, cell = good[f"proposal_{name}"].fillna(truth), " in the proposed cell"
    figure = go.Figure()
    predicted = good[f"predicted_{name}"]
    numbers = np.concatenate([truth, predicted]).astype(float)
    low, high = np.nanquantile(numbers, [0.01, 0.99])
    margin = 0.08 * (high - low) or 0.1
    frame = [low - margin, high + margin]
    beyond = int(((truth - predicted).notna() & ~(truth.between(*frame) & predicted.between(*frame))).sum())
    figure.add_scatter(x=frame, y=frame, mode="lines", line={"color": "#9aa3ad", "dash": "dot"}, showlegend=False, hoverinfo="skip")
    figure.add_scatter(
        x=truth,
        y=predicted,
        error_y={"array": 1.645 * good[f"predicted_{name}_std"], "color": "rgba(42,111,219,0.35)", "thickness": 1, "width": 0},
        mode="markers",
        text=_hover(good),
        hoverinfo="text",
        marker={"size": 8, "color": good["round"], "colorscale": "Blues", "cmin": -1, "line": {"color": "#1b2733", "width": 1}},
        showlegend=False,
    )
    figure.update_xaxes(title=f"labelled {axis_title(name)}{cell}", range=frame)
    figure.update_yaxes(title=f"predicted {axis_title(name)}", range=frame)
    if beyond:
        text = f"{beyond} beyond the frame (double click to see)"
        figure.add_annotation(text=text, x=1, y=0, xref="paper", yref="paper", xanchor="right", yanchor="bottom", showarrow=False)
    return _style(figure)


def errors_by_round(state: State) -> go.Figure:
    """Mean absolute error of the predictions that each batch was picked on, by property, and of the surrogate alone about all looks."""
    figure = go.Figure()
    metrics = [(number, entry.metrics) for number, entry in enumerate(state.rounds) if entry.metrics is not None]
    closed = [(number, found["prediction_errors"]) for number, found in metrics]
    looked = [(number, found["look_errors"]) for number, found in metrics if found.get("look_errors")]
    if looked:
        figure.add_scatter(
            x=[number for number, _ in looked],
            y=[error["mae"] for _, error in looked],
            mode="lines+markers",
            name="all looks, surrogate alone",  # the legend has room for a line
            line={"color": "#9aa3ad", "dash": "dot"},
            text=[
                f"n = {error['n']}, median {error['median']:.3f}, {error['coverage_90']:.0%} within 90 % intervals" for _, error in looked
            ],
        )
    names = sorted({name for _, errors in closed for name in errors})
    for name, colour in zip(names, ["#d9742b", "#2a6fdb", "#4b9560", "#8a5fbf"], strict=False):
        points = [(number, errors[name]) for number, errors in closed if name in errors]
        figure.add_scatter(
            x=[number for number, _ in points],
            y=[error["mae"] for _, error in points],
            mode="lines+markers",
            name=axis_title(name),
            line={"color": colour},
            text=[f"n = {error['n']}, bias {error['bias']:+.3f}, {error['coverage_90']:.0%} within 90 % intervals" for _, error in points],
        )
    figure.update_xaxes(title="round", dtick=1)
    figure.update_yaxes(title="mean absolute error before labelling", rangemode="tozero")
    return _style(figure)


def looks(table: pd.DataFrame) -> go.Figure:
    """Formation energies that were looked up, against labels in the proposed cell (eV/atom).

    Median absolute error by round of what the surrogate said alone, of the look, and of the belief made of both.
    """
    name = "formation_energy_per_atom"
    looked = table[(table["status"] == "ok") & table[f"screened_{name}"].notna() & table[f"proposal_{name}"].notna()]
    figure = go.Figure()
    for prefix, words, colour in (
        ("surrogate", "the surrogate alone", "#9aa3ad"),
        ("screened", "the look", "#d99a2b"),
        ("predicted", "the belief it was picked on", "#2a6fdb"),
    ):
        errors = (looked[f"{prefix}_{name}"] - looked[f"proposal_{name}"]).abs().groupby(looked["round"])
        middle, counts = errors.median(), errors.size()
        text = [f"n = {count}" for count in counts]
        figure.add_scatter(x=middle.index, y=middle.to_numpy(), mode="lines+markers", name=words, line={"color": colour}, text=text)
    figure.update_xaxes(title="round", dtick=1)
    figure.update_yaxes(title=f"median error ({UNITS[name]})", rangemode="tozero")
    return _style(figure)


def volumes(table: pd.DataFrame) -> go.Figure:
    """Relaxed against proposed volume per atom: how far the proposed cells mean something."""
    good = table[table["status"] == "ok"]
    figure = go.Figure()
    _diagonal(figure, np.concatenate([good["volume_per_atom"], good["relaxed_volume_per_atom"]]))
    for arm, (words, colour) in ARMS.items():
        rows = good[good["arm"] == arm]
        if len(rows):
            figure.add_scatter(
                x=rows["volume_per_atom"],
                y=rows["relaxed_volume_per_atom"],
                mode="markers",
                name=words,
                text=_hover(rows),
                hoverinfo="text",
                marker={"color": colour, "size": 8, "line": {"color": "white", "width": 1}},
            )
    figure.update_xaxes(title="proposed " + axis_title("volume_per_atom"))
    figure.update_yaxes(title="relaxed " + axis_title("volume_per_atom"))
    return _style(figure)


def outcomes(table: pd.DataFrame) -> go.Figure:
    """Labels by status in each round."""
    figure = go.Figure()
    for status, colour in {"ok": "#2a6fdb", "rejected": "#d99a2b", "failed": "#c0392b", "unlabelled": "#d5dae0"}.items():
        counts = table[table["status"] == status].groupby("round").size()
        if len(counts):
            figure.add_bar(x=counts.index, y=counts.to_numpy(), name=status, marker_color=colour)
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(title="round", dtick=1)
    figure.update_yaxes(title="labels")
    return _style(figure)


def _desirability_field(x: str, y: str, xs: np.ndarray, ys: np.ndarray, objective: Objective) -> go.Heatmap:
    """The part of the desirability that the two properties decide, as a pale background over the range of the data."""
    from al_crystal.objective import Objective as ObjectiveModel

    def grid(values: np.ndarray) -> np.ndarray:
        margin = 0.08 * (np.ptp(values) or 1.0)
        return np.linspace(values.min() - margin, values.max() + margin, 80)

    gx, gy = grid(xs), grid(ys)
    names = [name for name in (x, y) if name in objective.targets]
    part = ObjectiveModel(targets={name: objective.targets[name] for name in names})
    plane = dict(zip((x, y), np.meshgrid(gx, gy), strict=True))
    z = part.desirability({name: plane[name] for name in names}).numpy()
    scale = [[0.0, "rgba(75,149,96,0)"], [1.0, "rgba(75,149,96,0.45)"]]
    return go.Heatmap(x=gx, y=gy, z=z, colorscale=scale, zmin=0, zmax=1, showscale=False, hoverinfo="skip")


def _diagonal(figure: go.Figure, values: np.ndarray) -> None:
    if len(values):
        ends = [float(values.min()), float(values.max())]
        figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": "#9aa3ad", "dash": "dot"}, showlegend=False, hoverinfo="skip")


def _hover(table: pd.DataFrame) -> list[str]:
    labelled = [column for column in table.columns if column.startswith("labelled_")]
    texts = []
    for _, row in table.iterrows():
        lines = [
            f"<b>{row['formula']}</b>, group {row['space_group_number']}",
            f"{ARMS[row['arm']][0]}, round {row['round']}: {row['status']}",
        ]
        lines += [f"{axis_title(name.removeprefix('labelled_'))}: {row[name]:.3f}" for name in labelled if _is_number(row[name])]
        if row["status"] != "ok":
            lines.append(str(row["reason"]))
        texts.append("<br>".join(lines))
    return texts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def _style(figure: go.Figure) -> go.Figure:
    axis = {"gridcolor": "#eceff2", "zerolinecolor": "#d5dae0", "linecolor": "#9aa3ad", "ticks": "outside", "tickcolor": "#9aa3ad"}
    figure.update_layout(
        template="none",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": "#1b2733"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="white",
        margin={"l": 64, "r": 16, "t": 36, "b": 52},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=380,
    )
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure
