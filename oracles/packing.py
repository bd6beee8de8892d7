"""Whether a cell has room for its atoms: a packing search, geometry alone, some hundredths of a second a crystal.

A sampler asks for space groups, compositions and cells together, and some leave the atoms no room: whatever Wyckoff positions they
take, two of them come closer than they ever do in real crystals, and the energy lies far above what composition, group and cell tell a
surrogate. Here the atoms of the likeliest ways to occupy the positions are drawn at random and then moved, one orbit at a time, wherever
that lowers their overlap (:mod:`oracles.crowding`); no energy is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from al_crystal.seeds import rng
from oracles.crowding import Orbits, of_all, of_orbit, place
from oracles.positions import NoPositions, ways
from oracles.settings import PositionSettings
from oracles.wyckoff import conventional_lattice

if TYPE_CHECKING:
    from al_crystal.crystal import Crystal
    from oracles.wyckoff import Assignment

SEARCH = PositionSettings(enumerated_ways=300, ways=40)
"""Which ways to occupy the Wyckoff positions are tried."""
DRAWS = 12
"""Random arrangements of each way; the least crowded one is moved."""
SWEEPS = 40
"""How often each orbit of an arrangement tries a move."""
LONGEST, SHORTEST = 0.8, 0.05
"""Å: standard deviation of the moves of the first sweep and of the last."""


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


def _least(way: Assignment, lattice: np.ndarray, enough: float, generator: np.random.Generator) -> float:
    """The least overlap found with one way to occupy the positions."""
    template = way.template(lattice, fixed_cell=True)
    points = way.draw(DRAWS if way.freedom else 1, generator)
    moving = np.array([orbit for orbit, site in enumerate(way.sites) if site.freedom], dtype=np.int64)
    free = np.einsum("sij,kj->ski", template.site_projectors, np.linalg.inv(template.lattice))  # a move in Å: its free part, fractional
    return float(_pack(points, Orbits.of(template), free, moving, enough, generator))


@njit(cache=True, fastmath=True, error_model="numpy")
def _pack(points, cell, free, moving, enough, generator):
    """Overlap per atom of the least crowded of the draws ``(draws, orbits, 3)``, after its orbits have been moved."""
    orbits = points.shape[1]
    atoms = np.empty((len(cell.rotations), 3))
    best, least = 0, 0.0
    for d in range(len(points)):
        for m in range(orbits):
            place(m, points[d, m], cell, atoms)
        drawn = of_all(atoms, cell)[0]
        if d == 0 or drawn < least:
            best, least = d, drawn
    point = points[best]
    for m in range(orbits):
        place(m, point[m], cell, atoms)
    trial, step = np.empty(3), np.empty(3)
    for sweep in range(SWEEPS):
        length = LONGEST + (SHORTEST - LONGEST) * sweep / SWEEPS
        for m in moving:
            if least <= enough:
                return max(least, 0.0)
            before = of_orbit(m, atoms, cell)
            if before <= 0.0:
                continue
            for i in range(3):
                step[i] = length * generator.normal()
            for i in range(3):
                trial[i] = point[m, i] + free[m, 0, i] * step[0] + free[m, 1, i] * step[1] + free[m, 2, i] * step[2]
            place(m, trial, cell, atoms)
            after = of_orbit(m, atoms, cell)
            if after < before:
                point[m] = trial
                least += after - before
            else:
                place(m, point[m], cell, atoms)
    return max(least, 0.0)
