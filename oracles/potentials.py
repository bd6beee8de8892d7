"""Interatomic potentials: where their weights come from, whether they may label, and batched energies, forces and stresses.

``resolve`` decides *which* potential and says why in one line; ``load`` builds it and lets it label only after the self-test on
reference crystals (see :mod:`oracles.self_test`).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from oracles.aggregation import Aggregation
from oracles.weights import MODEL_FILES, WeightsNotFound, find_weights, sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

    from oracles.symmetric_cell import SymmetricCell

MATGL_MODELS: dict[str, tuple[str, str]] = {
    "M3GNet": ("M3GNet-MP-2021.2.8-PES", "M3GNet-MP-2021.2.8"),
    "TensorNet-MatPES": ("TensorNet-MatPES-PBE-v2025.1-PES", "TensorNet-MatPES-PBE-2025.1"),
}
"""Short name: (name of the weights, level of theory)."""
CHGNET_VERSION = "0.3.0"
SEVENNET_MODELS: dict[str, tuple[str, str]] = {
    "SevenNet-0": ("SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", "SevenNet-0-11Jul2024"),
    "SevenNet-l3i5": ("SevenNet_l3i5/checkpoint_l3i5.pth", "SevenNet-l3i5"),
}
"""Short name: (weights in the wheel of sevenn, level of theory)."""


class PotentialRefused(RuntimeError):
    """The potential fails the self-test; the message shows the numbers."""


class PotentialNotFound(FileNotFoundError):
    """The potential that was asked for cannot be had here."""


class PotentialRecord(BaseModel):
    """Which potential labels, where its weights came from and why it was chosen: part of every label's provenance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="short name (see resolve), or module:callable of an ASE calculator")
    source: str = Field(description="folder or file that the weights are in")
    sha256: str = Field(description="SHA-256 of the weights")
    level_of_theory: str = Field(description="what its energies may be compared with: other energies of this very level only")
    reason: str = Field(description="why this potential, in one line")
    aggregation: Aggregation | None = Field(
        default=None, description="atom of an edge that messages are summed into, found by the self-test; None where that is no question"
    )


@dataclass(frozen=True)
class EnergiesForcesStresses:
    """What a potential says of some structures.

    Attributes:
        energies: ``(n,)`` eV per cell; NaN where no atom has a neighbour in range.
        forces: one ``(atoms, 3)`` array per structure, eV/Å.
        stresses: ``(n, 3, 3)`` eV/Å3, dE/dstrain / volume: the pressure is minus a third of the trace (ASE's sign).
    """

    energies: np.ndarray
    forces: list[np.ndarray]
    stresses: np.ndarray

    @property
    def energies_per_atom(self) -> np.ndarray:
        """``(n,)`` eV/atom."""
        return self.energies / np.array([len(force) for force in self.forces])

    def symmetrised(self, cells: Sequence[SymmetricCell]) -> EnergiesForcesStresses:
        """What was found for all atoms of symmetric cells, on their representatives: the part that the symmetry leaves unchanged."""
        forces = [cell.symmetric_forces(cell.on_representatives(force)) for cell, force in zip(cells, self.forces, strict=True)]
        stresses = np.array([cell.symmetric_stress(stress) for cell, stress in zip(cells, self.stresses, strict=True)])
        return EnergiesForcesStresses(self.energies, forces, stresses)


class Potential(ABC):
    """Energies of structures with their derivatives, many structures at a time."""

    def __init__(self, record: PotentialRecord, elements: frozenset[str] | None) -> None:
        """``elements`` are the symbols it knows; None where only trying can tell."""
        self.record = record
        self.elements = elements

    @property
    def level_of_theory(self) -> str:
        """The level of theory of its energies."""
        return self.record.level_of_theory

    @abstractmethod
    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """Energies, forces and stresses of all structures.

        Raises:
            UnknownElement: for an element outside :attr:`elements`.
        """

    def evaluate_cells(self, cells: Sequence[SymmetricCell], derivatives: bool = True) -> EnergiesForcesStresses:
        """As :meth:`evaluate`, for symmetric cells, with the forces on the *representative* atoms only, ``(orbits, 3)`` each.

        Without ``derivatives`` forces and stresses may be zero: for ranking by energy. Potentials that can make use of the symmetry
        do; this one evaluates all atoms.
        """
        return self.evaluate([cell.to_structure() for cell in cells]).symmetrised(cells)

    def atom_features(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """One ``(atoms, width)`` array per structure: what the network knows of each atom before its last layer.

        Raises:
            NotImplementedError: for potentials without such features.
        """
        raise NotImplementedError(f"{self.record.name} has no per-atom features")

    def check_elements(self, structures: Sequence[Structure]) -> None:
        """Refuse elements that the potential was not made for."""
        if self.elements is None:
            return
        for structure in structures:
            unknown = {site.specie.symbol for site in structure} - self.elements
            if unknown:
                raise UnknownElement(f"{self.record.name} does not know {', '.join(sorted(unknown))} (in {structure.composition.formula})")


class UnknownElement(ValueError):
    """A structure holds an element that the potential was not made for."""


def resolve(name: str = "auto", folder: str | Path | None = None) -> PotentialRecord:
    """Decide which potential labels and where its weights are; nothing is loaded yet.

    Args:
        name: ``"M3GNet"``, ``"CHGNet"``, ``"TensorNet-MatPES"``, ``"SevenNet-0"``, ``"SevenNet-l3i5"``, ``"package.module:callable"``
            for any ASE calculator (the callable takes no arguments and returns one), or ``"auto"``: M3GNet where its weights can be
            had, otherwise CHGNet, whose weights are in its wheel.
        folder: where to look for weights first (see :func:`oracles.weights.find_weights`).

    Raises:
        PotentialNotFound: saying what was searched.
    """
    if name == "auto":
        try:
            record = _resolve_matgl("M3GNet", folder)
        except WeightsNotFound as error:
            return _resolve_chgnet(f"auto: CHGNet, whose weights come with its package; {error}")
        return record.model_copy(update={"reason": f"auto: {record.reason}"})
    if name in MATGL_MODELS:
        try:
            return _resolve_matgl(name, folder)
        except WeightsNotFound as error:
            raise PotentialNotFound(f"potential {name!r}: {error}") from error
    if name == "CHGNet":
        return _resolve_chgnet("CHGNet as asked, weights from its wheel")
    if name in SEVENNET_MODELS:
        return _resolve_sevennet(name)
    if ":" in name:
        return _resolve_calculator(name)
    known = ", ".join([*MATGL_MODELS, *SEVENNET_MODELS])
    raise PotentialNotFound(f"potential {name!r} is not known; allowed: auto, CHGNet, {known}, or module:callable")


def _resolve_matgl(name: str, folder: str | Path | None) -> PotentialRecord:
    weights_name, level = MATGL_MODELS[name]
    weights = find_weights(weights_name, folder)
    return PotentialRecord(
        name=name,
        source=str(weights.folder),
        sha256=sha256_of(*(weights.folder / file for file in MODEL_FILES)),
        level_of_theory=level,
        reason=weights.reason,
    )


def _resolve_chgnet(reason: str) -> PotentialRecord:
    specification = importlib.util.find_spec("chgnet")
    if specification is None or specification.origin is None:
        raise PotentialNotFound("the package chgnet is not installed; it carries the weights of CHGNet: pip install chgnet")
    files = sorted((Path(specification.origin).parent / "pretrained" / CHGNET_VERSION).glob("*.pth.tar"))
    if len(files) != 1:
        raise PotentialNotFound(f"chgnet is installed without its weights of version {CHGNET_VERSION} (found {files})")
    return PotentialRecord(
        name="CHGNet", source=str(files[0]), sha256=sha256_of(files[0]), level_of_theory=f"CHGNet-{CHGNET_VERSION}", reason=reason
    )


def _resolve_sevennet(name: str) -> PotentialRecord:
    weights, level = SEVENNET_MODELS[name]
    specification = importlib.util.find_spec("sevenn")
    if specification is None or specification.origin is None:
        raise PotentialNotFound(
            f"potential {name!r}: the package sevenn is not installed; it carries the weights: pip install 'al-crystal[sevennet]'"
        )
    file = Path(specification.origin).parent / "pretrained_potentials" / weights
    if not file.is_file():
        raise PotentialNotFound(f"potential {name!r}: sevenn is installed without its weights ({file} is missing)")
    reason = f"{name} as asked, weights from the wheel of sevenn"
    return PotentialRecord(name=name, source=str(file), sha256=sha256_of(file), level_of_theory=level, reason=reason)


def _resolve_calculator(name: str) -> PotentialRecord:
    module, _, attribute = name.partition(":")
    try:
        specification = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        specification = None
    if specification is None or specification.origin is None or not attribute:
        raise PotentialNotFound(f"potential {name!r}: the module {module!r} cannot be imported here")
    return PotentialRecord(
        name=name,
        source=specification.origin,
        sha256=sha256_of(Path(specification.origin)),
        level_of_theory=name,
        reason=f"the ASE calculator {name} as asked",
    )


_loaded: dict[PotentialRecord, Potential] = {}


def load(record: PotentialRecord) -> Potential:
    """Build a resolved potential and test it on reference crystals; once per process, by the record asked for or the one it came with.

    The record of the returned potential states the aggregation that the self-test found.

    Raises:
        PotentialRefused: when the reference crystals come out wrong, or the weights cannot be read.
    """
    from oracles.self_test import admit

    if record not in _loaded:
        potential = admit(record)
        _loaded[record] = _loaded[potential.record] = potential
    return _loaded[record]
