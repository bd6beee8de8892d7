"""How close atoms come: the shortest distances of element pairs in real crystals, and how far an arrangement goes below them.

The overlap of an arrangement is the sum over its pairs of ``(1 - d / d0)^2`` where ``d < d0``, per atom; ``d0`` is the shortest
distance between two such elements that real crystals show (``oracles/data/pair_distances.json``, fitted by
``oracles/fit_positions.py``). It screens drafts (:mod:`oracles.positions`), and a packing search lowers it (:mod:`oracles.packing`); the
loops are compiled, for both ask it of hundreds of arrangements a crystal.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from al_crystal.crystal import ELEMENTS

if TYPE_CHECKING:
    from oracles.symmetric_cell import SymmetricCell

IMAGES = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=float)
ITSELF, FAR = 1e-6, 1e9
"""Å2: below the first a representative meets itself, not an image of it; the second stands for no distance at all."""


class Orbits(NamedTuple):
    """A cell without positions, as the kernels want it.

    ``rotations`` (atoms, 3, 3) and ``translations`` (atoms, 3) make atoms of representatives; ``first`` (orbits + 1,) is where each
    orbit's atoms begin; ``lattice`` (3, 3) has the vectors as rows; ``images`` (3, 27) are the cells around, Å; ``shortest`` (orbits,
    orbits) is d0, Å.
    """

    rotations: np.ndarray
    translations: np.ndarray
    first: np.ndarray
    lattice: np.ndarray
    images: np.ndarray
    shortest: np.ndarray

    @classmethod
    def of(cls, template: SymmetricCell) -> Orbits:
        """Those of a symmetric cell; the first operation of each orbit is the identity."""
        first = np.concatenate([[0], np.cumsum(template.multiplicities)])
        images = np.ascontiguousarray((IMAGES @ template.lattice).T)
        shortest = shortest_distances(template)
        return cls(template.rotations, template.translations, first, np.ascontiguousarray(template.lattice), images, shortest)


@cache
def facts() -> dict[str, dict[str, float]]:
    """What real crystals show: distances of ``pairs``, ``radii``, and the log-odds of ``ways`` to occupy Wyckoff positions."""
    return json.loads((files("oracles") / "data" / "pair_distances.json").read_text())


def shortest_distance(one: str, other: str) -> float:
    """Å: the shortest distance between two elements that real crystals show (see ``oracles/data/pair_distances.json``)."""
    first, second = sorted((one, other))
    observed = facts()["pairs"].get(f"{first}-{second}")
    return observed if observed is not None else facts()["radii"][first] + facts()["radii"][second]


def shortest_distances(template: SymmetricCell) -> np.ndarray:
    """``(orbits, orbits)`` Å: the shortest distance between the elements of each pair of orbits."""
    symbols = [ELEMENTS[number - 1] for number in template.numbers]
    return np.array([[shortest_distance(one, other) for other in symbols] for one in symbols])


def crowding(template: SymmetricCell, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much the atoms of arrangements overlap.

    Args:
        template: the cell without positions.
        points: ``(draws, orbits, 3)`` representatives (fractional).

    Returns:
        ``(draws,)`` overlap per atom, and ``(draws,)`` the smallest d / d0.
    """
    return _crowding(points, Orbits.of(template))


@njit(cache=True, fastmath=True, error_model="numpy")
def _crowding(points, cell):
    overlaps, closest = np.empty(len(points)), np.empty(len(points))
    atoms = np.empty((len(cell.rotations), 3))
    for d in range(len(points)):
        for m in range(points.shape[1]):
            place(m, points[d, m], cell, atoms)
        overlaps[d], closest[d] = of_all(atoms, cell)
    return overlaps, closest


@njit(cache=True, fastmath=True, error_model="numpy")
def place(m, point, cell, atoms):
    """Write the atoms of an orbit, made of its representative, into ``atoms`` (atoms, 3)."""
    rotations, translations = cell.rotations, cell.translations
    for a in range(cell.first[m], cell.first[m + 1]):
        for i in range(3):
            atoms[a, i] = rotations[a, i, 0] * point[0] + rotations[a, i, 1] * point[1] + rotations[a, i, 2] * point[2] + translations[a, i]


@njit(cache=True, fastmath=True, error_model="numpy")
def of_all(atoms, cell):
    """Overlap of all atoms, per atom, and the smallest d / d0."""
    total, closest, first = 0.0, FAR, cell.first
    for m in range(len(first) - 1):
        own = 0.0
        for o in range(len(first) - 1):
            for a in range(first[o], first[o + 1]):
                pair, nearest = _pair(atoms[first[m]], atoms[a], ITSELF if a == first[m] else -1.0, cell, m, o)
                own += pair
                closest = min(closest, math.sqrt(nearest) / cell.shortest[m, o])
        total += (first[m + 1] - first[m]) * own
    return total / first[-1], closest


@njit(cache=True, fastmath=True, error_model="numpy")
def of_orbit(m, atoms, cell):
    """What an orbit's atoms contribute to the overlap of all, per atom: its own pairs once, those with other orbits from both sides."""
    own, others, first = 0.0, 0.0, cell.first
    for o in range(len(first) - 1):
        for a in range(first[o], first[o + 1]):
            if o == m:
                own += _pair(atoms[first[m]], atoms[a], ITSELF if a == first[m] else -1.0, cell, m, o)[0]
            else:
                others += _pair(atoms[first[m]], atoms[a], -1.0, cell, m, o)[0]
    return (first[m + 1] - first[m]) * (own + 2.0 * others) / first[-1]


@njit(cache=True, fastmath=True, error_model="numpy")
def _pair(point, atom, beyond, cell, m, o):
    """Overlap of a representative with all images of one atom that are further away than ``beyond`` (Å2), and the nearest one's Å2."""
    lattice, images, shortest = cell.lattice, cell.images, cell.shortest[m, o]
    a, b, c = atom[0] - point[0], atom[1] - point[1], atom[2] - point[2]
    a, b, c = a - np.rint(a), b - np.rint(b), c - np.rint(c)
    x = a * lattice[0, 0] + b * lattice[1, 0] + c * lattice[2, 0]
    y = a * lattice[0, 1] + b * lattice[1, 1] + c * lattice[2, 1]
    z = a * lattice[0, 2] + b * lattice[1, 2] + c * lattice[2, 2]
    nearest = FAR
    for i in range(images.shape[1]):  # most atoms overlap with none: this loop is all there is to them, and it vectorises
        u, v, w = x + images[0, i], y + images[1, i], z + images[2, i]
        squared = u * u + v * v + w * w
        nearest = min(nearest, squared if squared > beyond else FAR)
    limit = shortest * shortest
    total = 0.0
    if nearest < limit:
        for i in range(images.shape[1]):
            u, v, w = x + images[0, i], y + images[1, i], z + images[2, i]
            squared = u * u + v * v + w * w
            if beyond < squared < limit:
                short = 1.0 - math.sqrt(squared) / shortest
                total += short * short
    return total, nearest
