"""Batched relaxation of cells and positions: many crystals walk downhill together, each at its own pace.

Every crystal has a few coordinates: the displacements that its Wyckoff positions leave free and the strains that its lattice system
leaves free (all of them where symmetry is freed). Each walks by a quasi-Newton method with a trust radius (Nocedal and Wright,
*Numerical Optimization*, chapters 4 and 18: damped BFGS; moduli of the eigenvalues, so that saddle points repel). One batched
evaluation serves all crystals of a step; a crystal that is done leaves and the next one takes its place.

Converged means forces **and** stress below their limits; nothing else does. A potential whose neighbour list ends abruptly has kinks,
and a minimum may lie in one, where the derivatives jump from one side to the other and vanish on neither; there, and only between two
points closer than ``settings.kink``, the limits apply to a convex combination of the two sides (Clarke's condition for a stationary
point of a continuous function), and the reason says so. Guards end a walk that has become unphysical.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell, conventional

if TYPE_CHECKING:
    from oracles.potentials import Potential

GPA = 160.21766208  # GPa in one eV/Å3
ATOMIC_STIFFNESS = 12.0  # eV/Å2, curvature assumed before any is known
ELASTIC_STIFFNESS = 0.6  # eV/Å3 (100 GPa)
GENTLE_STEP = 0.05  # Å, first step after a descent
ENERGY_NOISE = 2e-6  # of |energy|: float32 sums
LOOK_BACK, EARLIEST = 10, 20  # evaluations: a walk is compared with its rival by what the last ones gained, and not before
HOPELESS, CLOSE = 3.0, 0.005  # times that gain; eV/atom within which no rival is out of reach

Outcome = Literal["converged", "not converged", "unphysical"]


@dataclass(frozen=True)
class Relaxed:
    """How a relaxation ended.

    Attributes:
        index: place of the crystal in the input.
        outcome: ``converged``, ``not converged`` (step limit) or ``unphysical`` (a guard); ``reason`` says which and with what numbers.
        cell: the last state. energy: eV per (primitive) cell. max_force: eV/Å. max_stress: GPa, largest component.
        evaluations: energies with derivatives that it took. volume_ratio: final over starting volume.
    """

    index: int
    outcome: Outcome
    reason: str
    cell: SymmetricCell
    energy: float
    max_force: float
    max_stress: float
    evaluations: int
    volume_ratio: float

    @property
    def energy_per_atom(self) -> float:
        """eV/atom."""
        return self.energy / self.cell.number_of_atoms


def relax(
    cells: Iterable[SymmetricCell],
    potential: Potential,
    settings: RelaxationSettings,
    *,
    gentle_steps: int = 0,
    rivals: Sequence[float] | None = None,
) -> Iterator[Relaxed]:
    """Relax any number of crystals, yielding each as it ends, in the order in which they end.

    Args:
        cells: where to start; one with ``fixed_cell`` keeps its lattice.
        potential: evaluates ``settings.batch_atoms`` representative atoms together.
        settings: when a walk has arrived, when it has gone wrong, and how it walks.
        gentle_steps: evaluations of inertial descent that every walk begins with (see :class:`GentleWalk`).
        rivals: for each cell an energy in eV/atom; a walk that will hardly get below its own is given up, *not converged*.
    """
    waiting = enumerate(cells)
    walks: list[Walk] = []
    exhausted = False
    while True:
        while not exhausted and (not walks or sum(walk.size for walk in walks) < settings.batch_atoms):
            following = next(waiting, None)
            if following is None:
                exhausted = True
            else:
                rival = np.inf if rivals is None else rivals[following[0]]
                walks.append(GentleWalk(*following, settings, rival, gentle_steps) if gentle_steps else Walk(*following, settings, rival))
        if not walks:
            return
        _evaluate(walks, potential)
        yield from (walk.result() for walk in walks if walk.outcome is not None)
        walks = [walk for walk in walks if walk.outcome is None]


def advance(walks: Sequence[Walk], potential: Potential, steps: int, batch_atoms: int) -> None:
    """Move every walk that has not ended by up to ``steps`` evaluations."""
    for _ in range(steps):
        moving = [walk for walk in walks if walk.outcome is None]
        if not moving:
            return
        batch: list[Walk] = []
        for walk in moving:
            batch.append(walk)
            if walk is moving[-1] or sum(one.size for one in batch) >= batch_atoms:
                _evaluate(batch, potential)
                batch = []


def _evaluate(walks: Sequence[Walk], potential: Potential) -> None:
    found = potential.evaluate_cells([walk.trial for walk in walks])
    for walk, energy, forces, stress in zip(walks, found.energies, found.forces, found.stresses, strict=True):
        walk.receive(float(energy), forces, stress)


def relax_all(
    cells: Sequence[SymmetricCell],
    potential: Potential,
    settings: RelaxationSettings,
    *,
    gentle_steps: int = 0,
    rivals: Sequence[float] | None = None,
) -> list[Relaxed]:
    """As :func:`relax`, in the order of the input."""
    return sorted(relax(cells, potential, settings, gentle_steps=gentle_steps, rivals=rivals), key=lambda one: one.index)


class Walk:
    """One crystal on its way: where it stands, where it tries to go, and what it has learned of the curvature."""

    def __init__(self, index: int, cell: SymmetricCell, settings: RelaxationSettings, rival: float = np.inf) -> None:
        """Start at ``cell``; the first trial is the starting point itself. ``rival``: eV/atom, see :func:`relax`."""
        self.index, self.settings, self.rival = index, settings, rival
        self.lately: deque[float] = deque(maxlen=LOOK_BACK + 1)  # eV/atom at the standing points
        self.start_volume = cell.volume
        self.outcome: Outcome | None = None
        self.reason = ""
        self.evaluations = 0
        self._stand_at(cell)

    def _stand_at(self, cell: SymmetricCell) -> None:
        self.cell = self.trial = cell
        self.atom_basis = _atom_basis(cell)
        self.strain_basis = np.zeros((0, 3, 3)) if cell.fixed_cell else _strain_basis(cell)
        stiffness = ELASTIC_STIFFNESS * cell.volume / ATOMIC_STIFFNESS
        self.strain_scale = np.sqrt(stiffness)  # Å per unit strain: strains then are as stiff as displacements
        self.hessian = np.eye(len(self.atom_basis) + len(self.strain_basis)) * ATOMIC_STIFFNESS
        self.step: np.ndarray | None = None
        self.predicted = 0.0
        self.radius = self.settings.first_step
        self.energy = np.nan
        self.last_gain = 0

    @property
    def size(self) -> int:
        """Representative atoms: what an evaluation costs."""
        return len(self.cell.numbers)

    def receive(self, energy: float, forces: np.ndarray, stress: np.ndarray) -> None:
        """Take the evaluation of the trial, judge it, and choose the next trial (or end)."""
        self.evaluations += 1
        gradient = self._gradient(self.trial, forces, stress)
        if self.step is None:
            self._accept(energy, gradient, forces, stress)
            self._guard_start()
        else:
            if np.isfinite(energy) and np.isfinite(gradient).all():
                self._learn(self.step, gradient - self.gradient)
            gain = self.energy - energy
            noise = ENERGY_NOISE * abs(self.energy)
            quality = (gain + noise) / (self.predicted + noise)
            longest = self._length(self.step)
            if longest <= self.settings.kink and np.isfinite(energy):
                self._look_for_kink(gradient, forces, stress)
            if not np.isfinite(energy) or quality < 0.0:
                self.radius = max(0.35 * min(longest, self.radius), 1e-4)
            elif self.outcome is None:
                if quality < 0.25:
                    self.radius = 0.5 * longest
                elif quality > 0.6 and longest > 0.8 * self.radius:
                    self.radius = min(1.8 * self.radius, self.settings.longest_step)
                self._accept(energy, gradient, forces, stress)
        self._guard()
        self._compare()
        if self.outcome is None:
            self._propose()

    def _compare(self) -> None:
        """Give up where the rival is further below than a few times what the last evaluations gained."""
        self.lately.append(self.energy / self.cell.number_of_atoms)
        above = self.lately[-1] - self.rival
        if self.outcome is None and self.evaluations >= EARLIEST and above > max(CLOSE, HOPELESS * (self.lately[0] - self.lately[-1])):
            self._end("not converged", f"given up after {self.evaluations} steps, {above:.3f} eV/atom above the lowest walk")

    def _look_for_kink(self, gradient: np.ndarray, forces: np.ndarray, stress: np.ndarray) -> None:
        """Converged if between the standing point and the trial right beside it the derivatives pass through zero."""
        jump = self.gradient - gradient
        share = float(np.clip(self.gradient @ jump / max(jump @ jump, 1e-30), 0.0, 1.0))
        force = float(np.linalg.norm((1 - share) * self.forces + share * forces, axis=1).max())
        pressure = 0.0 if self.cell.fixed_cell else float(np.abs((1 - share) * self.stress + share * stress).max() * GPA)
        if force <= self.settings.fmax and pressure <= self.settings.max_stress and 0.0 < share < 1.0:
            self._end("converged", f"in a kink of the potential: force {force:.3f} eV/Å, stress {pressure:.2f} GPa between its two sides")
            self.max_force, self.max_stress = force, pressure

    def _accept(self, energy: float, gradient: np.ndarray, forces: np.ndarray, stress: np.ndarray) -> None:
        if not energy >= self.energy - ENERGY_NOISE * abs(energy):
            self.last_gain = self.evaluations
        self.cell, self.energy, self.gradient = self.trial, energy, gradient
        self.forces, self.stress = forces, stress
        self.max_force = float(np.linalg.norm(forces, axis=1).max())
        self.max_stress = 0.0 if self.cell.fixed_cell else float(np.abs(stress).max() * GPA)

    def _gradient(self, cell: SymmetricCell, forces: np.ndarray, stress: np.ndarray) -> np.ndarray:
        by_atoms = -(np.sqrt(cell.multiplicities)[:, None] * forces).reshape(-1)
        by_strain = cell.volume * np.einsum("kij,ij->k", self.strain_basis, stress) / self.strain_scale
        return np.concatenate([self.atom_basis @ by_atoms, by_strain])

    def _length(self, step: np.ndarray) -> float:
        """The longest displacement of an atom, or edge-like change of the cell, in Å."""
        displacements, strain = self._unpack(step)
        cell_change = float(np.abs(strain).max(initial=0.0)) * self.settings.strain_length
        return max(float(np.linalg.norm(displacements, axis=1).max(initial=0.0)), cell_change)

    def _unpack(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        free = len(self.atom_basis)
        displacements = (step[:free] @ self.atom_basis).reshape(-1, 3) / np.sqrt(self.cell.multiplicities)[:, None]
        return displacements, np.einsum("k,kij->ij", step[free:], self.strain_basis) / self.strain_scale

    def _learn(self, step: np.ndarray, change: np.ndarray) -> None:
        """Damped BFGS update of the Hessian (Powell): it stays positive definite where the curvature is not."""
        pushed = self.hessian @ step
        expected = float(step @ pushed)
        curvature = float(step @ change)
        if curvature < 0.1 * expected:
            mixing = 0.9 * expected / (expected - curvature)
            change = mixing * change + (1 - mixing) * pushed
            curvature = float(step @ change)
        self.hessian += np.outer(change, change) / curvature - np.outer(pushed, pushed) / expected

    def _propose(self) -> None:
        values, vectors = np.linalg.eigh(self.hessian)
        along = vectors.T @ self.gradient
        stiffness = np.clip(values, self.settings.softest, None)
        step = -vectors @ (along / stiffness)
        length = self._length(step)
        if length > self.radius:
            step *= self.radius / length
        self.step = step
        self.predicted = -float(self.gradient @ step + 0.5 * step @ self.hessian @ step)
        self.trial = self.stepped(step)

    def stepped(self, step: np.ndarray) -> SymmetricCell:
        """The standing point moved along the free coordinates, ``(free,)`` in Å (strains scaled to the stiffness of displacements)."""
        displacements, strain = self._unpack(step)
        positions = self.cell.positions + displacements @ np.linalg.inv(self.cell.lattice)
        return self.cell.moved(self.cell.lattice @ _exponential(strain), positions)

    def _guard_start(self) -> None:
        if np.isfinite(self.energy) and self.max_force > self.settings.largest_starting_force:
            self._end("unphysical", f"starting force {self.max_force:.0f} eV/Å over {self.settings.largest_starting_force:g}")

    def _guard(self) -> None:
        """End the walk where it has arrived, left what is physical, or used up its steps."""
        if self.outcome is not None:
            return
        settings = self.settings
        low, high = settings.volume_ratio
        ratio = self.cell.volume / self.start_volume
        per_atom = self.energy / self.cell.number_of_atoms
        if not np.isfinite(self.energy):
            self._end("unphysical", "the potential gives no finite energy: no atom has a neighbour in range, or atoms overlap")
        elif not low <= ratio <= high:
            self._end("unphysical", f"volume went to {ratio:.2f} of the start, outside {low:g} to {high:g}")
        elif not settings.energy_window[0] <= per_atom <= settings.energy_window[1]:
            self._end("unphysical", f"energy {per_atom:.2f} eV/atom outside {settings.energy_window[0]:g} to {settings.energy_window[1]:g}")
        elif self.max_force <= settings.fmax and self.max_stress <= settings.max_stress:
            self._end("converged", f"force {self.max_force:.3f} eV/Å, stress {self.max_stress:.2f} GPa")
        elif self.evaluations >= settings.max_steps or self.evaluations - self.last_gain > settings.patience:
            self._end(
                "not converged",
                f"after {self.evaluations} steps force {self.max_force:.3f} eV/Å (limit {settings.fmax:g}), "
                f"stress {self.max_stress:.2f} GPa (limit {settings.max_stress:g})",
            )

    def _end(self, outcome: Outcome, reason: str) -> None:
        self.outcome, self.reason = outcome, reason

    def result(self) -> Relaxed:
        """How it ended; only once it has."""
        assert self.outcome is not None
        return Relaxed(
            index=self.index,
            outcome=self.outcome,
            reason=self.reason,
            cell=self.cell,
            energy=self.energy,
            max_force=self.max_force,
            max_stress=self.max_stress,
            evaluations=self.evaluations,
            volume_ratio=self.cell.volume / self.start_volume,
        )


class GentleWalk(Walk):
    """A walk that begins with inertial descent, which keeps closer to the valley it starts in, and ends as any other walk.

    FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)) with the constants of ASE, in displacements and strains of the conventional
    cell; a strain counts as long as there are atoms in it (in Å), so that atoms move before the cell does.
    """

    def __init__(self, index: int, cell: SymmetricCell, settings: RelaxationSettings, rival: float, steps: int) -> None:
        """As :class:`Walk`; the first ``steps`` evaluations go to the descent, and no rival ends that."""
        super().__init__(index, cell, settings, rival)
        self.steps = steps
        copies = conventional(cell).number_of_atoms / cell.number_of_atoms
        self.scale = np.sqrt(copies)  # coordinates of the conventional cell over those of this one
        self.strain_scale = cell.number_of_atoms * self.scale
        self.velocity = np.zeros(len(self.hessian))
        self.interval, self.mixing, self.downhill = 0.1, 0.1, 0
        self.descending = True

    def receive(self, energy: float, forces: np.ndarray, stress: np.ndarray) -> None:
        """Every trial of the descent becomes the standing point."""
        if not self.descending:
            super().receive(energy, forces, stress)
            return
        self.evaluations += 1
        self.last_gain = self.evaluations
        first = self.step is None
        self._accept(energy, self._gradient(self.trial, forces, stress), forces, stress)
        if first:
            self._guard_start()
        self._guard()
        if self.outcome is None and self.evaluations >= self.steps:
            self.descending = False
            self.settings = self.settings.model_copy(update={"longest_step": 2 * GENTLE_STEP})
            self._stand_at(self.cell)
            self._accept(energy, self._gradient(self.cell, forces, stress), forces, stress)
            self.last_gain, self.radius = self.evaluations, GENTLE_STEP
        if self.outcome is None:
            self._propose()

    def _propose(self) -> None:
        if not self.descending:
            super()._propose()
            return
        force = -self.gradient * self.scale
        power = float(force @ self.velocity)
        if power > 0:
            along = force * np.sqrt(self.velocity @ self.velocity / (force @ force))
            self.velocity = (1 - self.mixing) * self.velocity + self.mixing * along
            if self.downhill > 5:
                self.interval, self.mixing = min(1.1 * self.interval, 1.0), 0.99 * self.mixing
            self.downhill += 1
        elif self.step is not None:
            self.velocity = np.zeros_like(self.velocity)
            self.interval, self.mixing, self.downhill = 0.5 * self.interval, 0.1, 0
        self.velocity = self.velocity + self.interval * force
        step = self.interval * self.velocity
        self.step = step * min(1.0, 0.2 / max(float(np.linalg.norm(step)), 1e-12)) / self.scale
        self.trial = self.stepped(self.step)


def _atom_basis(cell: SymmetricCell) -> np.ndarray:
    """``(free, 3 x orbits)`` orthonormal rows: Cartesian displacements that the site symmetries leave free."""
    columns = cell.lattice.T
    rows = []
    for orbit, projector in enumerate(cell.site_projectors):
        cartesian = columns @ projector @ np.linalg.inv(columns)
        values, vectors = np.linalg.eigh((cartesian + cartesian.T) / 2)
        for vector in vectors.T[values > 0.5]:
            row = np.zeros((len(cell.numbers), 3))
            row[orbit] = vector
            rows.append(row.reshape(-1))
    return np.array(rows).reshape(len(rows), 3 * len(cell.numbers))


def _strain_basis(cell: SymmetricCell) -> np.ndarray:
    """``(free, 3, 3)`` orthonormal symmetric strains that the point group leaves unchanged."""
    projector = cell.strain_projector
    values, vectors = np.linalg.eigh((projector + projector.T) / 2)
    return vectors.T[values > 0.5].reshape(-1, 3, 3)


def _exponential(strain: np.ndarray) -> np.ndarray:
    """The exponential of a symmetric matrix: a deformation that never inverts the cell."""
    values, vectors = np.linalg.eigh(strain)
    return vectors @ np.diag(np.exp(values)) @ vectors.T
