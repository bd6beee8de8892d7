"""The lattice subspace: reading points of the unit cube as conventional cells, and back.

Each lattice system leaves some of the six cube coordinates free. Every point of the cube is a valid cell: bounds are not tested after the
fact, the intervals that the coordinates are read on are computed from the coordinates before them, so that the map is a bijection between
the free coordinates and the cells inside the windows.

``volumetric`` decoding: (angle, angle, angle, volume, edge, edge). Angles first; then the volume on the part of
``volume_ratio x estimate from the composition`` that ``volume_per_atom`` and the edges allow; then one or two edges, on a logarithmic
scale, relative to the cube root of the product of the edges. ``absolute`` decoding (the paper's): (edge, edge, edge, angle, angle,
angle), linear. The angles of triclinic cells keep volume / (a b c) above ``flatness``: with x, y, z their cosines the metric determinant
1 - x2 - y2 - z2 + 2xyz is concave along each angle's cosine, so that what it allows is an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, radians, sqrt

import numpy as np

from al_crystal.crystal import element_volumes
from gfn.constraints import LatticeWindows
from gfn.symmetry import LATTICE_SYSTEMS

DIMENSIONS = 6
_FIXED_ANGLES: tuple[tuple[float | None, float | None, float | None], ...] = (
    (None, None, None),
    (90.0, None, 90.0),
    (90.0, 90.0, 90.0),
    (90.0, 90.0, 90.0),
    (90.0, 90.0, 120.0),
    (90.0, 90.0, 120.0),
    (90.0, 90.0, 120.0),
    (90.0, 90.0, 90.0),
)
"""Alpha, beta, gamma of each lattice system where symmetry fixes them (ITA conventional cells, hexagonal axes)."""

_FREE_EDGES = (3, 3, 3, 2, 2, 2, 2, 1)
"""Independent edges: three different; a = b and c; or all equal."""

_VOLUMETRIC_FREE = ((0, 1, 2, 3, 4, 5), (1, 3, 4, 5), (3, 4, 5), (3, 4), (3, 4), (3, 4), (3, 4), (3,))
_ABSOLUTE_FREE = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 4), (0, 1, 2), (0, 2), (0, 2), (0, 2), (0, 2), (0,))


class LatticeSpace:
    """Cells inside some windows, of crystals of some elements.

    Attributes:
        free: ``(8, 6)`` bool, the cube coordinates each lattice system leaves free.
        system_feasible: ``(8,)`` bool, lattice systems with some cell inside the windows.
        weights: ``(elements, quantities)`` and limits: ``(8, quantities, 2)``: a composition leaves room for a cell, at every allowed
            angle, where the sums of ``weights`` over its atoms lie inside ``limits``. The first quantity is the estimated volume in Å3.
    """

    def __init__(self, windows: LatticeWindows, elements: Sequence[str]) -> None:
        self.windows = windows
        self.volumetric = self.windows.decoding == "volumetric"
        volumes = element_volumes()
        self.element_volumes = np.array([volumes[symbol] for symbol in elements])
        self.free = np.zeros((len(LATTICE_SYSTEMS), DIMENSIONS), dtype=bool)
        for system, places in enumerate(_VOLUMETRIC_FREE if self.volumetric else _ABSOLUTE_FREE):
            self.free[system, list(places)] = True
        self._angle_one = self._projection()
        self.system_feasible = np.array([self._angles_feasible(system) for system in range(len(LATTICE_SYSTEMS))])
        self.weights, self.limits = self._quantities()

    def decode(self, cube: np.ndarray, system: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Cells ``(n, 6)`` in Å and degrees at points of the cube ``(n, 6)``; counts ``(n, elements)`` give the volume estimate."""
        angles = self._decode_angles(cube[:, 0:3] if self.volumetric else cube[:, 3:6], system)
        if self.volumetric:
            edges = self._decode_edges(cube[:, 3:6], system, self._volume_interval(_unit_volume(angles), counts))
        else:
            low, high = self.windows.lengths
            edges = _tie_edges(low + cube[:, 0:3] * (high - low), system)
        return np.concatenate([edges, angles], axis=1)

    def encode(self, cells: np.ndarray, system: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Points of the cube ``(n, 6)`` of cells ``(n, 6)``; outside [0, 1] where a window is violated, 0 where not free."""
        free = self.free[system]
        angles = self._encode_angles(cells[:, 3:6], system)
        if self.volumetric:
            edges = self._encode_edges(cells, system, self._volume_interval(_unit_volume(cells[:, 3:6]), counts))
            cube = np.concatenate([angles, edges], axis=1)
        else:
            low, high = self.windows.lengths
            cube = np.concatenate([(cells[:, 0:3] - low) / (high - low), angles], axis=1)
        return np.where(free, cube, 0.0)

    # Angles -------------------------------------------------------------------------------------------------------------------

    def _angles_feasible(self, system: int) -> bool:
        low, high = self.windows.angles
        fixed = [angle for angle in _FIXED_ANGLES[system] if angle is not None]
        if any(not low <= angle <= high for angle in fixed):
            return False
        if system == 0:
            return self._angle_one is not None
        if system == 1:
            low, high = self._monoclinic_window()
            return low < high
        return True

    def _monoclinic_window(self) -> tuple[float, float]:
        limit = float(np.degrees(np.arcsin(self.windows.flatness)))
        return max(self.windows.angles[0], limit), min(self.windows.angles[1], 180.0 - limit)

    def _projection(self) -> tuple[float, float] | None:
        """The interval of triclinic alpha for which some beta and gamma exist; the set is convex in the cosines, so one search a side."""
        alphas = np.linspace(*self.windows.angles, 4001)
        low, high = self._beta_interval(np.cos(np.radians(alphas)))
        good = alphas[low < high - 1e-6]
        return (float(good.min()), float(good.max())) if len(good) > 1 else None

    def _beta_interval(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Degrees between which beta may lie, given cos alpha: the projection of the ellipse of (beta, gamma) inside the window."""
        z_low, z_high = (cos(radians(angle)) for angle in reversed(self.windows.angles))
        floor = self.windows.flatness**2
        edge = np.sqrt(np.maximum(0.0, 1 - floor / np.maximum(1 - x * x, floor)))
        ends = []
        for sign in (1.0, -1.0):
            z = np.clip(sign * x * edge, z_low, z_high)
            inside = (1 - x * x) * (1 - z * z) - floor
            ends.append(np.where(inside >= 0, x * z + sign * np.sqrt(np.maximum(inside, 0.0)), -sign * 2.0))
        return _degrees_interval(np.maximum(ends[1], z_low), np.minimum(ends[0], z_high))

    def _gamma_interval(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Degrees between which gamma may lie, given cos alpha and cos beta."""
        z_low, z_high = (cos(radians(angle)) for angle in reversed(self.windows.angles))
        reach = np.sqrt(np.maximum(0.0, (1 - x * x) * (1 - y * y) - self.windows.flatness**2))
        return _degrees_interval(np.maximum(x * y - reach, z_low), np.minimum(x * y + reach, z_high))

    def _decode_angles(self, cube: np.ndarray, system: np.ndarray) -> np.ndarray:
        angles = np.array([[90.0 if angle is None else angle for angle in row] for row in _FIXED_ANGLES])[system]
        rows = np.nonzero(system == 1)[0]
        if len(rows):
            low, high = self._monoclinic_window()
            angles[rows, 1] = low + cube[rows, 1] * (high - low)
        rows = np.nonzero(system == 0)[0]
        if len(rows):
            low, high = self._angle_one or (90.0, 90.0)
            angles[rows, 0] = low + cube[rows, 0] * (high - low)
            x = np.cos(np.radians(angles[rows, 0]))
            lows, highs = self._beta_interval(x)
            angles[rows, 1] = lows + cube[rows, 1] * (highs - lows)
            lows, highs = self._gamma_interval(x, np.cos(np.radians(angles[rows, 1])))
            angles[rows, 2] = lows + cube[rows, 2] * (highs - lows)
        return angles

    def _encode_angles(self, angles: np.ndarray, system: np.ndarray) -> np.ndarray:
        cube = np.zeros_like(angles)
        rows = np.nonzero(system == 1)[0]
        cube[rows, 1] = _fraction(angles[rows, 1], *self._monoclinic_window())
        rows = np.nonzero(system == 0)[0]
        if len(rows):
            x, y = np.cos(np.radians(angles[rows, 0])), np.cos(np.radians(angles[rows, 1]))
            cube[rows, 0] = _fraction(angles[rows, 0], *(self._angle_one or (90.0, 90.0)))
            cube[rows, 1] = _fraction(angles[rows, 1], *self._beta_interval(x))
            cube[rows, 2] = _fraction(angles[rows, 2], *self._gamma_interval(x, y))
        return cube

    # Volume and edges (volumetric decoding), in logarithms -----------------------------------------------------------------

    def _quantities(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights and limits (see the class). The volume has to lie in three intervals: one around the estimate, one by the number of
        atoms, and what the edges allow at the flattest and the fullest angles. Three intervals meet where each two of them do, and
        whether two of them meet is a condition on a sum over the atoms."""
        infinite = float("inf")
        if not self.volumetric:
            return self.element_volumes[:, None], np.tile([0.0, infinite], (len(LATTICE_SYSTEMS), 1, 1))
        (low, high), (shortest, longest) = self.windows.volume_ratio, self.windows.lengths
        flattest, fullest = np.array([self.unit_volumes(system) for system in range(len(LATTICE_SYSTEMS))]).T
        least, most = fullest * shortest**3, flattest * longest**3
        estimate = np.stack([least / high, most / low], axis=1)
        if self.windows.volume_per_atom is None:
            return self.element_volumes[:, None], estimate[:, None]
        dense, loose = self.windows.volume_per_atom
        ones = np.ones_like(self.element_volumes)
        weights = [self.element_volumes, ones, high * self.element_volumes - dense, loose - low * self.element_volumes]
        positive = np.tile([0.0, infinite], (len(LATTICE_SYSTEMS), 1))
        return np.stack(weights, axis=1), np.stack([estimate, np.stack([least / loose, most / dense], axis=1), positive, positive], axis=1)

    def unit_volumes(self, system: int) -> tuple[float, float]:
        """Smallest and largest volume / (a b c) inside the angle windows."""
        if system == 1:
            low, high = (sqrt(1 - cos(radians(angle)) ** 2) for angle in self._monoclinic_window())
            return min(low, high), 1.0 if self.windows.angles[0] <= 90 <= self.windows.angles[1] else max(low, high)
        if system == 0:
            return self.windows.flatness, 1.0
        return (sqrt(0.75), sqrt(0.75)) if 4 <= system <= 6 else (1.0, 1.0)

    def _volume_interval(self, unit: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the smallest and largest product of the edges, given the volume over that product."""
        (shortest, longest), (low, high) = np.log(self.windows.lengths), np.log(self.windows.volume_ratio)
        estimate = np.log(counts @ self.element_volumes)
        low, high = low + estimate, high + estimate
        if self.windows.volume_per_atom is not None:
            dense, loose = np.log(self.windows.volume_per_atom)
            atoms = np.log(counts.sum(axis=1))
            low, high = np.maximum(low, dense + atoms), np.minimum(high, loose + atoms)
        return np.maximum(low - np.log(unit), 3 * shortest), np.minimum(high - np.log(unit), 3 * longest)

    def _edge_interval(self, product: np.ndarray, left: np.ndarray, many: int, ties: int) -> tuple[np.ndarray, np.ndarray]:
        """Interval of an edge's logarithm: ``left`` is what remains of the logarithm of the product, shared by ``ties`` equal edges of this
        kind and ``many`` further ones."""
        shortest, longest = (product / 3 + np.log(ratio) for ratio in self.windows.edge_ratio)
        low = np.maximum(shortest, np.log(self.windows.lengths[0]))
        high = np.minimum(longest, np.log(self.windows.lengths[1]))
        return np.maximum(low, (left - many * high) / ties), np.minimum(high, (left - many * low) / ties)

    def _decode_edges(self, cube: np.ndarray, system: np.ndarray, interval: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        low, high = interval
        product = low + cube[:, 0] * (high - low)
        edges = np.repeat(product[:, None] / 3, 3, axis=1)
        rows = np.nonzero((system >= 3) & (system <= 6))[0]
        low, high = self._edge_interval(product[rows], product[rows], 1, 2)
        edges[rows, 0] = edges[rows, 1] = low + cube[rows, 1] * (high - low)
        edges[rows, 2] = product[rows] - 2 * edges[rows, 0]
        rows = np.nonzero(system < 3)[0]
        low, high = self._edge_interval(product[rows], product[rows], 2, 1)
        edges[rows, 0] = low + cube[rows, 1] * (high - low)
        left = product[rows] - edges[rows, 0]
        low, high = self._edge_interval(product[rows], left, 1, 1)
        edges[rows, 1] = low + cube[rows, 2] * (high - low)
        edges[rows, 2] = left - edges[rows, 1]
        return np.exp(edges)

    def _encode_edges(self, cells: np.ndarray, system: np.ndarray, interval: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        edges = np.log(cells[:, 0:3])
        product = edges.sum(axis=1)
        cube = np.zeros((len(cells), 3))
        cube[:, 0] = _fraction(product, *interval)
        rows = np.nonzero((system >= 3) & (system <= 6))[0]
        cube[rows, 1] = _fraction(edges[rows, 0], *self._edge_interval(product[rows], product[rows], 1, 2))
        rows = np.nonzero(system < 3)[0]
        cube[rows, 1] = _fraction(edges[rows, 0], *self._edge_interval(product[rows], product[rows], 2, 1))
        left = product[rows] - edges[rows, 0]
        cube[rows, 2] = _fraction(edges[rows, 1], *self._edge_interval(product[rows], left, 1, 1))
        return cube


def _unit_volume(angles: np.ndarray) -> np.ndarray:
    """Volume over the product of the edges of cells with these angles ``(n, 3)``."""
    x, y, z = np.cos(np.radians(angles)).T
    return np.sqrt(np.maximum(0.0, 1 - x * x - y * y - z * z + 2 * x * y * z))


def _tie_edges(edges: np.ndarray, system: np.ndarray) -> np.ndarray:
    """Edges that the lattice systems allow: the free ones as given, the tied ones copied."""
    free = np.array(_FREE_EDGES)[system]
    a = edges[:, 0]
    return np.stack([a, np.where(free == 3, edges[:, 1], a), np.where(free == 1, a, edges[:, 2])], axis=1)


def _degrees_interval(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An interval of cosines as one of angles."""
    return np.degrees(np.arccos(np.clip(high, -1, 1))), np.degrees(np.arccos(np.clip(low, -1, 1)))


def _fraction(value: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Where a value lies between two bounds: 0 at the lower, 1 at the upper one; the middle of an interval without width."""
    width = np.maximum(np.asarray(high) - low, 1e-12)
    return np.where(np.asarray(high) - low > 1e-9, (value - low) / width, 0.5)
