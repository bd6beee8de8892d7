"""The search for the best arrangement of a crystal's atoms: a race of many starts, of which the best few are relaxed to the end.

Static energies choose the starts; these walk a few steps at a time in the proposed cell, and after every heat only the lowest
remain; the survivors come to rest in that cell; then the cell is let go and they relax completely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import Crystal
from oracles.positions import Draft, NoPositions, draw, ranked
from oracles.relaxation import Relaxed, Walk, advance, relax_all
from oracles.settings import PositionSettings, RelaxationSettings

if TYPE_CHECKING:
    from oracles.potentials import Potential


AGREEING = 0.005  # eV/atom
SEARCH_ERROR = {1: 0.08, 2: 0.04}  # eV/atom by arrangements that agree on the lowest


@dataclass(frozen=True)
class Arrangement:
    """One arrangement that came through the race.

    Attributes:
        draft: what was drawn. rest: atoms at rest in the proposed cell. relaxed: cell and atoms relaxed, starting from there.
    """

    draft: Draft
    rest: Relaxed
    relaxed: Relaxed


def search(
    crystal: Crystal,
    potential: Potential,
    positions: PositionSettings,
    relaxation: RelaxationSettings,
    generator: np.random.Generator,
    joining: Sequence[tuple[Draft, Walk]] = (),
) -> list[Arrangement]:
    """The best arrangements found for a crystal, lowest energy first, unphysical ones last; ``joining`` ran another race before.

    Raises:
        NoPositions: when no draw passes the screens, and nothing joins.
    """
    try:
        runners = race(crystal, potential, positions, relaxation, generator)
    except NoPositions:
        if not joining:
            raise
        runners = []
    runners = sorted([*joining, *runners], key=lambda runner: standing(runner[1]))
    runners = _distinct(runners)[: positions.relaxed]
    advance([walk for _, walk in runners], potential, relaxation.max_steps, relaxation.batch_atoms)
    rests = [walk.result() for _, walk in runners]
    relaxed = relax_all([replace(rest.cell, fixed_cell=False) for rest in rests], potential, relaxation)
    found = [Arrangement(draft, rest, one) for (draft, _), rest, one in zip(runners, rests, relaxed, strict=True)]
    return sorted(found, key=lambda one: (one.relaxed.outcome == "unphysical", one.relaxed.energy_per_atom))


def race(
    crystal: Crystal,
    potential: Potential,
    positions: PositionSettings,
    relaxation: RelaxationSettings,
    generator: np.random.Generator,
) -> list[tuple[Draft, Walk]]:
    """The runners of the last heat with their walks in the proposed cell, lowest first; few of them have come to rest.

    Raises:
        NoPositions: when no draw passes the screens.
    """
    drafts = ranked(draw(crystal, positions, generator), potential)
    runners = [(draft, Walk(index, draft.cell, relaxation)) for index, draft in enumerate(_diverse(drafts, positions.heats[0].runners))]
    for heat in positions.heats:
        runners = _distinct(runners)[: heat.runners]
        advance([walk for _, walk in runners], potential, heat.steps, relaxation.batch_atoms)
        runners.sort(key=lambda runner: standing(runner[1]))
    return runners


def _diverse(drafts: Sequence[Draft], count: int) -> list[Draft]:
    """The lowest drafts, half of them chosen so that every way to occupy the sites has its best one in the race while there is room."""
    best: dict[str, int] = {}
    for index, draft in enumerate(drafts):
        best.setdefault(draft.assignment.label, index)
    chosen = sorted(best.values())[: count // 2]
    taken = set(chosen)
    chosen += [index for index in range(len(drafts)) if index not in taken][: count - len(chosen)]
    return [drafts[index] for index in sorted(chosen)]


def standing(walk: Walk) -> float:
    """Energy per atom (eV), infinite for a walk that ended unphysical."""
    return np.inf if walk.outcome == "unphysical" else walk.energy / walk.cell.number_of_atoms


def _distinct(runners: list[tuple[Draft, Walk]]) -> list[tuple[Draft, Walk]]:
    """Without runners that have run into the same hollow: same way to occupy the sites, energy within 0.5 meV/atom."""
    kept: list[tuple[Draft, Walk]] = []
    for draft, walk in runners:
        if not any(
            draft.assignment == other.assignment and walk.evaluations and abs(standing(walk) - standing(rival)) < 5e-4
            for other, rival in kept
        ):
            kept.append((draft, walk))
    return kept


def agreeing(found: Sequence[Arrangement]) -> int:
    """How many of the arrangements relaxed to the lowest energy, within :data:`AGREEING`; 0 where none converged."""
    energies = [one.relaxed.energy_per_atom for one in found if one.relaxed.outcome == "converged"]
    return sum(energy - min(energies) <= AGREEING for energy in energies)


def search_error(found: Sequence[Arrangement], positions: PositionSettings) -> float:
    """How far, in eV/atom, the lowest arrangement found lies above the best there is: root mean square over known crystals.

    A lowest energy that several arrangements reached is the best one; one that a single arrangement reached may not be. Where fewer
    arrangements came through the race than were to be relaxed there are no others, and the error is 0. Measured on the 100 crystals of
    ``benchmarks/oracle_positions.py`` with M3GNet at the default effort, and taken over for other potentials and efforts.
    """
    return 0.0 if len(found) < positions.relaxed else SEARCH_ERROR.get(agreeing(found), 0.0)
