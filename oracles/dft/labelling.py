"""From a structure that the potential relaxed to a label of density-functional theory."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from al_crystal.crystal import AtomicStructure, Crystal, Label, Noun, Value
from oracles.dft.settings import DftSettings, GpawSettings

if TYPE_CHECKING:
    from jobflow import Flow, Job
    from pymatgen.core import Structure

THE_ELEMENT = "the element"
"""Whose geometry a reference state has; see :mod:`oracles.dft.references`."""
EV_PER_CUBIC_ANGSTROM = 160.21766208  # GPa


class Promoted(Noun):
    """A labelled crystal on its way to the next level of theory: its id, and its structure as the potential relaxed it."""

    id: str
    structure: AtomicStructure
    relaxed: Crystal | None = None
    reference_of: str | None = Field(default=None, description="the element whose reference state this is, if it is one")


class DftLabeller(BaseModel):
    """Labels promoted crystals; light to construct, and the same wherever it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: DftSettings
    geometry: str = Field(description="level of theory of the potential that relaxed the structures")

    def label(self, promoted: Promoted, attempt: int = 0) -> Label:
        """Run the flow and state what it found: ``ok``, or ``rejected`` where no self-consistency is reached or the cell is too large.

        Properties: ``energy_per_atom`` (eV/atom, raw) and ``band_gap`` (eV). Checks: largest force (eV/Å) and stress (GPa) that DFT
        finds at the potential's geometry, moment, k-points. Whatever else goes wrong is raised, for the engine to make a ``failed``
        label of.
        """
        start = (time.process_time(), time.perf_counter())
        structure = primitive(promoted)
        provenance: dict[str, Any] = {
            "oracle": self.settings.model_dump(mode="json"),
            "geometry": self.geometry,
            "attempt": attempt,
            "versions": {name: version(name) for name in ("atomate2", "jobflow", "pymatgen", *_codes(self.settings))},
        }
        common: dict[str, Any] = {"crystal_id": promoted.id, "provenance": provenance}
        if len(structure) > self.settings.max_atoms:
            reason = f"{len(structure)} atoms in the primitive cell, {self.settings.max_atoms} allowed (max_atoms)"
            return Label(status="rejected", reason=reason, **common)
        try:
            findings = self._run(promoted, structure)
        except NotConverged as error:
            return Label(status="rejected", reason=str(error), **common)
        return Label(
            status="ok",
            reason=f"{self.settings.functional} with {self.settings.kind}",
            relaxed=promoted.relaxed,
            cost={"cpu_s": round(time.process_time() - start[0], 3), "wall_s": round(time.perf_counter() - start[1], 3)},
            **findings,
            **common,
        )

    def _run(self, promoted: Promoted, structure: Structure) -> dict[str, Any]:
        """``properties``, ``checks`` and ``structure`` of the label."""
        if isinstance(self.settings, GpawSettings):
            return _gpaw(self.settings, self.geometry, promoted, structure)
        from oracles.dft.vasp import findings, vasp_flow

        flow = vasp_flow(structure, self.settings)
        return findings(run(flow), flow, self.settings)


class NotConverged(RuntimeError):
    """The code did not reach self-consistency: a property of the crystal, not of the machine."""


def primitive(promoted: Promoted) -> Structure:
    """The primitive cell that is calculated (a reference state is one already), right-handed and in the standard orientation.

    Codes differ in what they make of a left-handed cell: GPAW's drawing of the atoms fails on it.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structure = promoted.structure.to_pymatgen()
    if not promoted.reference_of:
        structure = SpacegroupAnalyzer(structure, symprec=0.01).find_primitive() or structure
    hand = 1.0 if structure.lattice.matrix[0] @ np.cross(*structure.lattice.matrix[1:]) > 0 else -1.0
    return Structure(Lattice.from_parameters(*structure.lattice.parameters), structure.species, hand * structure.frac_coords)


def run(flow: Flow | Job) -> dict[str, Any]:
    """Run a flow to its end in a temporary folder; the outputs by job name (the last of equal names).

    jobflow's store is in memory, and the files of the code go with the folder: what is worth keeping is in the label.
    """
    from jobflow import JobStore, run_locally
    from maggma.stores import MemoryStore

    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore(), "trajectory": MemoryStore()})
    logging.getLogger("jobflow").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="al-crystal-") as folder, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # jobflow's own use of monty
        responses = run_locally(flow, store=store, log=False, create_folders=True, root_dir=folder, raise_immediately=True)
    names = {job.uuid: job.name for job, _ in flow.iterflow()} if hasattr(flow, "iterflow") else {flow.uuid: flow.name}
    return {names.get(uuid, uuid): response[max(response)].output for uuid, response in responses.items()}


def _gpaw(settings: GpawSettings, geometry: str, promoted: Promoted, structure: Structure) -> dict[str, Any]:
    from oracles.dft.gpaw import GpawStaticMaker, level_of_theory
    from oracles.dft.references import UNPAIRED, is_molecule

    maker = GpawStaticMaker.from_settings(settings)
    element = promoted.reference_of
    if element is not None and is_molecule(element):
        maker.kpoint_density = 0.0
        maker.spin = "on" if element in UNPAIRED else "off"
    try:
        (found,) = run(maker.make(structure)).values()
    except Exception as error:
        if type(error).__name__ == "KohnShamConvergenceError":  # GPAW is not imported here
            raise NotConverged(f"no self-consistency within {settings.max_iterations} iterations (max_iterations)") from error
        raise
    level = level_of_theory(settings, THE_ELEMENT if element else geometry)
    stress = max(abs(x) for row in found.stress for x in row) * EV_PER_CUBIC_ANGSTROM if found.stress else None
    return {
        "properties": {
            "energy_per_atom": Value(value=found.energy_per_atom, level_of_theory=level),
            "band_gap": Value(value=found.band_gap, level_of_theory=level),
        },
        "checks": {
            "max_force": max(sum(x * x for x in row) ** 0.5 for row in found.forces),
            "max_stress": stress,
            "direct_gap": found.direct_gap,
            "magnetic_moment": found.magnetic_moment,
            "kpoints": found.kpoints,
        },
        "structure": AtomicStructure.from_pymatgen(structure),
    }


def _codes(settings: DftSettings) -> tuple[str, ...]:
    return ("gpaw", "gpaw-data") if isinstance(settings, GpawSettings) else ("emmet-core", "custodian")
