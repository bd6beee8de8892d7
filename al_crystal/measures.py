"""What a round achieved, in numbers: label counts, the surrogate's error on the batch it chose, desirabilities, hits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .crystal import Candidate, Label
    from .history import RoundState
    from .objective import Objective

ENERGY = "formation_energy_per_atom"
NORMAL_90 = 1.6449
"""Half-width of the central 90 % of a normal distribution, in standard deviations."""


def labelled_values(label: Label) -> dict[str, float]:
    """The labelled properties as plain numbers, with density and volume per atom of the relaxed crystal where it is known."""
    values = {name: value.value for name, value in label.properties.items()}
    if label.relaxed is not None:
        values.setdefault("density", label.relaxed.density)
        values.setdefault("volume_per_atom", label.relaxed.volume_per_atom)
    return values


def desirability_of(objective: Objective, label: Label) -> float:
    """Desirability of the labelled properties; 0 for a label that is not ``ok`` or lacks one of them."""
    values = labelled_values(label)
    if label.status != "ok" or any(name not in values for name in objective.properties):
        return 0.0
    return float(objective.desirability(values))


def prediction_errors(candidates: list[Candidate], labels: dict[str, Label]) -> dict[str, dict[str, float]]:
    """Error of the frozen predictions against the labels, by property: n, mae, median, bias (predicted - labelled), coverage_90.

    A prediction is of the crystal in the cell it states, so it is held against the proposal's own label where there is one. Labels have
    errors too, those of gaps larger ones than most predictions: the 90 % interval is that of both together.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for candidate in candidates:
        label = labels.get(candidate.id)
        if label is None or label.status != "ok":
            continue
        for name, mean in candidate.prediction.mean.items():
            value = label.proposal_properties.get(name) or label.properties.get(name)
            if value is not None:
                noise = value.standard_deviation or 0.0
                found.setdefault(name, []).append((mean - value.value, candidate.prediction.standard_deviation[name], noise))
    return {name: _summary(rows) for name, rows in found.items()}


def look_errors(entry: RoundState) -> dict[str, float] | None:
    """Error of the surrogate alone about everything that was looked at, picked or not, against the looks; None where nothing was.

    Harder than the errors of the picks, which were chosen with the looks at hand, and of three times as many crystals.
    """
    rows = []
    for screening in (look.screening for look in entry.looks):
        mean, deviation = (getattr(screening.surrogate, kind).get(ENERGY) for kind in ("mean", "standard_deviation"))
        if mean is not None and deviation is not None:
            look = screening.formation_energy_per_atom
            rows.append((mean - look.value, deviation, look.standard_deviation or 0.0))
    return _summary(rows) if rows else None


def _summary(rows: list[tuple[float, float, float]]) -> dict[str, float]:
    """Of errors, standard deviations of the predictions, and of the labels."""
    error, predicted, noise = np.array(rows).T
    deviation = np.hypot(predicted, noise)
    return {
        "n": len(rows),
        "mae": float(np.abs(error).mean()),
        "median": float(np.median(np.abs(error))),
        "bias": float(error.mean()),
        "coverage_90": float((np.abs(error) <= NORMAL_90 * deviation).mean()),
    }


def round_metrics(entry: RoundState, objective: Objective) -> dict[str, Any]:
    """The measurements that close a round (plain numbers, ready for JSON)."""
    desirability: dict[str, list[float]] = {}
    volume_ratios = []
    for candidate in entry.candidates:
        label = entry.labels.get(candidate.id)
        if label is None:
            continue
        desirability.setdefault(candidate.arm, []).append(desirability_of(objective, label))
        if label.status == "ok" and label.relaxed is not None:
            volume_ratios.append(label.relaxed.volume_per_atom / candidate.crystal.volume_per_atom)
    everything = [value for values in desirability.values() for value in values]
    return {
        "labels": dict(Counter(label.status for label in entry.labels.values())),
        "prediction_errors": prediction_errors(entry.candidates, entry.labels),
        "look_errors": look_errors(entry),
        "desirability": {
            arm: {"n": len(values), "mean": float(np.mean(values)), "best": max(values)} for arm, values in desirability.items()
        },
        "best_desirability": max(everything, default=0.0),
        "median_volume_ratio": float(np.median(volume_ratios)) if volume_ratios else None,
        "cpu_s": sum(label.cost.get("cpu_s", 0.0) for label in entry.labels.values()),
    }
