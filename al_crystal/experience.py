"""What earlier campaigns have measured: a campaign begins with it instead of with nothing.

How far a first look lies above a label, and where networks are wrong about what a sampler proposes, is alike from campaign to campaign
(docs/surrogates.md). The package ships crystals that campaigns have looked at, with the energies in the proposed cells that looks and
labels reached; a campaign with the same potential learns them beside what it measures itself, from its first round on.

``python -m al_crystal.experience runs/NAME [runs/OTHER ...] [--number 700] [--output FILE]`` makes such a table from finished campaigns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from .crystal import LATTICE_PARAMETERS, Look, Prediction, Screening, Value, crystals_from_frame, crystals_to_frame
from .screening import ENERGY, evenly

if TYPE_CHECKING:
    import pandas as pd

    from .history import State

SHIPPED = Path(__file__).parent / "data" / "experience.parquet"
NUMBER = 700
"""Crystals that are shipped; a campaign's own take their places where a residual learns no more (:data:`surrogates.residual.MOST`)."""
COLUMNS = {"space_group_number", "composition", *LATTICE_PARAMETERS, "potential", "level_of_theory", "look", "look_deviation"}
COLUMNS |= {"surrogate", "surrogate_deviation", "surrogate_distance", "label", "label_deviation"}
"""Of the table: the crystal, levels of theory, and energies with their standard deviations in eV/atom."""


@dataclass(frozen=True)
class Experience:
    """A crystal that was looked at, and the formation energy in its cell that a label found, where it has one."""

    look: Look
    label: Value | None = None


def experience(potential: str, source: bool | Path = True) -> list[Experience]:
    """What was measured with a potential of this level of theory; nothing where that is another: energies of two levels never meet.

    ``source`` is a file, true for the one that is shipped, or false for none (the setting ``surrogate.experience``).

    Raises:
        ValueError: a file of one's own is no such table, or holds nothing of this potential.
    """
    import pandas as pd

    if not source:
        return []
    frame = pd.read_parquet(SHIPPED if source is True else source)
    if missing := COLUMNS - set(frame):
        raise ValueError(f"{source} lacks the columns {', '.join(sorted(missing))}; make it with python -m al_crystal.experience")
    own = frame[frame["potential"] == potential]
    if own.empty and source is not True:
        others = ", ".join(sorted(set(frame["potential"])))
        raise ValueError(f"{source} holds nothing of the potential {potential}, but of {others}; energies of two levels never meet")
    return from_frame(own)


def from_frame(frame: pd.DataFrame) -> list[Experience]:
    """The rows of a table that :func:`to_frame` made."""
    found = []
    for crystal, row in zip(crystals_from_frame(frame), frame.to_dict("records"), strict=True):
        said = Prediction(
            mean={ENERGY: row["surrogate"]}, standard_deviation={ENERGY: row["surrogate_deviation"]}, distance=row["surrogate_distance"]
        )
        look, label = (_value(row[name], row[f"{name}_deviation"], row["level_of_theory"]) for name in ("look", "label"))
        if look is not None:
            screening = Screening(formation_energy_per_atom=look, surrogate=said)
            found.append(Experience(Look(crystal=crystal, screening=screening), label))
    return found


def to_frame(found: Sequence[Experience], potential: str) -> pd.DataFrame:
    """One row a crystal, with COLUMNS."""
    frame = crystals_to_frame([one.look.crystal for one in found])
    looks = [one.look.screening.formation_energy_per_atom for one in found]
    surrogates = [one.look.screening.surrogate for one in found]
    frame["potential"] = potential
    frame["level_of_theory"] = [look.level_of_theory for look in looks]
    frame["look"], frame["look_deviation"] = [look.value for look in looks], [_deviation(look) for look in looks]
    frame["surrogate"] = [one.mean[ENERGY] for one in surrogates]
    frame["surrogate_deviation"] = [one.standard_deviation[ENERGY] for one in surrogates]
    frame["surrogate_distance"] = [one.distance for one in surrogates]
    frame["label"] = [np.nan if one.label is None else one.label.value for one in found]
    frame["label_deviation"] = [_deviation(one.label) for one in found]
    return frame[[name for name in frame if name in COLUMNS]]


def gathered(state: State) -> list[Experience]:
    """Everything that a campaign has looked at, once, in order; labels where they are ``ok`` and have an energy in the proposed cell."""
    found: dict[str, Experience] = {}
    for entry in state.rounds:
        for look in entry.looks:
            label = entry.labels.get(look.crystal.id)
            value = label.proposal_properties.get(ENERGY) if label is not None and label.status == "ok" else None
            found[look.crystal.id] = Experience(look, value)
    return list(found.values())


def _value(energy: float, deviation: float, level: str) -> Value | None:
    known = deviation if np.isfinite(deviation) else None
    return Value(value=energy, level_of_theory=level, standard_deviation=known) if np.isfinite(energy) else None


def _deviation(value: Value | None) -> float:
    return np.nan if value is None or value.standard_deviation is None else value.standard_deviation


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of screened campaigns with one potential")],
    number: Annotated[int, typer.Option(min=1, help="crystals, taken evenly from all")] = NUMBER,
    output: Annotated[Path, typer.Option(help="file to write; default: the one that is shipped")] = SHIPPED,
) -> None:
    """Make the table that new campaigns begin with.

    Raises:
        typer.BadParameter: where the runs have looked at nothing, or with several potentials.
    """
    from .history import read

    states = [read(run / "history.jsonl") for run in runs]
    potentials = {str(state.start.facts["potential"]["level_of_theory"]) for state in states if state.start is not None}
    found = [one for state in states for one in gathered(state)]
    if not found or len(potentials) != 1:
        raise typer.BadParameter(
            f"{len(found)} looks with {len(potentials)} potentials {sorted(potentials)} in {len(runs)} runs; needed are looks with one "
            "potential: give runs with selection.screened, of one potential at a time"
        )
    table = to_frame(evenly(found, number), potentials.pop())
    table.to_parquet(output, index=False)
    typer.echo(f"{len(table)} of {len(found)} crystals, {int(table['label'].notna().sum())} of them labelled, in {output}")


if __name__ == "__main__":
    typer.run(main)
