"""What a property oracle is: it reads relaxed structures and states values with their level of theory.

An oracle is a frozen pydantic model whose fields are its knobs; it is light to construct, and loads what it needs when it first
evaluates. To add one: a module with a subclass, a line in the union of :mod:`oracles.settings`, a contract subclass in the tests
(``oracles/density.py`` is the example to copy).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from al_crystal.crystal import Value

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from oracles.potentials import Potential


@dataclass(frozen=True)
class Context:
    """What the relaxation already knows of the structures, so that no oracle computes it twice.

    Attributes:
        potential: the potential that relaxed the structures.
        structures: the structures, in the order of ``energies``.
        energies: ``(n,)`` raw energies of the potential, eV per cell.
        models_folder: where weights are looked for first; None for the usual places.
    """

    potential: Potential
    structures: Sequence[Structure]
    energies: np.ndarray
    models_folder: Path | None = None

    @cached_property
    def atom_features(self) -> list[np.ndarray]:
        """One ``(atoms, width)`` array per structure, computed when first asked for."""
        return self.potential.atom_features(self.structures)


class PropertyUnavailable(ValueError):
    """An oracle cannot state its property of a structure (an element it has no reference for, say); the message says why."""


class Oracle(BaseModel, ABC):
    """A property oracle: subclasses state ``kind``, ``provides`` and how to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provides: ClassVar[tuple[str, ...]]
    """The properties it states, named as in :data:`al_crystal.crystal.UNITS` where they are known there."""

    @abstractmethod
    def level_of_theory(self, potential: Potential) -> str:
        """The level of theory of the values, given the potential that relaxed the structures.

        Raises:
            PropertyUnavailable: where nothing is known that turns this potential's output into the property.
        """

    @abstractmethod
    def evaluate(self, structures: Sequence[Structure], context: Context) -> list[dict[str, Value]]:
        """One dictionary per structure with a value for each of ``provides``.

        Raises:
            PropertyUnavailable: naming the structure and the reason.
        """
