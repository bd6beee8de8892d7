"""What a campaign found: its labels ranked, and which of them are hits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .crystal import UNITS
from .identity import KnownCrystals, distinct_structures
from .measures import desirability_of
from .stability import Hull, HullFileError, LevelMismatch

if TYPE_CHECKING:
    import pandas as pd

    from .config import Campaign
    from .crystal import Crystal, Value
    from .history import State
    from .terminal import Terminal

ENERGY = "formation_energy_per_atom"
NEAR_HULL = 0.1
"""eV/atom above the hull up to which a crystal counts as near it (the usual bound for a synthesisable phase)."""
WANTED = 0.5
"""Desirability from which a crystal is what the campaign looks for."""


def hull_of(campaign: Campaign, state: State) -> Hull | None:
    """What energies above hull are measured against; None where nothing was labelled.

    The hull file that the campaign names, or else the campaign's own labels and the elements: the latter only says that nothing
    labelled so far is lower, and is called by that name.

    Raises:
        ConfigError: the labels are of several levels of theory, or the file cannot be read.
    """
    from .config import ConfigError

    stability = campaign.stability
    if stability.hull is not None and stability.level_of_theory is not None:
        try:
            return Hull.from_file(stability.hull, stability.level_of_theory)
        except HullFileError as error:
            raise ConfigError(f"stability.hull: {error}") from None
    entries, levels = [], set()
    for _, _, label in state.labelled():
        energy = label.properties.get(ENERGY)
        if label.status == "ok" and label.relaxed is not None and energy is not None:
            entries.append((label.relaxed.composition, energy.value))
            levels.add(energy.level_of_theory)
    if len(levels) > 1:
        raise ConfigError(f"{campaign.folder}: labels of several levels of theory cannot share a hull: {', '.join(sorted(levels))}")
    return Hull.from_entries(entries, levels.pop()) if levels else None


def promoted_above_hull(state: State) -> dict[str, dict[str, float]]:
    """By promotion and crystal id: eV/atom above the hull of that promotion's own formation energies and the elements.

    One hull for each level of theory: energies of different settings never meet. There is no hull of known phases at these levels,
    so a crystal alone in its chemical system stands at zero, whatever competes with it.
    """
    levels: dict[tuple[str, str], dict[str, tuple[Counter[str], Value]]] = {}
    for entry in state.rounds:
        for name, lines in entry.promoted.items():
            for key, line in lines.items():
                energy, structure = line.label.properties.get(ENERGY), line.label.structure
                if line.label.status == "ok" and energy is not None and structure is not None:
                    levels.setdefault((name, energy.level_of_theory), {})[key] = (Counter(structure.species), energy)
    above: dict[str, dict[str, float]] = {}
    for (name, level), found in levels.items():
        hull = Hull.from_entries([(composition, energy.value) for composition, energy in found.values()], level)
        above.setdefault(name, {}).update({key: hull.value_above(*pair).value for key, pair in found.items()})
    return above


def ranking(campaign: Campaign, state: State) -> pd.DataFrame:
    """The candidates with their labels, most desirable first.

    Columns beside those of ``State.to_frame``: ``desirability``; ``same_as`` (id of the earlier crystal of the same relaxed
    structure, or empty); ``novel`` (not in the campaign's table of known crystals; missing without one); ``e_above_hull`` in eV/atom
    against a reference hull, or ``e_above_campaign_hull`` without one; ``hull`` (its name); ``hit``: a wanted crystal (desirability
    of at least 0.5), converged, unique, novel and within 0.1 eV/atom of a reference hull; missing where that cannot be judged;
    ``<promotion>_e_above_campaign_hull``: :func:`promoted_above_hull`.
    """
    import pandas as pd

    frame = state.to_frame()
    if frame.empty:
        return frame
    labels = {candidate.id: label for _, candidate, label in state.labelled()}
    structures = {key: label.structure for key, label in labels.items() if label.status == "ok" and label.structure is not None}
    same = distinct_structures(structures)
    hull = hull_of(campaign, state)
    above_hull = hull.property_name if hull is not None else "e_above_hull"
    known = KnownCrystals.read(campaign.known_crystals) if campaign.known_crystals else None
    judged = known is not None and hull is not None and hull.source == "reference"

    rows = []
    for key in frame["id"]:
        row: dict[str, Any] = {"desirability": 0.0, "same_as": "", "novel": None, above_hull: None, "hit": False if judged else None}
        label = labels.get(key)
        if label is not None and label.relaxed is not None and key in structures:
            energy = label.properties.get(ENERGY)
            row["desirability"] = desirability_of(campaign.objective, label)
            row["same_as"] = "" if same[key] == key else same[key]
            row["novel"] = None if known is None else not known.knows(label.relaxed)
            row[above_hull] = None if hull is None or energy is None else _above(hull, label.relaxed, energy)
            if judged:
                near = row[above_hull] is not None and row[above_hull] <= NEAR_HULL
                row["hit"] = row["desirability"] >= WANTED and not row["same_as"] and row["novel"] and near
        rows.append(row)
    frame = pd.concat([frame, pd.DataFrame(rows)], axis=1)
    frame["hull"] = "none" if hull is None else "the campaign's own hull" if hull.source == "campaign" else str(campaign.stability.hull)
    for name, above in promoted_above_hull(state).items():
        frame[f"{name}_e_above_campaign_hull"] = frame["id"].map(above)
    return frame.sort_values("desirability", ascending=False, kind="stable").reset_index(drop=True)


def _above(hull: Hull, crystal: Crystal, energy: Value) -> float:
    from .config import ConfigError

    try:
        return hull.value_above(crystal.composition, energy).value
    except LevelMismatch as error:
        raise ConfigError(f"stability.level_of_theory: {error}") from None


def write_results(campaign: Campaign, state: State, terminal: Terminal, best: int = 10) -> None:
    """Write the table, the best structures, the exports and the report; name the best crystals and the files."""
    from .export import export_labels
    from .report.page import write_report

    table = ranking(campaign, state)
    files = export_labels(campaign, state, table, best)
    files.append(write_report(campaign, state, table))
    good = table[(table["status"] == "ok") & (table["same_as"] == "")].head(best)
    targets = {name: f"labelled_{name}" for name in campaign.objective.properties if f"labelled_{name}" in good}
    columns = targets | {name: name for name in ("e_above_hull", "e_above_campaign_hull") if name in good}
    rows = []
    for _, row in good.iterrows():
        values = (f"{row[column]:z.3f}" for column in columns.values())
        rows.append([row["formula"], f"{row['relaxed_space_group_number']:.0f}", row["arm"], f"{row['desirability']:.3f}", *values])
    units = (f"{name.removesuffix('_per_atom')} ({UNITS.get(name, '')})" for name in columns)
    terminal.table(
        f"best of {(table['status'] == 'ok').sum()} converged crystals", ["crystal", "group", "arm", "desirability", *units], rows
    )
    cifs = [path for path in files if path.suffix == ".cif"]
    named = [path for path in files if path.suffix != ".cif"] + [path.parent / f"best-*.cif ({len(cifs)})" for path in cifs[:1]]
    terminal.line("written: " + ", ".join(str(path) for path in [campaign.folder / "history.jsonl", *named]))
