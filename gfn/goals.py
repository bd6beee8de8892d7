"""Compiled kernels that work through the composition automaton from the end backwards: the tables of the look-ahead.

A partial composition is a set of automaton states, one bit each (a row of ``uint64`` words). Word 0 holds flags, the further words hold
tracks of charges: track ``t`` is the words ``1 + t * width`` to ``1 + (t + 1) * width``, and bit ``c`` of it means charge ``c`` can be had.
Adding an element moves bits along arcs ``(source track, destination track, shift)``. See :mod:`gfn.composition` for their meaning.

``Tables`` is a plain tuple of arrays; its fields are documented in :class:`gfn.composition.Tables`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ANY, METALS = np.uint64(1), np.uint64(2)


@njit(cache=True)
def shifted_word(words, start, width, shift, index):
    """Word ``index`` of the track at ``start`` after moving every bit up by ``shift`` (down if negative)."""
    jump = abs(shift) >> 6
    bits = np.uint64(abs(shift) & 63)
    if shift >= 0:
        low = index - jump
        value = words[start + low] << bits if 0 <= low < width else np.uint64(0)
        if bits and 0 <= low - 1 < width:
            value |= words[start + low - 1] >> (np.uint64(64) - bits)
    else:
        low = index + jump
        value = words[start + low] >> bits if 0 <= low < width else np.uint64(0)
        if bits and 0 <= low + 1 < width:
            value |= words[start + low + 1] << (np.uint64(64) - bits)
    return value


@njit(cache=True)
def build_goals(tables, goals, entries):
    """Fill the two tables of states from which a crystal can be finished.

    ``goals[element, combination, frame]``: with elements of at least that index. ``entries[element, combination, step]``: by adding that
    element first, with the count of a step (``tables.step_start`` lists the steps of each frame).
    """
    elements, combinations, frames, _ = goals.shape
    elements -= 1
    width = tables.width
    goals[elements, :, :, :] = tables.accepted
    for element in range(elements - 1, -1, -1):
        new_group = tables.pauling and (element == 0 or tables.tie[element - 1] != tables.tie[element])
        for combination in range(combinations):
            skipped, chosen = tables.combination_skip[combination, element], tables.combination_choose[combination, element]
            for frame in range(frames):
                goal = goals[element, combination, frame]
                if not tables.required[element]:
                    goal[:] = goals[element + 1, skipped, frame]
                for step in range(tables.step_start[frame], tables.step_start[frame + 1]):
                    count = tables.step_count[step]
                    if chosen < 0 or not tables.count_allowed[element, count]:
                        continue
                    entry, after = entries[element, combination, step], goals[element + 1, chosen, tables.next_frame[frame, count]]
                    if after[0] & ANY and (tables.number[frame] == 0 or not tables.neutral):
                        entry[0] |= ANY
                    if after[0] & METALS and tables.metal[element]:
                        entry[0] |= METALS
                    for arc in range(tables.arc_start[element, count], tables.arc_start[element, count + 1]):
                        source, target = 1 + tables.arcs[arc, 0] * width, 1 + tables.arcs[arc, 1] * width
                        for index in range(width):
                            moved = shifted_word(after, target, width, -tables.arcs[arc, 2], index)
                            entry[source + index] |= moved & tables.track_mask[index]
                    for index in range(goal.shape[0]):
                        goal[index] |= entry[index]
                if new_group:
                    for pair in range(tables.tracks // 2):
                        for index in range(1 + 2 * pair * width, 1 + (2 * pair + 1) * width):
                            goal[index] |= goal[index + width]


@njit(cache=True)
def build_bound(tables, goals, most, quantity, sign):
    """Fill ``most[element, combination, frame, bit]``: the largest ``sign`` x quantity that elements of at least that index can still add
    in finishing a crystal from that state; -inf where they cannot."""
    elements, combinations, frames, _ = goals.shape
    elements -= 1
    bits = 64 * tables.width
    most[:] = -np.inf
    for combination in range(combinations):
        for frame in range(frames):
            for word in range(goals.shape[3]):
                for bit in range(64):
                    if tables.accepted[frame, word] >> np.uint64(bit) & np.uint64(1):
                        most[elements, combination, frame, 64 * word + bit] = 0.0
    for element in range(elements - 1, -1, -1):
        new_group = tables.pauling and (element == 0 or tables.tie[element - 1] != tables.tie[element])
        for combination in range(combinations):
            skipped, chosen = tables.combination_skip[combination, element], tables.combination_choose[combination, element]
            for frame in range(frames):
                here = most[element, combination, frame]
                if not tables.required[element]:
                    here[:] = most[element + 1, skipped, frame]
                for count in range(1, tables.next_frame.shape[1]):
                    following = tables.next_frame[frame, count]
                    if chosen < 0 or following < 0 or not tables.count_allowed[element, count]:
                        continue
                    after, added = most[element + 1, chosen, following], sign * count * tables.weight[element, quantity]
                    if tables.number[frame] == 0 or not tables.neutral:
                        here[0] = max(here[0], after[0] + added)
                    if tables.metal[element]:
                        here[1] = max(here[1], after[1] + added)
                    for arc in range(tables.arc_start[element, count], tables.arc_start[element, count + 1]):
                        source, target = 64 + tables.arcs[arc, 0] * bits, 64 + tables.arcs[arc, 1] * bits
                        shift = tables.arcs[arc, 2]
                        for bit in range(max(0, -shift), min(bits, bits - shift)):
                            here[source + bit] = max(here[source + bit], after[target + bit + shift] + added)
                if new_group:
                    for pair in range(tables.tracks // 2):
                        for bit in range(64 + 2 * pair * bits, 64 + (2 * pair + 1) * bits):
                            here[bit] = max(here[bit], here[bit + bits])
