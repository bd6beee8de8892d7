"""Compiled kernels for what happens before and between the matrix products of a network that only predicts (:mod:`surrogates.compiled`).

Half of the time of a network in plain torch goes into many small operations, each of which reads and writes whole tensors; here all that
lies between two products is one pass, in which a row stays in the fastest cache. Every array is float32 and C-contiguous unless another
type is named. Loops over the last axis are left to the compiler to vectorise, which it does where a division raises nothing and the
exponential is :func:`_exp`.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from surrogates.input_kernels import LARGEST, ONE, ZERO
from surrogates.network import NATURAL_ENERGY, SMALLEST_LOG_VOLUME

EPSILON = np.float32(1e-5)
"""Of torch's layer norm."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = np.float32(-87.0), np.float32(88.0)
"""Beyond these an exponential leaves the normal float32 numbers."""
LOG2_E = np.float32(1 / np.log(2))
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(np.log(2) - 0.693359375)
"""The first holds so few bits that a whole number times it is exact."""
LOWEST, NATURAL = np.float32(SMALLEST_LOG_VOLUME), NATURAL_ENERGY
HALF = np.float32(0.5)
THIRD, FOURTH, FIFTH, SIXTH = (np.float32(1 / math.factorial(k)) for k in (3, 4, 5, 6))
"""Of the power series of exp; for |r| <= ln(2) / 2 what is left out is below 1.3e-7 of the sum."""


@intrinsic
def _float_of_bits(context, bits):
    """The float32 that has these 32 bits."""

    def code(context, builder, signature, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), code


@njit(fastmath=True, error_model="numpy", inline="always")
def _exp(x):
    """exp(x): x = k ln 2 + r, the power series of r, and k into the exponent's bits (Cody and Waite, Software Manual for the Elementary
    Functions, 1980). The relative error is below 3e-7."""
    x = min(max(x, SMALLEST_EXPONENT), LARGEST_EXPONENT)
    k = np.floor(x * LOG2_E + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    series = (((((SIXTH * r + FIFTH) * r + FOURTH) * r + THIRD) * r + HALF) * r + ONE) * r + ONE
    return series * _float_of_bits((np.int32(k) + np.int32(127)) << np.int32(23))  # type: ignore[call-arg]


@njit(fastmath=True, error_model="numpy", inline="always")
def _sigmoid(x):
    return ONE / (ONE + _exp(-x))


@njit(fastmath=True, error_model="numpy", inline="always")
def _mean_and_scale(row):
    """What a layer norm subtracts from a row and then multiplies it with; its affine part is in the weights of the next product."""
    width = row.shape[0]
    total, square = ZERO, ZERO
    for j in range(width):
        total += row[j]
    mean = total / np.float32(width)
    for j in range(width):
        square += (row[j] - mean) * (row[j] - mean)
    return mean, ONE / np.sqrt(square / np.float32(width) + EPSILON)


@njit(fastmath=True, error_model="numpy", inline="always")
def _normalise(row, out):
    mean, scale = _mean_and_scale(row)
    for j in range(row.shape[0]):
        out[j] = (row[j] - mean) * scale


@njit(cache=True, fastmath=True, error_model="numpy")
def embed(product, elements, groups, element, group, tokens, first):
    """Tokens ``(t, width)``, and what the first product makes of them once they are normalised, ``first`` ``(t, outputs)``.

    A token is a row of ``elements`` plus a row of ``groups`` plus what its counts add, so the product of each with the first matrix can
    stand beside it in the tables, which are ``(numbers, width + outputs)``; ``product`` ``(t, width + outputs)`` holds the counts'. With
    the mean taken out by the matrix all that normalising adds is the scale. ``element`` and ``group`` ``(t,)`` int64.
    """
    width, outputs = tokens.shape[1], first.shape[1]
    for i in range(tokens.shape[0]):
        own, one, other = product[i], elements[element[i]], groups[group[i]]
        row, out = tokens[i], first[i]
        for j in range(width):
            row[j] = own[j] + one[j] + other[j]
        _, scale = _mean_and_scale(row)
        for j in range(outputs):
            out[j] = (own[width + j] + one[width + j] + other[width + j]) * scale


@njit(cache=True, fastmath=True, error_model="numpy")
def mix(attended, bias, fraction, starts, mixed):
    """The average of the values of a crystal's elements, in proportion to ``fraction exp(key)``, through each element's gate.

    ``attended`` ``(t, 3 width)`` holds gates, keys and values without their ``bias``; the tokens of crystal c are ``starts[c]`` to
    ``starts[c + 1]`` (int64); the result goes into ``mixed`` ``(t, width)``.
    """
    width = mixed.shape[1]
    highest, total, context = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    gate_bias, value_bias = bias[:width], bias[2 * width :]
    for c in range(starts.shape[0] - 1):
        first, end = starts[c], starts[c + 1]
        key = attended[first, width : 2 * width]
        for j in range(width):
            highest[j] = key[j]
            total[j] = ZERO
            context[j] = ZERO
        for i in range(first + 1, end):
            key = attended[i, width : 2 * width]
            for j in range(width):
                highest[j] = max(highest[j], key[j])
        for i in range(first, end):
            key, value = attended[i, width : 2 * width], attended[i, 2 * width :]
            share = fraction[i]
            for j in range(width):
                weight = share * _exp(key[j] - highest[j])  # the keys' own bias cancels
                total[j] += weight
                context[j] += weight * value[j]
        for j in range(width):
            context[j] = context[j] / total[j] + value_bias[j]
        for i in range(first, end):
            gate, out = attended[i, :width], mixed[i]
            for j in range(width):
                out[j] = context[j] * _sigmoid(gate[j] + gate_bias[j])


@njit(cache=True, fastmath=True, error_model="numpy")
def add_and_normalise(tokens, product, bias, normed):
    """``tokens += product + bias``, and the normalised sum into ``normed``; all ``(t, width)``."""
    for i in range(tokens.shape[0]):
        row, added = tokens[i], product[i]
        for j in range(row.shape[0]):
            row[j] += added[j] + bias[j]
        _normalise(row, normed[i])


@njit(cache=True, fastmath=True, error_model="numpy")
def silu(values, bias):
    """``silu(values + bias)`` in place; ``values`` ``(m, k)``."""
    for i in range(values.shape[0]):
        row = values[i]
        for j in range(row.shape[0]):
            x = row[j] + bias[j]
            row[j] = x * _sigmoid(x)


@njit(cache=True, fastmath=True, error_model="numpy")
def pool(tokens, scale, offset, fraction, starts, order, pooled):
    """Mean by fraction and maximum over each crystal's elements of ``scale tokens + offset``, into ``pooled`` ``(n, 2 width)``.

    ``order[c]`` is the row of the crystal whose tokens are the c-th (int64).
    """
    width = tokens.shape[1]
    for c in range(starts.shape[0] - 1):
        mean, highest = pooled[order[c], :width], pooled[order[c], width:]
        for j in range(width):
            mean[j] = ZERO
            highest[j] = -LARGEST
        for i in range(starts[c], starts[c + 1]):
            row, share = tokens[i], fraction[i]
            for j in range(width):
                x = row[j] * scale[j] + offset[j]
                mean[j] += share * x
                highest[j] = max(highest[j], x)


@njit(cache=True, fastmath=True, error_model="numpy")
def describe(crystals, groups, sources, group, source, normed):
    """``silu(crystals + row of the group + row of the source)`` in place, normalised into ``normed``; ``crystals`` ``(n, hidden)``."""
    for i in range(crystals.shape[0]):
        row, one, other = crystals[i], groups[group[i]], sources[source[i]]
        for j in range(row.shape[0]):
            x = row[j] + one[j] + other[j]
            row[j] = x * _sigmoid(x)
        _normalise(row, normed[i])


@njit(cache=True, fastmath=True, error_model="numpy")
def add_silu(values, product, bias):
    """``values += silu(product + bias)``; ``(n, hidden)``."""
    for i in range(values.shape[0]):
        row, added = values[i], product[i]
        for j in range(row.shape[0]):
            x = added[j] + bias[j]
            row[j] += x * _sigmoid(x)


@njit(cache=True, fastmath=True, error_model="numpy")
def heads(product, bias, weight, offset, outputs):
    """Outputs of every head into ``outputs`` ``(heads, outputs, n)``: ``silu(product + bias)`` times ``weight``.

    ``product`` ``(n, heads hidden)`` is overwritten; ``weight`` ``(heads, outputs, hidden)``, ``offset`` ``(heads, outputs)``.
    """
    number, count, hidden = weight.shape
    silu(product, bias)
    for i in range(product.shape[0]):
        for head in range(number):
            row = product[i, head * hidden : (head + 1) * hidden]
            for k in range(count):
                column = weight[head, k]
                total = ZERO
                for j in range(hidden):
                    total += row[j] * column[j]
                outputs[head, k, i] = total + offset[head, k]


@njit(cache=True, fastmath=True, error_model="numpy")
def by_head(product, bias, mixed):
    """``silu(product + bias)`` of ``(n, heads width)`` into ``mixed`` ``(heads, n, width)``."""
    width = mixed.shape[2]
    for i in range(product.shape[0]):
        for head in range(mixed.shape[0]):
            row, own, out = product[i, head * width : (head + 1) * width], bias[head * width : (head + 1) * width], mixed[head, i]
            for j in range(width):
                x = row[j] + own[j]
                out[j] = x * _sigmoid(x)


@njit(cache=True, fastmath=True, error_model="numpy")
def strain_of_volume(product, bias, weight, offset, log_volume, joined, volume, expected):
    """:meth:`surrogates.network.Strain.volume` of ``silu(product + bias)``; ``product`` ``(heads, n, width)``, ``bias`` ``(heads, width)``.

    ``weight`` ``(heads, 4, width)`` and ``offset`` ``(heads, 4)`` lead to the expected log volume and to the logs of stiffness and of
    either hardness, ``log_volume`` ``(n,)`` is the cell's. The strain energy and the expected log volume go into ``volume`` and
    ``expected`` ``(heads, n)``; numbers and features, which the next product takes, into ``joined`` ``(heads, n, width + 3)``.
    """
    heads, number, width = product.shape
    for head in range(heads):
        for i in range(number):
            row, out = product[head, i], joined[head, i]
            for j in range(width):
                x = row[j] + bias[head, j]
                out[j] = x * _sigmoid(x)
            found = (ZERO, ZERO, ZERO, ZERO)
            for k in range(4):
                column, total = weight[head, k], ZERO
                for j in range(width):
                    total += out[j] * column[j]
                found = (found[1], found[2], found[3], total + offset[head, k])
            r = log_volume[i] - found[0]
            beyond = max(LOWEST - r, ZERO)
            r = min(max(r, LOWEST), -2 * LOWEST)
            stiffness = math.exp(min(max(float(found[1]), -4.0), 4.0))
            c = math.exp(min(max(float(found[2] if r < 0 else found[3]), -4.0), 2.2))
            volume[head, i] = stiffness * (math.expm1(-c * r) + c * r) / (c * c) + 10 * beyond  # exact where c r is small
            expected[head, i] = found[0]
            out[width] = r
            out[width + 1] = r * r
            out[width + 2] = math.expm1(-max(r, -1.5))


@njit(cache=True, fastmath=True, error_model="numpy")
def strain_of_shape(product, bias, weight, offset, known, strain):
    """Adds ``softplus(silu(product + bias) weight + offset)`` to ``strain`` ``(heads, n)``, which becomes 0 where no cell is ``known``.

    ``product`` ``(heads, n, width)``, ``bias`` and ``weight`` ``(heads, width)``, ``offset`` ``(heads,)``, ``known`` ``(n,)`` booleans.
    """
    heads, number, width = product.shape
    for head in range(heads):
        for i in range(number):
            row, total = product[head, i], ZERO
            for j in range(width):
                x = row[j] + bias[head, j]
                total += x * _sigmoid(x) * weight[head, j]
            total += offset[head]
            strain[head, i] += max(total, ZERO) + math.log1p(math.exp(-abs(total)))
            if not known[i]:
                strain[head, i] = ZERO


@njit(cache=True, error_model="numpy")
def consensus(energy, gap, log_scales, strains, caution, guess, scale, spread, strain):
    """:class:`surrogates.calibration.Consensus` of member outputs ``(s, n)``; ``log_scales`` are two, of energies and gaps.

    ``caution`` is that of :mod:`surrogates.calibration`, per eV/atom.
    """
    members, number = energy.shape
    for i in range(number):
        sums, log_strain = np.zeros(5), 0.0
        for s in range(members):
            sums[0] += energy[s, i]
            sums[1] += max(gap[s, i], ZERO)
            sums[2] += energy[s, i] + strains[s, i]
            sums[3] += gap[s, i]
            log_strain += math.log1p(strains[s, i] / NATURAL)
        sums /= members
        strain[i] = NATURAL * math.expm1(log_strain / members)
        for k in range(2):
            total, square = 0.0, 0.0
            for s in range(members):
                value = gap[s, i] if k else energy[s, i] + strains[s, i]
                square += (value - sums[2 + k]) ** 2
                total += min(max(log_scales[k][s, i], -7.0), 3.0)
            scale[i, k] = math.exp(total / members)
            spread[i, k] = math.sqrt(square / max(1, members - 1))
        guess[i, 0] = sums[0] + caution * min(scale[i, 0], 1.0) ** 2 + strain[i]
        guess[i, 1] = sums[1]
