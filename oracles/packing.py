"""Whether a cell has room for its atoms: a packing search, geometry alone, some hundredths of a second a crystal.

A sampler asks for space groups, compositions and cells together, and some leave the atoms no room: whatever Wyckoff positions they
take, two of them come closer than they ever do in real crystals, and the energy lies far above what composition, group and cell tell a
surrogate. Here the atoms of the likeliest ways to occupy the positions are drawn at random and then moved, one orbit at a time, wherever
that lowers their overlap (:func:`oracles.positions.crowding`, of which this is the compiled form); no energy is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from al_crystal.seeds import rng
from oracles.positions import IMAGES, NoPositions, shortest_distances, ways
from oracles.settings import PositionSettings
from oracles.wyckoff import conventional_lattice

if TYPE_CHECKING:
    from al_crystal.crystal import Crystal
    from oracles.symmetric_cell import SymmetricCell
    from oracles.wyckoff import Assignment

SEARCH = PositionSettings(enumerated_ways=300, ways=40)
"""Which ways to occupy the Wyckoff positions are tried."""
DRAWS = 12
"""Random arrangements of each way; the least crowded one is moved."""
SWEEPS = 40
"""How often each orbit of an arrangement tries a move."""
LONGEST, SHORTEST = 0.8, 0.05
"""Å: standard deviation of the moves of the first sweep and of the last."""

ITSELF, FAR = 1e-6, 1e9
"""Å2: below the first a representative meets itself, not an image of it; the second stands for no distance at all."""


def overlap(crystal: Crystal, enough: float = 0.0) -> float:
    """The least overlap found, per atom: the sum of (1 - d / d0)^2 over its pairs with d < d0, their shortest distance in real crystals.

    Infinite where the composition does not fit the group's Wyckoff positions. The search ends at an overlap of ``enough`` or less. The
    same crystal has the same overlap whenever it is asked for.
    """
    generator = rng(0, 0, "packing", int(crystal.id[:12], 16))
    try:
        found, likelihood = ways(crystal, SEARCH, generator)
    except NoPositions:
        return math.inf
    lattice = conventional_lattice(crystal)
    least = math.inf
    for index in np.argsort(-likelihood):
        least = min(least, _least(found[index], lattice, enough, generator))
        if least <= enough:
            break
    return least


def arranged(template: SymmetricCell, points: np.ndarray) -> float:
    """Overlap per atom of one arrangement: the cell without positions, and its representatives ``(orbits, 3)`` (fractional)."""
    return _packed(template, points[None], moving=[], enough=0.0, generator=rng(0, 0, "packing"))


def _least(way: Assignment, lattice: np.ndarray, enough: float, generator: np.random.Generator) -> float:
    """The least overlap found with one way to occupy the positions."""
    points = way.draw(DRAWS if way.freedom else 1, generator)
    moving = [orbit for orbit, site in enumerate(way.sites) if site.freedom]
    return _packed(way.template(lattice, fixed_cell=True), points, moving, enough, generator)


def _packed(template: SymmetricCell, points: np.ndarray, moving: list[int], enough: float, generator: np.random.Generator) -> float:
    """What the kernel finds from the draws ``(draws, orbits, 3)``, of which it moves the orbits named."""
    first = np.concatenate([[0], np.cumsum(template.multiplicities)])  # where each orbit's atoms begin
    images = np.ascontiguousarray((IMAGES @ template.lattice).T)
    free = np.einsum("sij,kj->ski", template.site_projectors, np.linalg.inv(template.lattice))  # a move in Å: its free part, fractional
    cell = (template.rotations, template.translations, first, template.lattice, images, shortest_distances(template))
    return float(_pack(points, cell, free, np.array(moving, dtype=np.int64), enough, generator))


@njit(cache=True, fastmath=True, error_model="numpy")
def _pair(point, atom, beyond, lattice, images, shortest):
    """Overlap of a representative with all images of one atom, those that are further away than ``beyond`` (Å2)."""
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
    if nearest >= limit:
        return 0.0
    total = 0.0
    for i in range(images.shape[1]):
        u, v, w = x + images[0, i], y + images[1, i], z + images[2, i]
        squared = u * u + v * v + w * w
        if beyond < squared < limit:
            short = 1.0 - math.sqrt(squared) / shortest
            total += short * short
    return total


@njit(cache=True, fastmath=True, error_model="numpy")
def _of_orbit(m, atoms, first, lattice, images, shortest):
    """What an orbit's atoms contribute to the overlap of all: its own pairs once, those with other orbits from both sides."""
    own, others = 0.0, 0.0
    point = atoms[first[m]]
    for o in range(len(first) - 1):
        for a in range(first[o], first[o + 1]):
            if o == m:
                own += _pair(point, atoms[a], ITSELF if a == first[m] else -1.0, lattice, images, shortest[m, o])
            else:
                others += _pair(point, atoms[a], -1.0, lattice, images, shortest[m, o])
    return (first[m + 1] - first[m]) * (own + 2.0 * others)


@njit(cache=True, fastmath=True, error_model="numpy")
def _of_all(atoms, first, lattice, images, shortest):
    """Overlap of all atoms, not yet per atom."""
    total = 0.0
    for m in range(len(first) - 1):
        own = 0.0
        for o in range(len(first) - 1):
            for a in range(first[o], first[o + 1]):
                own += _pair(atoms[first[m]], atoms[a], ITSELF if a == first[m] else -1.0, lattice, images, shortest[m, o])
        total += (first[m + 1] - first[m]) * own
    return total


@njit(cache=True, fastmath=True, error_model="numpy")
def _place(m, point, rotations, translations, first, atoms):
    """The atoms of an orbit from its representative; the first operation of each orbit is the identity."""
    for a in range(first[m], first[m + 1]):
        for i in range(3):
            atoms[a, i] = rotations[a, i, 0] * point[0] + rotations[a, i, 1] * point[1] + rotations[a, i, 2] * point[2] + translations[a, i]


@njit(cache=True, fastmath=True, error_model="numpy")
def _pack(points, cell, free, moving, enough, generator):
    """Overlap per atom of the least crowded of the draws ``(draws, orbits, 3)``, after its orbits have been moved."""
    rotations, translations, first, lattice, images, shortest = cell
    orbits, count = len(first) - 1, first[-1]
    atoms = np.empty((count, 3))
    best, least = 0, FAR
    for d in range(len(points)):
        for m in range(orbits):
            _place(m, points[d, m], rotations, translations, first, atoms)
        drawn = _of_all(atoms, first, lattice, images, shortest) / count
        if drawn < least:
            best, least = d, drawn
    point = points[best]
    for m in range(orbits):
        _place(m, point[m], rotations, translations, first, atoms)
    trial, step = np.empty(3), np.empty(3)
    for sweep in range(SWEEPS):
        length = LONGEST + (SHORTEST - LONGEST) * sweep / SWEEPS
        for m in moving:
            if least <= enough:
                return max(least, 0.0)
            before = _of_orbit(m, atoms, first, lattice, images, shortest)
            if before <= 0.0:
                continue
            for i in range(3):
                step[i] = length * generator.normal()
            for i in range(3):
                trial[i] = point[m, i] + free[m, 0, i] * step[0] + free[m, 1, i] * step[1] + free[m, 2, i] * step[2]
            _place(m, trial, rotations, translations, first, atoms)
            after = _of_orbit(m, atoms, first, lattice, images, shortest)
            if after < before:
                point[m] = trial
                least += (after - before) / count
            else:
                _place(m, point[m], rotations, translations, first, atoms)
    return max(least, 0.0)
