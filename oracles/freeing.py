"""Where a crystal goes when its symmetry does not hold it: a label should not be a saddle point.

A crystal that was relaxed with its symmetry kept may sit on a saddle, from which only displacements of lower symmetry lead downhill.
Stirred and relaxed without symmetry, a minimum comes back to itself and a saddle is left. Which valley a crystal ends in also depends on
how it walks, and on where it loses its symmetry. So there are up to four more walks: one with symmetry that takes the gentle way from the
same start, one from each distinct end with symmetry, stirred, and one from the start without symmetry. The lowest is kept; a walk
without symmetry that will hardly get below the lowest so far is given up.

Walks without symmetry take place in the conventional cell, so that atoms that a centring made equal may part ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from oracles.relaxation import Relaxed, relax_all
from oracles.settings import FreeingSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell, conventional, stirred

if TYPE_CHECKING:
    from oracles.potentials import Potential

CAUTIOUS = {"first_step": 0.05, "longest_step": 0.2}  # Å: walks from the start, which may be far from rest
HARDLY = 0.03  # of the shake: a start has forces of its own


@dataclass(frozen=True)
class Freed:
    """What became of one crystal.

    Attributes:
        relaxed: the lowest converged state; the one with symmetry where none is lower.
        gain: eV/atom that it lies below the one that was given; None where that did not converge and another did.
        left: whether a crystal with symmetry turned out to be no minimum.
        walks: how many walks were made. evaluations: energies with derivatives that they took together.
    """

    relaxed: Relaxed
    gain: float | None
    left: bool
    walks: int
    evaluations: int


def free(
    relaxed: Sequence[Relaxed],
    starts: Sequence[SymmetricCell],
    potential: Potential,
    settings: FreeingSettings,
    relaxation: RelaxationSettings,
    generators: Sequence[np.random.Generator],
) -> list[Freed]:
    """Let crystals go that were relaxed with their symmetry kept; all of them are evaluated together.

    Args:
        relaxed: how the relaxations with symmetry ended. starts: where they began.
        potential, relaxation: as in :func:`oracles.relaxation.relax`.
        settings: how far to stir, and which walks to make.
        generators: one per crystal, so that none depends on its neighbours.

    Returns:
        one :class:`Freed` per crystal, never higher than the one given where that converged.
    """
    ends = [[one] for one in relaxed]
    if settings.gentle_steps:
        for own, gentle in zip(ends, relax_all(starts, potential, relaxation, gentle_steps=settings.gentle_steps), strict=True):
            own.append(gentle)
    walks: list[list[Relaxed]] = [[] for _ in relaxed]

    def lowest(index: int) -> float:
        arrived = [one.energy_per_atom for one in ends[index] + walks[index] if one.outcome == "converged"]
        return min(arrived, default=np.inf)

    tasks = [(index, end) for index, own in enumerate(ends) for end in _distinct(own, settings.tolerance)]
    cells = [stirred(conventional(end.cell), generators[index], settings.shake) for index, end in tasks]
    left = set()
    found = relax_all(cells, potential, relaxation, rivals=[lowest(index) for index, _ in tasks])
    for (index, end), one in zip(tasks, found, strict=True):
        walks[index].append(one)
        if end.outcome == one.outcome == "converged" and end.energy_per_atom - one.energy_per_atom > settings.tolerance:
            left.add(index)
    if settings.from_start:
        pairs = zip(starts, generators, strict=True)
        cells = [stirred(conventional(start), generator, HARDLY * settings.shake) for start, generator in pairs]
        cautious = relaxation.model_copy(update=CAUTIOUS)
        found = relax_all(cells, potential, cautious, rivals=[lowest(index) for index in range(len(starts))])
        for others, one in zip(walks, found, strict=True):
            others.append(one)
    tolerance = settings.tolerance
    return [_lowest(own, others, index in left, tolerance) for index, (own, others) in enumerate(zip(ends, walks, strict=True))]


def _distinct(ends: Sequence[Relaxed], tolerance: float) -> list[Relaxed]:
    """Ends of walks with symmetry that are worth freeing: not unphysical, and not the same valley twice."""
    chosen: list[Relaxed] = []
    for end in ends:
        again = any(abs(end.energy_per_atom - other.energy_per_atom) <= tolerance for other in chosen)
        if end.outcome != "unphysical" and not again:
            chosen.append(end)
    return chosen


def _lowest(ends: Sequence[Relaxed], walks: Sequence[Relaxed], left: bool, tolerance: float) -> Freed:
    """The lowest end with symmetry, unless a walk without ended lower than that by more than what noise can do."""
    given, more = ends[0], [*ends[1:], *walks]
    evaluations = sum(one.evaluations for one in more)
    arrived = [[one for one in some if one.outcome == "converged"] for some in (ends, walks)]
    symmetric, free_ones = (min(some, key=lambda one: one.energy_per_atom, default=None) for some in arrived)
    best = symmetric or free_ones or given
    if symmetric and free_ones and symmetric.energy_per_atom - free_ones.energy_per_atom > tolerance:
        best = free_ones
    if best is given:
        return Freed(given, 0.0, left, len(more), evaluations)
    gain = given.energy_per_atom - best.energy_per_atom if given.outcome == "converged" else None
    swelling = best.cell.volume / best.cell.number_of_atoms * given.cell.number_of_atoms / given.cell.volume
    return Freed(replace(best, volume_ratio=given.volume_ratio * swelling), gain, left, len(more), evaluations)
