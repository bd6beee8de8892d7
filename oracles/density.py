"""Density and volume of the relaxed structure: the smallest oracle there is, and the one to copy.

What a new oracle states: a ``kind`` (its name in the YAML), the properties it ``provides``, its level of theory, and ``evaluate``.
Knobs, where it has any, are pydantic fields with a description and units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from al_crystal.crystal import Value
from oracles.base import Context, Oracle

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from oracles.potentials import Potential


class Density(Oracle):
    """Mass density (g/cm3) and volume per atom (Å3) at the geometry that the potential relaxed to."""

    kind: Literal["density"] = Field(default="density", description="mass density and volume per atom of the relaxed structure")

    provides: ClassVar[tuple[str, ...]] = ("density", "volume_per_atom")

    def level_of_theory(self, potential: Potential) -> str:
        """The potential's own: it decides the geometry."""
        return potential.level_of_theory

    def evaluate(self, structures: Sequence[Structure], context: Context) -> list[dict[str, Value]]:
        """Plain geometry, see :meth:`Oracle.evaluate`."""
        level = self.level_of_theory(context.potential)
        return [
            {
                "density": Value(value=float(structure.density), level_of_theory=level),
                "volume_per_atom": Value(value=structure.volume / len(structure), level_of_theory=level),
            }
            for structure in structures
        ]
