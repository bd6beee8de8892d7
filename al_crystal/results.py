"""What a campaign found: its labels ranked, and which of them are hits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .crystal import UNITS
from .identity import KnownCrystals, distinct_structures, protostructure
from .measures import desirability_of
from .stability import Hull

if TYPE_CHECKING:
    import pandas as pd

    from .config import Campaign
    from .history import State
    from .terminal import Terminal

NEAR_HULL = 0.1
"""eV/atom above the hull up to which a crystal counts as near it (the usual bound for a synthesisable phase)."""


def hull_of(campaign: Campaign, state: State) -> tuple[Hull | None, str]:
    """The hull that energies are measured against, and its name in words.

    The file that the campaign names, if its level of theory is the labels' own; otherwise the campaign's own labels and the
    elements, which is an upper bound of stability only among what was labelled, and is called by that name.

    Raises:
        ConfigError: the hull file is of another level of theory than the labels.
    """
    from .config import ConfigError

    entries, levels = [], set()
    for _, _, label in state.labelled():
        energy = label.properties.get("formation_energy_per_atom")
        if label.status == "ok" and label.relaxed is not None and energy is not None:
            entries.append((label.relaxed.composition, energy.value))
            levels.add(energy.level_of_theory)
    if not entries:
        return None, "no hull: nothing was labelled"
    if len(levels) > 1:
        raise ConfigError(f"{campaign.folder}: labels of several levels of theory cannot share a hull: {', '.join(sorted(levels))}")
    level = levels.pop()
    stability = campaign.stability
    if stability.hull is None or stability.level_of_theory is None:
        return Hull.from_entries(entries, level), "the campaign's own hull (its labels and the elements)"
    if stability.level_of_theory != level:
        raise ConfigError(
            f"stability.level_of_theory: the hull is of {stability.level_of_theory!r}, the labels of {level!r}\n"
            "  allowed: a hull of the labels' own level\n  fix: give such a hull, or none"
        )
    return Hull.from_file(stability.hull, level), f"the hull of {stability.hull.name}"


def ranking(campaign: Campaign, state: State) -> pd.DataFrame:
    """The candidates with their labels, most desirable first.

    Columns beside those of ``State.to_frame``: ``desirability``; ``same_as`` (id of the earlier crystal of the same relaxed
    structure, or empty); ``protostructure``; ``novel`` (not in the campaign's table of known crystals; missing without one);
    ``e_above_hull`` in eV/atom and ``hull`` (its name); ``hit``: converged, unique, novel and within 0.1 eV/atom of the hull.
    """
    import pandas as pd

    frame = state.to_frame()
    if frame.empty:
        return frame
    labels = {candidate.id: label for _, candidate, label in state.labelled()}
    good = {key: label for key, label in labels.items() if label.status == "ok" and label.structure is not None}
    same = distinct_structures({key: label.structure for key, label in good.items() if label.structure is not None})
    hull, name = hull_of(campaign, state)
    known = KnownCrystals.read(campaign.known_crystals) if campaign.known_crystals else None

    rows = []
    for key in frame["id"]:
        label = good.get(key)
        row: dict[str, object] = {
            "desirability": 0.0,
            "same_as": "",
            "protostructure": None,
            "novel": None,
            "e_above_hull": None,
            "hit": False,
        }
        if label is not None and label.relaxed is not None and label.structure is not None:
            energy = label.properties.get("formation_energy_per_atom")
            row["desirability"] = desirability_of(campaign.objective, label)
            row["same_as"] = "" if same[key] == key else same[key]
            row["protostructure"] = protostructure(label.structure)
            row["novel"] = None if known is None else not known.knows(label.relaxed)
            if hull is not None and energy is not None:
                row["e_above_hull"] = hull.energy_above(label.relaxed.composition, energy.value)
            above = row["e_above_hull"]
            row["hit"] = not row["same_as"] and row["novel"] is not False and isinstance(above, float) and above <= NEAR_HULL
        rows.append(row)
    frame = pd.concat([frame, pd.DataFrame(rows)], axis=1)
    frame["hull"] = name
    return frame.sort_values("desirability", ascending=False, kind="stable").reset_index(drop=True)


def write_results(campaign: Campaign, state: State, terminal: Terminal, best: int = 10) -> None:
    """Write the table, the best structures, the exports and the report; name the best crystals and the files."""
    from .export import export_labels
    from .report.page import write_report

    table = ranking(campaign, state)
    files = export_labels(campaign, state, table, best)
    files.append(write_report(campaign, state, table))
    good = table[(table["status"] == "ok") & (table["same_as"] == "")].head(best)
    names = [name for name in (*campaign.objective.properties, "e_above_hull") if f"labelled_{name}" in good or name in good]
    columns = {name: f"labelled_{name}" if f"labelled_{name}" in good else name for name in names}
    rows = []
    for _, row in good.iterrows():
        values = (f"{row[columns[name]]:.3f}" for name in names)
        rows.append([row["formula"], f"{row['relaxed_space_group_number']:.0f}", row["arm"], f"{row['desirability']:.3f}", *values])
    headings = ["crystal", "group", "arm", "desirability", *(f"{name} ({UNITS.get(name, '')})" for name in names)]
    title = f"best of {(table['status'] == 'ok').sum()} converged crystals; e_above_hull against {table['hull'].iloc[0]}"
    terminal.table(title, headings, rows)
    cifs = [path for path in files if path.suffix == ".cif"]
    named = [path for path in files if path.suffix != ".cif"] + [cifs[0].parent / f"best-*.cif ({len(cifs)})"] * bool(cifs)
    terminal.line("written: " + ", ".join(str(path) for path in [campaign.folder / "history.jsonl", *named]))
