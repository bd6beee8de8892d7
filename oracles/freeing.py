"""Where a relaxed crystal goes when its symmetry no longer holds it: a label should not be a saddle point.

A crystal that was relaxed with its symmetry kept may sit on a saddle, from which only displacements of lower symmetry lead downhill.
Stirred and relaxed without symmetry, a minimum comes back to itself. What leaves is followed along several walks, since chance decides
into which of the valleys around it falls, and the lowest is kept. The walks take place in the conventional cell of the symmetric
crystal, so that atoms that a centring made equal may part ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from oracles.relaxation import Relaxed, relax_all, stirred
from oracles.settings import FreeingSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

if TYPE_CHECKING:
    from oracles.potentials import Potential

SYMPREC = 0.01  # Å


@dataclass(frozen=True)
class Freed:
    """What became of one crystal.

    Attributes:
        relaxed: the lowest converged state; the symmetric one where none is lower.
        gain: eV/atom that it lies below the symmetric one; None where that did not converge and a walk did.
        walks: how many walks were made. evaluations: energies with derivatives that they took together.
    """

    relaxed: Relaxed
    gain: float | None
    walks: int
    evaluations: int


def free(
    relaxed: Sequence[Relaxed],
    potential: Potential,
    settings: FreeingSettings,
    relaxation: RelaxationSettings,
    generators: Sequence[np.random.Generator],
) -> list[Freed]:
    """Let crystals go that were relaxed with their symmetry kept; all of them are evaluated together.

    Args:
        relaxed: how the relaxations with symmetry ended; what ended unphysical stays as it is.
        potential, relaxation: as in :func:`oracles.relaxation.relax`.
        settings: how far to stir, and how many walks to make.
        generators: one per crystal, so that none depends on its neighbours.

    Returns:
        one :class:`Freed` per crystal, never higher than the symmetric one where that converged.
    """
    starts = [conventional(one.cell) for one in relaxed]
    walks: list[list[Relaxed]] = [[] for _ in relaxed]
    going = [index for index, one in enumerate(relaxed) if one.outcome != "unphysical"]
    for shakes in (settings.shakes[:1], settings.shakes[1:]):
        tasks = [(index, shake) for index in going for shake in shakes]
        cells = [stirred(starts[index], generators[index], shake) for index, shake in tasks]
        for (index, _), one in zip(tasks, relax_all(cells, potential, relaxation), strict=True):
            walks[index].append(one)
        going = [index for index in going if _left(relaxed[index], walks[index][0], settings.tolerance)]
    return [_lowest(one, others) for one, others in zip(relaxed, walks, strict=True)]


def conventional(cell: SymmetricCell) -> SymmetricCell:
    """The conventional cell that spglib finds, without symmetry; the cell itself where it finds none."""
    import spglib

    arrays: Any = cell.to_arrays()
    try:
        found: Any = spglib.standardize_cell(arrays, to_primitive=False, no_idealize=False, symprec=SYMPREC)
    except spglib.SpglibError:
        found = None
    return cell.without_symmetry() if found is None else SymmetricCell.from_arrays(*found, symprec=None)


def _left(kept: Relaxed, walk: Relaxed, tolerance: float) -> bool:
    """Whether the walk found a lower place, or at least did not show that there is none."""
    if kept.outcome == walk.outcome == "converged":
        return kept.energy_per_atom - walk.energy_per_atom > tolerance
    return True


def _lowest(kept: Relaxed, walks: Sequence[Relaxed]) -> Freed:
    evaluations = sum(one.evaluations for one in walks)
    arrived = [one for one in (kept, *walks) if one.outcome == "converged"]
    best = min(arrived, key=lambda one: one.energy_per_atom, default=kept)
    if best is kept:
        return Freed(kept, 0.0, len(walks), evaluations)
    gain = kept.energy_per_atom - best.energy_per_atom if kept.outcome == "converged" else None
    swelling = best.cell.volume / best.cell.number_of_atoms * kept.cell.number_of_atoms / kept.cell.volume
    return Freed(replace(best, volume_ratio=kept.volume_ratio * swelling), gain, len(walks), evaluations)
