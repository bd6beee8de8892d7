"""Compiled kernels for the numbers that networks compute from (:mod:`surrogates.features`): a crystal at a time, all its numbers at once.

Arrays are float32 and C-contiguous unless another type is named. ``elements`` ``(n, most)`` are int64 atomic numbers with 0 for
padding, ``counts`` ``(n, most)`` atoms in the primitive cell.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SMALLEST_VARIANCE = np.float32(1e-6)
"""Of a property among the elements of a crystal."""
SMALLEST = np.float32(1e-6)
"""Below it a sum of counts or a squared ratio of volumes counts as this, so that its logarithm is a number."""
LARGEST = np.finfo(np.float32).max
"""Where a maximum or minimum begins: infinities are not numbers that fast arithmetic may be given."""
ZERO, ONE = np.float32(0), np.float32(1)


@njit(cache=True, fastmath=True, error_model="numpy")
def pool_properties(properties, elements, fraction, pooled):
    """Mean and standard deviation by fraction, highest and lowest over a crystal's elements of each property, into ``(n, 4 properties)``.

    ``properties`` is a table by atomic number; ``fraction`` ``(n, most)``.
    """
    count = properties.shape[1]
    for i in range(elements.shape[0]):
        mean, square = pooled[i, :count], pooled[i, count : 2 * count]
        highest, lowest = pooled[i, 2 * count : 3 * count], pooled[i, 3 * count :]
        for j in range(count):
            mean[j] = ZERO
            square[j] = ZERO
            highest[j] = -LARGEST
            lowest[j] = LARGEST
        for k in range(elements.shape[1]):
            if elements[i, k] == 0:
                continue
            row, share = properties[elements[i, k]], fraction[i, k]
            for j in range(count):
                mean[j] += share * row[j]
                square[j] += share * row[j] * row[j]
                highest[j] = max(highest[j], row[j])
                lowest[j] = min(lowest[j], row[j])
        for j in range(count):
            square[j] = np.sqrt(max(square[j] - mean[j] * mean[j], SMALLEST_VARIANCE))


@njit(cache=True, error_model="numpy")
def count_elements(counts, group, general, features):
    """:func:`surrogates.features.count_features` into ``features`` ``(n, most, 6)``, which hold zeros for the padding.

    ``general`` are the multiplicities of the general positions in the primitive cell by space group, ``group`` ``(n,)`` int64.
    """
    for i in range(counts.shape[0]):
        total = ZERO
        for j in range(counts.shape[1]):
            total += counts[i, j]
        for j in range(counts.shape[1]):
            count = counts[i, j]
            if count > 0:
                out, fraction = features[i, j], count / max(total, SMALLEST)
                half_turns = np.cos(np.pi * count)
                out[0] = fraction
                out[1] = np.sqrt(fraction)
                out[2] = np.log(max(count, 1e-2)) / 2
                out[3] = np.log(max(count / general[group[i]], 1e-4)) / 3
                out[4] = half_turns
                out[5] = 2 * half_turns * half_turns - 1


@njit(cache=True, error_model="numpy")
def size(elements, counts, group, points, features):
    """:func:`surrogates.features.global_features` into ``features`` ``(n, 9)``; ``points`` are the lattice points by space group."""
    for i in range(counts.shape[0]):
        atoms, electrons, square, cube, highest, number = ZERO, ZERO, ZERO, ZERO, ZERO, 0
        for j in range(counts.shape[1]):
            count = counts[i, j]
            atoms += count
            electrons += count * elements[i, j]
            square += count * count
            cube += count * count * count
            highest = max(highest, count)
            number += elements[i, j] > 0
        atoms = max(atoms, SMALLEST)
        half_turns, out = np.cos(np.pi * float(electrons)), features[i]
        out[0] = np.log(atoms) / 3
        out[1] = np.log(atoms * points[group[i]]) / 3
        out[2] = np.sqrt(square) / atoms
        out[3] = cube ** (1 / 3) / atoms
        out[4] = highest / atoms
        out[5] = number / 3
        out[6] = number == 1
        out[7] = half_turns
        out[8] = 2 * half_turns * half_turns - 1


@njit(cache=True, error_model="numpy")
def cell(lattice, elements, counts, group, points, volumes, log_volume, shape):
    """:func:`surrogates.features.cell_features` into ``log_volume`` ``(n,)`` and ``shape`` ``(n, 8)``.

    ``lattice`` ``(n, 6)`` in Å and degrees, NaN where unknown; ``volumes`` are those of the elements by atomic number, Å3.
    """
    for i in range(lattice.shape[0]):
        out = shape[i]
        if np.isnan(lattice[i]).any():
            log_volume[i] = 0
            out[:] = 0
            continue
        atoms, volume = ZERO, ZERO
        for j in range(counts.shape[1]):
            atoms += counts[i, j]
            volume += counts[i, j] * volumes[elements[i, j]]
        expected = np.log(max(volume / max(atoms, SMALLEST), ONE))
        atoms = np.log(max(atoms * points[group[i]], SMALLEST))
        a, b, c = np.log(max(lattice[i, 0], 1e-2)), np.log(max(lattice[i, 1], 1e-2)), np.log(max(lattice[i, 2], 1e-2))
        x, y, z = np.cos(np.radians(lattice[i, 3])), np.cos(np.radians(lattice[i, 4])), np.cos(np.radians(lattice[i, 5]))
        skew = np.log(max(1 - x * x - y * y - z * z + 2 * x * y * z, SMALLEST)) / 2
        mean = (a + b + c) / 3
        out[0], out[2] = min(a, b, c) - mean, max(a, b, c) - mean
        out[1] = -(out[0] + out[2])
        out[3], out[4], out[5] = abs(x), abs(y), abs(z)
        out[6] = -skew
        out[7] = atoms / 3
        log_volume[i] = a + b + c + skew - atoms - expected
