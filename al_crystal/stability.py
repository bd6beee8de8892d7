"""Energy above the convex hull of formation energies, one scale at a time.

A hull is made of formation energies per atom on one scale; the elements are on it at zero. Where the entries come from decides what
the number is called: a file or the Materials Project gives the *energy above hull*, the campaign's own labels give the *energy above
the campaign's own hull*, which only says that nothing labelled so far is lower.

The energy of the hull at a composition c is the linear programme: minimise x·E over phases with x >= 0 and x·A = c (A holds the
element fractions of the phases). It is solved for many compositions at a time by the simplex method on stacked small matrices.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from al_crystal.crystal import ATOMIC_NUMBER, Value

Source = Literal["reference", "campaign"]
Composition = Mapping[str, float]

MATERIALS_PROJECT_SCALE = "MP2020 formation energy"
FORMULA_COLUMNS = ("formula", "reduced_formula", "reduced_formula_sorted")
ENERGY_COLUMNS = ("formation_energy_per_atom", "e_form_min", "e_form")
TOLERANCE = 1e-9  # eV/atom: a phase that lowers the hull by less does not count
NUDGE = 1e-8  # keeps a composition that is itself a phase from being a degenerate corner
SMALLEST_DIRECTION = 1e-9  # smaller ones are rounding errors of zero: pivots on them would make the basis singular
PIVOTS = 500
NUMBERS_PER_STACK = 4_000_000  # bounds one stack of phases to 32 MB


class LevelMismatch(ValueError):
    """Two energies of different levels of theory or scales were about to meet."""


class HullFileError(ValueError):
    """A hull file cannot be read; the message says where and what is expected."""


class Hull:
    """The lower envelope of formation energies over composition, on one scale.

    Attributes:
        level_of_theory: the scale that every entry is on; ``Value`` s whose level is this, or an estimate of it
            (``"<method> -> <this>"``), may be compared with it.
        source: ``"reference"`` (a file, the Materials Project) or ``"campaign"`` (the campaign's own labels).
    """

    def __init__(self, entries: Iterable[tuple[Composition, float]], level_of_theory: str, source: Source = "reference") -> None:
        """Of (composition, formation energy in eV/atom) pairs; only the lowest entry of a composition matters."""
        self.level_of_theory = level_of_theory
        self.source = source
        systems: dict[tuple[str, ...], dict[tuple[float, ...], tuple[list[float], float]]] = {}
        for composition, energy in entries:
            total = sum(composition.values())
            elements = tuple(sorted(composition))
            fractions = [composition[element] / total for element in elements]
            phases = systems.setdefault(elements, {})
            key = tuple(round(fraction, 9) for fraction in fractions)
            if key not in phases or energy < phases[key][1]:
                phases[key] = (fractions, energy)
        self._systems = {
            elements: (np.array([fractions for fractions, _ in phases.values()]), np.array([energy for _, energy in phases.values()]))
            for elements, phases in systems.items()
        }
        self._cache: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Number of distinct compositions."""
        return sum(len(energies) for _, energies in self._systems.values())

    @property
    def property_name(self) -> str:
        """Name of the property that :meth:`value_above` states."""
        return "e_above_hull" if self.source == "reference" else "e_above_campaign_hull"

    @property
    def description(self) -> str:
        """What the property is, in words."""
        return "energy above hull" if self.source == "reference" else "energy above the campaign's own hull"

    @classmethod
    def from_entries(cls, entries: Iterable[tuple[Composition, float]], level_of_theory: str) -> Hull:
        """The campaign's own hull: (composition, formation energy in eV/atom) of what it has labelled, and the elements."""
        return cls(entries, level_of_theory, source="campaign")

    @classmethod
    def from_file(cls, path: str | Path, level_of_theory: str, correction: Callable[[Composition], float] | None = None) -> Hull:
        """Of a CSV file (``.gz`` or not) with a formula and a formation energy (eV/atom) per line.

        Args:
            path: the file; its header names one of :data:`FORMULA_COLUMNS` and one of :data:`ENERGY_COLUMNS`.
            level_of_theory: the scale that the entries are on *after* the correction.
            correction: eV/atom to add to an entry of a composition, to carry it from the file's scale to another.

        Raises:
            HullFileError: for a missing file, a missing column or a line that cannot be read.
        """
        entries = _read_entries(Path(path))
        if correction is not None:
            entries = [(composition, energy + correction(composition)) for composition, energy in entries]
        return cls(entries, level_of_theory)

    @classmethod
    def from_materials_project(cls, elements: Iterable[str], api_key: str) -> Hull:
        """Of the stable phases of the Materials Project that hold only these elements (needs ``pip install mp-api`` and a network).

        Raises:
            ImportError: without mp-api, saying how to install it.
        """
        try:
            from mp_api.client import MPRester  # type: ignore[import-not-found]  # optional: only with a key
        except ImportError as error:
            raise ImportError("a hull from the Materials Project needs its client: pip install mp-api (or give a hull file)") from error
        wanted = set(elements)
        with MPRester(api_key) as rester:
            documents = rester.materials.thermo.search(
                is_stable=True, thermo_types=["GGA_GGA+U"], fields=["composition_reduced", "formation_energy_per_atom"]
            )
        phases = ((document.composition_reduced.get_el_amt_dict(), document.formation_energy_per_atom) for document in documents)
        return cls((phase for phase in phases if set(phase[0]) <= wanted), MATERIALS_PROJECT_SCALE)

    def energies(self, compositions: Sequence[Composition]) -> np.ndarray:
        """``(n,)`` energy of the hull at each composition, eV/atom."""
        rows = [tuple(sorted(composition)) for composition in compositions]
        sizes = np.array([len(self._phases(elements)[1]) for elements in rows])
        result = np.zeros(len(rows))
        for count in sorted({len(elements) for elements in rows} - {1}):
            chosen = [i for i in np.argsort(sizes, kind="stable") if len(rows[i]) == count]
            while chosen:
                # rows are sorted by number of phases: as many of the largest as fit into one stack
                rows_per_stack = max(1, NUMBERS_PER_STACK // (count * max(1, sizes[chosen[-1]])))
                stack, chosen = chosen[-rows_per_stack:], chosen[:-rows_per_stack]
                fractions = np.array([[compositions[i][element] for element in rows[i]] for i in stack], dtype=float)
                fractions /= fractions.sum(1, keepdims=True)
                potentials, _ = _solve(fractions, *_stack([self._phases(rows[i]) for i in stack], count))
                result[stack] = (potentials * fractions).sum(1)
        for i, elements in enumerate(rows):
            if len(elements) == 1:
                result[i] = self._phases(elements)[1].min()
        return result

    def energies_above(self, compositions: Sequence[Composition], formation_energies_per_atom: Sequence[float] | np.ndarray) -> np.ndarray:
        """``(n,)`` formation energy minus the hull's, eV/atom; negative for a crystal below everything the hull knows.

        The hull does not hold the crystal itself: a new stable phase comes out negative, where the Materials Project, which adds the
        phase to its hull first, would say 0.
        """
        return np.asarray(formation_energies_per_atom, dtype=float) - self.energies(compositions)

    def energy_above(self, composition: Composition, formation_energy_per_atom: float) -> float:
        """:meth:`energies_above` of one crystal, eV/atom."""
        return float(self.energies_above([composition], [formation_energy_per_atom])[0])

    def value_above(self, composition: Composition, formation_energy: Value) -> Value:
        """Energy above the hull as a labelled number, with the standard deviation of the formation energy.

        Raises:
            LevelMismatch: when the formation energy is not on the scale of the hull.
        """
        level = formation_energy.level_of_theory
        if self.level_of_theory not in (level, level.split(" -> ")[-1]):
            raise LevelMismatch(
                f"a formation energy at the level {level!r} cannot be compared with a hull of "
                f"{self.level_of_theory!r}: give a hull of that level, or convert its entries (see Hull.from_file)"
            )
        return Value(
            value=self.energy_above(composition, formation_energy.value),
            level_of_theory=f"{level}, {self.description}",
            standard_deviation=formation_energy.standard_deviation,
        )

    def decomposition(self, composition: Composition) -> dict[str, float]:
        """The phases of the hull at a composition: reduced formula and share of the atoms."""
        elements = tuple(sorted(composition))
        fractions = np.array([[composition[element] for element in elements]], dtype=float)
        fractions /= fractions.sum()
        _, basis = _solve(fractions, *_stack([self._phases(elements)], len(elements)))
        shares = np.linalg.solve(basis[0], fractions[0])
        return {_formula(elements, phase): float(share) for phase, share in zip(basis[0].T, shares, strict=True) if share > 1e-6}

    def _phases(self, elements: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Fractions ``(m, len(elements))`` and energies ``(m,)`` of the elements (sorted) and all phases within them."""
        if elements not in self._cache:
            blocks, energies = [np.eye(len(elements))], [np.zeros(len(elements))]
            for size in range(1, len(elements) + 1):
                for columns in combinations(range(len(elements)), size):
                    found = self._systems.get(tuple(elements[column] for column in columns))
                    if found is not None:
                        block = np.zeros((len(found[1]), len(elements)))
                        block[:, columns] = found[0]
                        blocks.append(block)
                        energies.append(found[1])
            self._cache[elements] = np.concatenate(blocks), np.concatenate(energies)
        return self._cache[elements]


def _stack(phases: Sequence[tuple[np.ndarray, np.ndarray]], elements: int) -> tuple[np.ndarray, np.ndarray]:
    """Phases of several systems in arrays ``(n, m, elements)`` and ``(n, m)``, padded with phases that never matter."""
    most = max(len(energies) for _, energies in phases)
    fractions = np.zeros((len(phases), most, elements))
    energies = np.full((len(phases), most), np.inf)
    for row, (block, values) in enumerate(phases):
        fractions[row, : len(values)] = block
        energies[row, : len(values)] = values
    return fractions, energies


def _solve(compositions: np.ndarray, phases: np.ndarray, energies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chemical potentials of the hull and the phases in equilibrium, by the primal simplex method from the elements at zero.

    Args:
        compositions: ``(n, d)`` element fractions, all positive.
        phases: ``(n, m, d)`` element fractions of the phases.
        energies: ``(n, m)`` eV/atom; infinite for padding.

    Returns:
        ``(n, d)`` chemical potentials mu (the energy of the hull is mu·c) and ``(n, d, d)`` fractions of the phases in
        equilibrium, one a column.
    """
    n, d = compositions.shape
    nudged = compositions * (1 + NUDGE * np.sqrt(np.arange(2, d + 2)))  # unequal steps: no ties between the ratios below
    basis, basis_energies = np.tile(np.eye(d), (n, 1, 1)), np.zeros((n, d))
    potentials = np.zeros((n, d))
    active = np.arange(n)
    for _ in range(PIVOTS):
        mu = np.linalg.solve(basis[active].transpose(0, 2, 1), basis_energies[active][..., None])[..., 0]
        potentials[active] = mu
        reduced_cost = energies[active] - np.einsum("nmd,nd->nm", phases[active], mu)
        entering = reduced_cost.argmin(1)
        going_on = np.take_along_axis(reduced_cost, entering[:, None], 1)[:, 0] < -TOLERANCE
        active, entering = active[going_on], entering[going_on]
        if not len(active):
            return potentials, basis
        column = phases[active, entering]
        right_sides = np.stack([nudged[active], column], axis=-1)
        amounts, direction = np.moveaxis(np.linalg.solve(basis[active], right_sides), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(direction > SMALLEST_DIRECTION, amounts / direction, np.inf)
        leaving = ratio.argmin(1)
        basis[active, :, leaving] = column
        basis_energies[active, leaving] = energies[active, entering]
    raise RuntimeError(f"the hull was not found within {PIVOTS} pivots at {compositions[active[0]].tolist()}")


def _read_entries(path: Path) -> list[tuple[dict[str, float], float]]:
    if not path.is_file():
        raise HullFileError(f"the hull file {path} does not exist; give a CSV with the columns formula, formation_energy_per_atom")
    entries: list[tuple[dict[str, float], float]] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = csv.DictReader(file)
        header = lines.fieldnames or []
        formula_column = next((name for name in FORMULA_COLUMNS if name in header), None)
        energy_column = next((name for name in ENERGY_COLUMNS if name in header), None)
        if formula_column is None or energy_column is None:
            raise HullFileError(f"{path}:1: columns {list(header)}; needed are one of {FORMULA_COLUMNS} and one of {ENERGY_COLUMNS}")
        for number, line in enumerate(lines, start=2):
            try:
                entries.append((_parse_formula(line[formula_column]), float(line[energy_column])))
            except (ValueError, TypeError) as error:
                raise HullFileError(f"{path}:{number}: {error}") from error
    return entries


def _parse_formula(text: str) -> dict[str, float]:
    """Counts of a formula such as ``Al2O3`` (no parentheses)."""
    counts: dict[str, float] = {}
    for element, count in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", text):
        counts[element] = counts.get(element, 0.0) + (float(count) if count else 1.0)
    if not counts or re.sub(r"[A-Z][a-z]?\d*\.?\d*", "", text) or not set(counts) <= set(ATOMIC_NUMBER) or min(counts.values()) <= 0:
        raise ValueError(f"{text!r} is not a formula of elements and counts, such as Al2O3")
    return counts


def _formula(elements: Sequence[str], fractions: np.ndarray) -> str:
    """Reduced formula of element fractions (pymatgen's convention)."""
    from pymatgen.core import Composition as PymatgenComposition  # late: heavy

    atoms = next((n for n in range(1, 1001) if np.abs(fractions * n - np.round(fractions * n)).max() < 1e-4), 1000)
    counts = {element: round(float(fraction) * atoms) for element, fraction in zip(elements, fractions, strict=True)}
    return str(PymatgenComposition({element: count for element, count in counts.items() if count}).reduced_formula)
