"""From a crystal without positions to atoms in its cell: drawing arrangements, screening them, ranking them.

The ways to put the composition on the Wyckoff positions are enumerated; draws are shared out among them by how likely such a way is in
real crystals and by its freedom; draws whose atoms crowd (against the shortest distances that real crystals show, by element
pair) are dropped; the rest is ranked by one static energy each. A crystal whose good arrangement is not found gets a wrong label.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from oracles.crowding import crowding, facts
from oracles.settings import PositionSettings
from oracles.symmetric_cell import SymmetricCell
from oracles.wyckoff import Assignment, assignments, conventional_lattice

if TYPE_CHECKING:
    from al_crystal.crystal import Crystal
    from oracles.potentials import Potential


class NoPositions(ValueError):
    """No arrangement of the atoms passes the screens; the message says what was tried."""


@dataclass(frozen=True)
class Draft:
    """One arrangement: the cell (fixed, symmetric), the way its sites are occupied, how crowded it is, its static energy (eV/atom)."""

    cell: SymmetricCell
    assignment: Assignment
    crowding: float
    energy_per_atom: float = float("nan")


def ways(crystal: Crystal, settings: PositionSettings, generator: np.random.Generator) -> tuple[list[Assignment], np.ndarray]:
    """The ways to occupy the Wyckoff positions (a sample where there are too many), and how likely each is: ``(ways,)``, sums to 1.

    Raises:
        NoPositions: when the composition does not fit the space group.
    """
    found = assignments(crystal.space_group, crystal.composition, settings.enumerated_ways, generator)
    if not found:
        raise NoPositions(f"{crystal.formula}: no way to put {crystal.composition} on the Wyckoff positions of group {crystal.space_group}")
    score = np.array([_log_likelihood(way) for way in found])
    weight = np.exp(score - score.max())
    if len(found) > settings.ways:  # a weighted sample without replacement (Gumbel keys)
        keys = np.log(weight + 1e-300) + generator.gumbel(size=len(found))
        kept = np.argsort(-keys)[: settings.ways]
        found, weight = [found[index] for index in kept], weight[kept]
    return found, weight / weight.sum()


def _log_likelihood(way: Assignment) -> float:
    """Log-odds of a way to occupy the sites among all ways of its composition, fitted on real crystals."""
    coefficients = facts()["ways"]
    return coefficients["site"] * len(way.occupied) + coefficients["freedom"] * way.freedom


def draw(crystal: Crystal, settings: PositionSettings, generator: np.random.Generator) -> list[Draft]:
    """Arrangements that pass the distance screen, the least crowded of many draws for each way to occupy the sites.

    Raises:
        NoPositions: when none passes, or the composition does not fit the group.
    """
    lattice = conventional_lattice(crystal)
    found, likelihood = ways(crystal, settings, generator)
    deadline = time.thread_time() + settings.time_limit_s
    drafts: list[Draft] = []
    closest = 0.0
    share = np.sqrt(likelihood) * np.array([1.0 + way.freedom for way in found])
    share = share / share.sum()
    for index in np.argsort(-likelihood):
        way = found[index]
        template = way.template(lattice, fixed_cell=True)
        keep = 1 if way.freedom == 0 else int(np.ceil(settings.candidates * share[index]))
        draws = 1 if way.freedom == 0 else keep * settings.draws_per_candidate
        points = way.draw(draws, generator)
        overlap, ratio = crowding(template, points)
        closest = max(closest, float(ratio.max()))
        for chosen in np.argsort(overlap)[:keep]:
            if ratio[chosen] >= settings.closest_approach:
                drafts.append(Draft(template.moved(template.lattice, points[chosen]), way, float(overlap[chosen])))
        if time.thread_time() > deadline:
            break
    if not drafts:
        raise NoPositions(
            f"{crystal.formula} in group {crystal.space_group}, {crystal.volume_per_atom:.1f} Å3/atom: {len(found)} ways to occupy the "
            f"Wyckoff positions, and in every draw two atoms are closer than {settings.closest_approach:g} of the shortest distance of "
            f"their pair (best {closest:.2f})"
        )
    return drafts


def ranked(drafts: Sequence[Draft], potential: Potential) -> list[Draft]:
    """The drafts with a finite static energy, lowest first.

    Raises:
        NoPositions: when none has one.
    """
    found = potential.evaluate_cells([draft.cell for draft in drafts], derivatives=False)
    per_atom = found.energies / np.array([draft.cell.number_of_atoms for draft in drafts])
    order = [index for index in np.argsort(per_atom) if np.isfinite(per_atom[index])]
    if not order:
        formula = drafts[0].cell.to_structure().composition.formula
        raise NoPositions(f"{formula}: the potential gives no finite energy for any of {len(drafts)} arrangements")
    return [replace(drafts[index], energy_per_atom=float(per_atom[index])) for index in order]
