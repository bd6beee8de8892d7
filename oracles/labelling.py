"""From a proposed crystal to its label: search, relax, check, and ask the property oracles.

The unit of work is one crystal, and its random numbers follow from its id and the attempt: a label does not depend on what else was
labelled with it, or in which order.
"""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from al_crystal.crystal import AtomicStructure, Crystal, Label, Value
from al_crystal.seeds import rng
from oracles.base import Context, PropertyUnavailable
from oracles.settings import OracleSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oracles.positions import Draft
    from oracles.potentials import Potential, PotentialRecord
    from oracles.relaxation import Relaxed, Walk
    from oracles.search import Arrangement
    from oracles.symmetric_cell import SymmetricCell

LIBRARIES = ("matgl", "torch", "pymatgen", "pyxtal", "spglib", "numpy")
CLOSEST = 0.55  # of the shortest distance of the element pair: atoms that have fallen into each other, or were never apart


@dataclass(frozen=True)
class Labeller:
    """Labels one crystal at a time; light to construct and to send to a worker, the potential is loaded once per process.

    Attributes:
        settings: all knobs. record: which potential (from :func:`oracles.potentials.resolve` or ``load(...).record``).
        seed: the campaign's seed.
        after_looks: whether what first looks find (:mod:`oracles.screening`) joins the race, so that no label lies above a look.
    """

    settings: OracleSettings
    record: PotentialRecord
    seed: int
    after_looks: bool = False

    def label(self, crystal: Crystal, attempt: int = 0) -> Label:
        """The label of a crystal: ``ok``, or ``rejected`` with the reason in a sentence.

        Anything that goes wrong beyond that raises; the engine makes it a ``failed`` label.
        """
        from oracles.positions import NoPositions
        from oracles.potentials import UnknownElement, load
        from oracles.search import search

        cpu, wall = time.process_time(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn about their own deprecations
            potential = load(self.record)
            generator = rng(self.seed, attempt, "label", int(crystal.id[:12], 16))
            try:
                joining = self._looks(crystal, potential) if self.after_looks else []
                effort = self.settings.search(self.record.name)
                found = search(crystal, potential, effort, self.settings.relaxation, generator, joining)
                label = self._judge(crystal, found, potential, generator)
            except (NoPositions, UnknownElement) as refusal:
                label = Label(crystal_id=crystal.id, status="rejected", reason=str(refusal))
        cost = {"cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3)}
        return label.model_copy(update={"cost": cost | label.cost, "provenance": self._provenance(attempt)})

    def label_structure(self, structure: Any, attempt: int = 0) -> Label:
        """The label of a structure whose atoms are known: relaxed as it is, without a search."""
        from oracles.potentials import load
        from oracles.relaxation import relax_all
        from oracles.symmetric_cell import SymmetricCell

        crystal = crystal_of(structure, self.settings.symprec)
        cpu, wall = time.process_time(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            potential = load(self.record)
            potential.check_elements([structure])
            cell = SymmetricCell.from_structure(structure, symprec=self.settings.symprec)
            relaxed = relax_all([cell], potential, self.settings.relaxation)[0]
            checks: dict[str, Any] = {}
            if self.settings.symmetry == "freed":
                generator = rng(self.seed, attempt, "label", int(crystal.id[:12], 16))
                relaxed, _ = self._free(relaxed, cell, potential, generator, checks)
            label = self._state(crystal, relaxed, potential, checks)
        cost = {"cpu_s": round(time.process_time() - cpu, 3), "wall_s": round(time.perf_counter() - wall, 3)}
        return label.model_copy(update={"cost": cost | label.cost, "provenance": self._provenance(attempt)})

    def _looks(self, crystal: Crystal, potential: Potential) -> list[tuple[Draft, Walk]]:
        """What the looks at the crystal find, all that there may be; nothing where they find no arrangement."""
        from oracles.positions import NoPositions
        from oracles.screening import LOOKS, look

        found: list[tuple[Draft, Walk]] = []
        for attempt in range(LOOKS):
            with suppress(NoPositions):
                found += look(crystal, potential, self.settings, self.seed, attempt)
        return found

    def _judge(self, crystal: Crystal, found: Sequence[Arrangement], potential: Potential, generator: np.random.Generator) -> Label:
        """Choose the arrangement to keep, free its symmetry if asked, and state its properties.

        The proposed cell has the energy of whichever arrangement is lowest in it, and none where even there two atoms overlap. That
        a better arrangement may have been missed is part of the standard deviation of the formation energies.
        """
        from oracles.search import agreeing, search_error

        checks: dict[str, Any] = {
            "energies_per_atom": [round(one.relaxed.energy_per_atom, 5) for one in found],
            "outcomes": [one.relaxed.outcome for one in found],
        }
        best = next((one for one in found if one.relaxed.outcome == "converged"), found[0])
        energies = [one.relaxed.energy_per_atom for one in found if one.relaxed.outcome == "converged"]
        checks |= {
            "ways": best.draft.assignment.label,
            "spread": round(float(np.ptp(energies)), 5) if energies else None,
            "agreeing": agreeing(found),
            "lower_but_not_converged": found[0] is not best and found[0].relaxed.outcome == "not converged",
        }
        relaxed = best.relaxed
        evaluations = sum(one.rest.evaluations + one.relaxed.evaluations for one in found)
        if self.settings.symmetry == "freed":
            start = replace(best.rest.cell, fixed_cell=False)
            relaxed, more = self._free(relaxed, start, potential, generator, checks)
            evaluations += more
        label = self._state(crystal, relaxed, potential, checks)
        missed = search_error(found, self.settings.search(self.record.name))
        update: dict[str, Any] = {"cost": {"energy_evaluations": float(evaluations)}, "properties": _less_certain(label.properties, missed)}
        at_rest = [one.rest for one in found if one.rest.outcome == "converged"]
        if label.status == "ok" and at_rest:
            lowest = min(at_rest, key=lambda rest: rest.energy_per_atom)  # not always what relaxes to the lowest
            closest = round(_closest(lowest), 3)
            update["checks"] = label.checks | {"closest_approach_at_rest": closest}
            if closest >= CLOSEST:  # below, no potential was taught what such a cell costs
                update["proposal_properties"] = _less_certain(self._at_rest(lowest, potential), missed)
        return label.model_copy(update=update)

    def _free(
        self, relaxed: Relaxed, start: SymmetricCell, potential: Potential, generator: np.random.Generator, checks: dict[str, Any]
    ) -> tuple[Relaxed, int]:
        """Where the crystal goes without its symmetry, and the evaluations that took; ``checks`` say what was gained."""
        from oracles.freeing import free

        freed = free([relaxed], [start], potential, self.settings.freeing, self.settings.relaxation, [generator])[0]
        checks["freed"] = {"gain": None if freed.gain is None else round(freed.gain, 5), "left": freed.left, "walks": freed.walks}
        return freed.relaxed, freed.evaluations

    def _state(self, crystal: Crystal, relaxed: Relaxed, potential: Potential, checks: dict[str, Any]) -> Label:
        """The label of a relaxed cell: its checks, and where it passes them its properties."""
        structure = relaxed.cell.to_structure()
        checks |= {
            "max_force": round(relaxed.max_force, 5),
            "max_stress": round(relaxed.max_stress, 4),
            "volume_ratio": round(relaxed.volume_ratio, 4),
            "relaxation": relaxed.reason,
        }
        label = Label(
            crystal_id=crystal.id,
            status="rejected",
            reason=f"{relaxed.outcome}: {relaxed.reason}",
            structure=AtomicStructure.from_pymatgen(structure),
            checks=checks,
            cost={"energy_evaluations": float(relaxed.evaluations)},
        )
        if relaxed.outcome != "converged":
            return label
        checks["closest_approach"] = round(_closest(relaxed), 3)
        if checks["closest_approach"] < CLOSEST:
            reason = f"unphysical: two atoms at {checks['closest_approach']:.2f} of the shortest distance of their pair"
            return label.model_copy(update={"reason": reason, "checks": checks})
        properties, unavailable = self._properties(structure, relaxed, potential)
        if unavailable:
            checks["unavailable"] = unavailable
        energy = properties.get("formation_energy_per_atom")
        low, high = self.settings.formation_energy_window
        if energy is not None and not low <= energy.value <= high:
            reason = f"unphysical: formation energy {energy.value:.2f} eV/atom outside {low:g} to {high:g}"
            return label.model_copy(update={"reason": reason, "checks": checks})
        if self.settings.second_potential is not None:
            checks["second_potential"] = self._second_opinion(structure, energy)
        found = crystal_of(structure, self.settings.symprec)
        checks |= {"space_group": found.space_group, "space_group_kept": found.space_group == crystal.space_group}
        reason = "; ".join(["relaxed", *(f"without {name}: {why}" for name, why in unavailable.items())])
        update = {"status": "ok", "reason": reason, "properties": properties, "relaxed": found, "checks": checks}
        return label.model_copy(update=update)

    def _properties(self, structure: Any, relaxed: Relaxed, potential: Potential) -> tuple[dict[str, Value], dict[str, str]]:
        """The properties of the relaxed structure, and for each that cannot be had the reason."""
        context = Context(potential, [structure], np.array([relaxed.energy]), self.settings.models)
        properties = {"energy_per_atom": Value(value=relaxed.energy_per_atom, level_of_theory=potential.level_of_theory)}
        unavailable: dict[str, str] = {}
        for oracle in self.settings.properties:
            try:
                properties |= oracle.evaluate([structure], context)[0]
            except PropertyUnavailable as refusal:
                unavailable |= dict.fromkeys(oracle.provides, str(refusal))
        return properties, unavailable

    def _at_rest(self, rest: Relaxed, potential: Potential) -> dict[str, Value]:
        """Formation energy of the proposed cell with the atoms at rest in it."""
        structure = rest.cell.to_structure()
        context = Context(potential, [structure], np.array([rest.energy]), self.settings.models)
        for oracle in self.settings.properties:
            if "formation_energy_per_atom" in oracle.provides:
                try:
                    return {"formation_energy_per_atom": oracle.evaluate([structure], context)[0]["formation_energy_per_atom"]}
                except PropertyUnavailable:
                    return {}  # the relaxed structure's label says why
        return {}

    def _second_opinion(self, structure: Any, energy: Value | None) -> dict[str, Any]:
        """What another potential says of the relaxed structure: a disagreement check, never a label."""
        from oracles.formation_energy import FormationEnergy
        from oracles.potentials import load, resolve

        assert self.settings.second_potential is not None
        second = load(resolve(self.settings.second_potential, self.settings.models))
        found = second.evaluate([structure])
        opinion: dict[str, Any] = {
            "level_of_theory": second.level_of_theory,
            "max_force": round(float(np.linalg.norm(found.forces[0], axis=1).max()), 4),
        }
        try:
            context = Context(second, [structure], found.energies, self.settings.models)
            value = FormationEnergy().evaluate([structure], context)[0]["formation_energy_per_atom"].value
        except PropertyUnavailable as refusal:
            return opinion | {"formation_energy_per_atom": None, "reason": str(refusal)}
        opinion["formation_energy_per_atom"] = round(value, 5)
        if energy is not None:
            opinion["difference"] = round(value - energy.value, 5)
        return opinion

    def _provenance(self, attempt: int) -> dict[str, Any]:
        return {
            "potential": self.record.model_dump(),
            "libraries": _versions(),
            "seed": self.seed,
            "attempt": attempt,
            "symprec": self.settings.symprec,
        }


def _less_certain(properties: dict[str, Value], error: float) -> dict[str, Value]:
    """The properties with another, independent error (eV/atom) in the formation energy."""
    name = "formation_energy_per_atom"
    value = properties.get(name)
    if value is None or value.standard_deviation is None:
        return properties
    deviation = float(np.hypot(value.standard_deviation, error))
    return properties | {name: value.model_copy(update={"standard_deviation": deviation})}


def unavailable_properties(settings: OracleSettings, potential: Potential) -> dict[str, str]:
    """The properties that no label will have with this potential, each with the reason; to be asked before anything is labelled."""
    missing: dict[str, str] = {}
    for oracle in settings.properties:
        try:
            oracle.level_of_theory(potential)
        except PropertyUnavailable as refusal:
            missing |= dict.fromkeys(oracle.provides, str(refusal))
    return missing


@cache
def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _closest(relaxed: Relaxed) -> float:
    """The smallest distance between two atoms, as a fraction of the shortest one that real crystals show for the pair."""
    from oracles.crowding import crowding

    return float(crowding(relaxed.cell, relaxed.cell.positions[None])[1][0])


def crystal_of(structure: Any, symprec: float) -> Crystal:
    """The crystal of a structure: spglib's group and standardised conventional cell (ITA setting, hexagonal axes for R groups).

    Raises:
        ValueError: where spglib finds no symmetry at this tolerance (Å).
    """
    from collections import Counter

    import spglib
    from pymatgen.core import Element, Lattice

    numbers = [site.specie.Z for site in structure]
    cell: Any = (structure.lattice.matrix, structure.frac_coords, numbers)
    found: Any = spglib.get_symmetry_dataset(cell, symprec=symprec)
    if found is None:
        raise ValueError(f"spglib finds no space group of {structure.composition.formula} at symprec {symprec} Å: two atoms coincide?")
    parameters = Lattice(found.std_lattice).parameters
    counts = Counter(Element.from_Z(int(number)).symbol for number in found.std_types)
    return Crystal(space_group=int(found.number), composition=dict(counts), lattice_parameters=parameters)
