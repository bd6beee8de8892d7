"""Which labelled crystals go on to the next level of theory, and the references that their formation energies need there."""

from __future__ import annotations

import contextlib
import operator
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from oracles.dft.settings import DftSettings

from .crystal import UNITS, Label, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oracles.dft.labelling import Promoted

    from .config import Campaign
    from .history import RoundState, State

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(r"\s*([a-z_]+)\s*(<=|>=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
NAMES = (*UNITS, "desirability", "number_of_atoms")
"""What a condition may speak of: labelled properties, energy above hull, desirability, atoms in the relaxed conventional cell."""


class PromotionRule(BaseModel):
    """One entry of the YAML list ``promotion``: the best crystals of each round go on to density-functional theory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: DftSettings = Field(description="the level of theory, `kind: gpaw` or `kind: vasp`, with its knobs")
    top: int = Field(default=4, ge=1, description="most crystals promoted in a round, the most desirable first")
    when: str = Field(default="", description="conditions joined by `and`, such as `e_above_hull < 0.05 and band_gap > 0.5`; none if empty")

    @field_validator("when")
    @classmethod
    def _readable(cls, when: str) -> str:
        conditions(when)
        return when

    @property
    def name(self) -> str:
        """Names the rule in the history and in tables."""
        return self.to.kind

    def admits(self, row: dict[str, Any]) -> bool:
        """Whether a row of the ranking meets all conditions; a value that is missing meets none."""
        for name, comparison, bound in conditions(self.when):
            value = row.get(name)
            if value is None or value != value or not COMPARISONS[comparison](float(value), bound):
                return False
        return True


def conditions(when: str) -> list[tuple[str, str, float]]:
    """The conditions of a text as (name, comparison, bound).

    Raises:
        ValueError: what cannot be read, and what may be written instead.
    """
    found = []
    for part in when.split(" and ") if when.strip() else []:
        match = CONDITION.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a condition; write NAME < NUMBER (or <=, >, >=), joined by `and`")
        name, comparison, bound = match.groups()
        if name not in NAMES:
            raise ValueError(f"{name!r} is not known here; allowed: {', '.join(NAMES)}")
        found.append((name, comparison, float(bound)))
    return found


def chosen(rule: PromotionRule, campaign: Campaign, state: State, number: int) -> list[Promoted]:
    """The crystals of a round that a rule promotes, most desirable first; of equal structures only the first that was labelled.

    Later rounds have no say in it, so that the choice is the same whenever it is made.
    """
    from oracles.dft.labelling import Promoted

    from .history import State
    from .results import ranking

    table = ranking(campaign, State(state.start, state.rounds[: number + 1]))
    labels = state.rounds[number].labels
    rows = table[(table["round"] == number) & (table["status"] == "ok") & (table["same_as"] == "")].to_dict("records")
    promoted = []
    for row in rows:
        label = labels[row["id"]]
        values = {name: row.get(f"labelled_{name}", row.get(name)) for name in NAMES}
        values["number_of_atoms"] = label.relaxed.number_of_atoms if label.relaxed else None
        if label.structure is not None and rule.admits(values):
            promoted.append(Promoted(id=row["id"], structure=label.structure, relaxed=label.relaxed))
    return promoted[: rule.top]


def missing(rule: PromotionRule, entry: RoundState, promoted: list[Promoted], retries: int) -> list[tuple[Promoted, int]]:
    """What is still to be labelled, with the number of the next attempt; ``failed`` labels are tried again ``retries`` times."""
    lines = entry.promoted.get(rule.name, {})
    tasks = []
    for one in promoted:
        line = lines.get(one.id)
        if line is None:
            tasks.append((one, 0))
        elif line.label.status == "failed" and line.attempt < retries:
            tasks.append((one, line.attempt + 1))
    return tasks


def references(
    elements: set[str], folder: Path, retries: int, compute: Callable[[list[tuple[Promoted, int]]], Iterable[Label]]
) -> dict[str, Label]:
    """The labels of the elements' reference states, computed once and kept in ``folder``, one file each.

    An element without a simple reference state is left out: see :func:`oracles.dft.references.reference_structure`.
    """
    from oracles.dft.labelling import Promoted
    from oracles.dft.references import NoReference, reference_structure

    paths = {element: folder / f"{element}.json" for element in sorted(elements)}
    labels = {element: Label.model_validate_json(path.read_text()) for element, path in paths.items() if path.exists()}
    tasks: list[tuple[Promoted, int]] = []
    for element in paths:
        known = labels.get(element)
        attempt = 0 if known is None else known.provenance["attempt"] + 1
        if known is None or (known.status == "failed" and attempt <= retries):
            with contextlib.suppress(NoReference):
                tasks.append((Promoted(id=f"reference-{element}", structure=reference_structure(element), reference_of=element), attempt))
    folder.mkdir(parents=True, exist_ok=True)
    for label in compute(tasks) if tasks else ():
        element = label.crystal_id.removeprefix("reference-")
        unfinished = folder / f".{element}"
        unfinished.write_text(label.model_dump_json())
        unfinished.replace(paths[element])
        labels[element] = label
    return labels


def with_formation_energy(label: Label, elements: dict[str, Label] | None) -> Label:
    """The label with its formation energy against the elements, or with the reason why it is withheld (``checks``)."""
    from oracles.dft.references import formation_energy

    if label.status != "ok" or label.structure is None:
        return label
    energy = label.properties["energy_per_atom"]
    composition = {symbol: float(label.structure.species.count(symbol)) for symbol in sorted(set(label.structure.species))}
    found: dict[str, Value] = {
        symbol: elements[symbol].properties["energy_per_atom"]
        for symbol in composition
        if elements and symbol in elements and elements[symbol].status == "ok"
    }
    lacking = [symbol for symbol in composition if symbol not in found]
    if elements is None:
        why = "withheld: no references were asked for (references: withhold)"
    elif lacking:
        why = f"withheld: no reference energy of {', '.join(lacking)} at this level"
    else:
        try:
            value = formation_energy(composition, energy, found)
            return label.model_copy(update={"properties": label.properties | {"formation_energy_per_atom": value}})
        except ValueError as error:
            why = f"withheld: {error}"
    return label.model_copy(update={"checks": label.checks | {"formation_energy_per_atom": why}})


def problems(campaign: Campaign) -> list[str]:
    """What stands in the way of the promotions here (code, licence, pseudopotentials), each with its fix."""
    if not campaign.promotion:
        return []  # what follows imports atomate2
    from oracles.dft import gpaw, vasp
    from oracles.dft.settings import GpawSettings

    found = []
    for rule in campaign.promotion:
        there = gpaw.problems(rule.to, frozenset(campaign.space.elements)) if isinstance(rule.to, GpawSettings) else vasp.problems()
        found += [f"`promotion` to {rule.name}: {problem}" for problem in there]
    return found
