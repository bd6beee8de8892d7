"""From a crystal without positions to atoms in its cell: drawing arrangements, screening them, ranking them.

The ways to put the composition on the Wyckoff positions are enumerated; draws are shared out among them by how likely such a way is in
real crystals and by its freedom; draws whose atoms crowd (against the shortest distances that real crystals show, by element
pair) are dropped; the rest is ranked by one static energy each. A crystal whose good arrangement is not found gets a wrong label.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import ELEMENTS, Crystal
from oracles.settings import PositionSettings
from oracles.symmetric_cell import SymmetricCell
from oracles.wyckoff import Assignment, assignments, conventional_lattice

if TYPE_CHECKING:
    from oracles.potentials import Potential

DRAWS_AT_ONCE = 64
IMAGES = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)


class NoPositions(ValueError):
    """No arrangement of the atoms passes the screens; the message says what was tried."""


@dataclass(frozen=True)
class Draft:
    """One arrangement: the cell (fixed, symmetric), the way its sites are occupied, how crowded it is, its static energy (eV/atom)."""

    cell: SymmetricCell
    assignment: Assignment
    crowding: float
    energy_per_atom: float = float("nan")


@cache
def _distance_table() -> dict[str, dict[str, float]]:
    return json.loads((files("oracles") / "data" / "pair_distances.json").read_text())


def shortest_distance(one: str, other: str) -> float:
    """Å: the shortest distance between two elements that real crystals show (see ``oracles/data/pair_distances.json``)."""
    table = _distance_table()
    first, second = sorted((one, other))
    observed = table["pairs"].get(f"{first}-{second}")
    return observed if observed is not None else table["radii"][first] + table["radii"][second]


def shortest_distances(template: SymmetricCell) -> np.ndarray:
    """``(orbits, orbits)`` Å: the shortest distance between the elements of each pair of orbits."""
    symbols = [ELEMENTS[number - 1] for number in template.numbers]
    return np.array([[shortest_distance(one, other) for other in symbols] for one in symbols])


def crowding(template: SymmetricCell, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much the atoms of drawn arrangements overlap.

    Args:
        template: the cell without positions.
        points: ``(draws, orbits, 3)`` representatives (fractional).

    Returns:
        ``(draws,)`` sum over pairs of (1 - d / d0)^2 per atom where d < d0 = the pair's shortest distance, and ``(draws,)`` the
        smallest d / d0.
    """
    shortest = shortest_distances(template)[:, template.orbit]
    atoms = np.einsum("aij,daj->dai", template.rotations, points[:, template.orbit]) + template.translations
    difference = atoms[:, None] - points[:, :, None]  # (draws, orbits, atoms, 3)
    difference -= np.round(difference)
    cartesian = difference @ template.lattice
    images = IMAGES @ template.lattice
    squared = (
        (cartesian**2).sum(axis=-1)[..., None] + 2 * np.einsum("doac,ic->doai", cartesian, images) + (images**2).sum(axis=-1)
    )  # (draws, orbits, atoms, images)
    squared[squared < 1e-6] = np.inf  # an atom and itself
    ratio = np.sqrt(squared) / shortest[:, :, None]
    overlap = (np.clip(1 - ratio, 0, None) ** 2).sum(axis=(2, 3))
    return (overlap * template.multiplicities).sum(axis=1) / template.number_of_atoms, ratio.min(axis=(1, 2, 3))


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
    coefficients = _distance_table()["ways"]
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
        judged = [crowding(template, points[start : start + DRAWS_AT_ONCE]) for start in range(0, draws, DRAWS_AT_ONCE)]
        overlap, ratio = (np.concatenate(part) for part in zip(*judged, strict=True))
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
