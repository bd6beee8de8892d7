"""The test every potential passes before it may label: reference crystals with known energies and lattice constants.

Two questions, both cheap. Does every reference crystal (that the potential knows the elements of) have lower energy at the lattice
constant that PBE gives than 4 % inside and outside of it? Where golden energies of these weights are on record, are they
reproduced to 2 meV/atom? matgl weights are asked once per aggregation convention, and the convention that answers right is used.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from oracles.aggregation import AGGREGATIONS
from oracles.potentials import MATGL_MODELS, SEVENNET_MODELS, Potential, PotentialRecord, PotentialRefused

if TYPE_CHECKING:
    from pymatgen.core import Structure

STRAIN = 0.04
GOLDEN_TOLERANCE = 0.002  # eV/atom
PRIMITIVE_VECTORS = {"P": np.eye(3), "F": (1 - np.eye(3)) / 2}
"""Rows: the primitive vectors of a cubic cell of edge 1, by the first letter of the space group's symbol."""


@cache
def references() -> dict[str, Any]:
    """The reference crystals and golden energies shipped with the package."""
    return json.loads((files("oracles") / "data" / "reference_crystals.json").read_text())


def reference_structure(name: str, lattice_constant: float | None = None) -> Structure:
    """The primitive cell of a cubic reference crystal, at its own or another lattice constant (Å)."""
    from pymatgen.core import Lattice, Structure

    crystal = references()["crystals"][name]
    constant = lattice_constant or crystal["lattice_constant"]
    lattice = Lattice(constant * PRIMITIVE_VECTORS[crystal["space_group"][0]])
    return Structure(lattice, crystal["species"], constant * np.array(crystal["coordinates"]), coords_are_cartesian=True)


def admit(record: PotentialRecord) -> Potential:
    """Load a potential and hand it over only if the reference crystals come out right.

    Raises:
        PotentialRefused: with a table of what was found and what was expected.
    """
    from oracles.backends import AsePotential, ChgnetPotential, MatglPotential, SevenNetPotential

    matgl = record.name in MATGL_MODELS
    known: dict[str, Any] = dict.fromkeys(MATGL_MODELS, MatglPotential) | dict.fromkeys(SEVENNET_MODELS, SevenNetPotential)
    known["CHGNet"] = ChgnetPotential
    try:
        potential: Any = known.get(record.name, AsePotential)(record)
    except Exception as error:  # whatever reading a damaged file raises: it becomes one refusal with its cause
        raise PotentialRefused(f"{record.name} from {record.source} cannot be loaded: {type(error).__name__}: {error}") from error
    findings = {}
    for aggregation in (None,) if not matgl else AGGREGATIONS if record.aggregation is None else (record.aggregation,):
        if aggregation is not None:
            potential.use_aggregation(aggregation)
        how = "as it is" if aggregation is None else f"messages summed into the {aggregation}"
        findings[how] = examine(potential)
        if not findings[how]:
            return potential
    raise PotentialRefused(_refusal(record, findings))


def examine(potential: Potential) -> list[str]:
    """What is wrong with a potential, one line per reference crystal that fails; empty when it may label."""
    golden = references()["golden_energy_per_atom"].get(potential.level_of_theory, {})
    problems, tested = [], 0
    for name, crystal in references()["crystals"].items():
        if potential.elements is not None and not set(crystal["species"]) <= potential.elements:
            continue
        constant = crystal["lattice_constant"]
        cells = [reference_structure(name, constant * scale) for scale in (1 - STRAIN, 1.0, 1 + STRAIN)]
        try:
            inside, energy, outside = potential.evaluate(cells).energies_per_atom
        except NotImplementedError:  # how ASE calculators say that they do not know an element
            continue
        tested += 1
        if not (np.isfinite(energy) and energy < inside and energy < outside):
            problems.append(
                f"{name}: {inside:.4f}, {energy:.4f}, {outside:.4f} eV/atom at {1 - STRAIN:.2f}, 1, {1 + STRAIN:.2f} x {constant} Å; "
                "the middle one should be the lowest"
            )
        elif name in golden and abs(energy - golden[name]) > GOLDEN_TOLERANCE:
            problems.append(f"{name}: {energy:.4f} eV/atom, should be {golden[name]:.4f} within {GOLDEN_TOLERANCE}")
    return problems if tested else ["it knows the elements of none of the reference crystals"]


def _refusal(record: PotentialRecord, findings: dict[str, list[str]]) -> str:
    lines = [f"{record.name} from {record.source} fails the self-test on reference crystals and must not label."]
    for how, problems in findings.items():
        lines += [f"  {how}:", *(f"    {problem}" for problem in problems)]
    lines.append("  Get the weights again, or name another potential (setting: oracles.potential).")
    return "\n".join(lines)
