"""Compiled kernels over the composition automaton: exact look-ahead, masks and steps.

A partial composition is a set of automaton states, one bit each (a row of ``uint64`` words). Word 0 holds flags, the further words hold
tracks of charges: track ``t`` is the words ``1 + t * width`` to ``1 + (t + 1) * width``, and bit ``c`` of it means charge ``c`` can be had.
Adding an element moves bits along arcs ``(source track, destination track, shift)``. See :mod:`gfn.composition` for their meaning.

``Tables`` is a plain tuple of arrays; its fields are documented in :class:`gfn.composition.Tables`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ANY, METALS = np.uint64(1), np.uint64(2)
UNBOUNDED = 1e30


@njit(cache=True, inline="always")
def _shifted_word(words, start, width, shift, index):
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
def _flags(words, tables, element, first):
    """The flags that survive adding an element (``first``: as the crystal's first)."""
    flags = np.uint64(0)
    if words[0] & ANY and (first or not tables.neutral):
        flags |= ANY
    if words[0] & METALS and tables.metal[element]:
        flags |= METALS
    return flags


@njit(cache=True)
def advance(words, tables, element, count, first, out):
    """The states after adding ``count`` atoms of an element, into ``out``."""
    out[:] = 0
    out[0] = _flags(words, tables, element, first)
    width = tables.width
    for arc in range(tables.arc_start[element, count], tables.arc_start[element, count + 1]):
        source, target, shift = 1 + tables.arcs[arc, 0] * width, 1 + tables.arcs[arc, 1] * width, tables.arcs[arc, 2]
        for index in range(width):
            out[target + index] |= _shifted_word(words, source, width, shift, index) & tables.track_mask[index]


@njit(cache=True)
def _reaches(words, tables, element, count, first, goal):
    """Whether adding the element leads into one of the states of ``goal``."""
    if _flags(words, tables, element, first) & goal[0]:
        return True
    width = tables.width
    for arc in range(tables.arc_start[element, count], tables.arc_start[element, count + 1]):
        source, target, shift = 1 + tables.arcs[arc, 0] * width, 1 + tables.arcs[arc, 1] * width, tables.arcs[arc, 2]
        for index in range(width):
            if _shifted_word(words, source, width, shift, index) & goal[target + index]:
                return True
    return False


@njit(cache=True)
def _open_new_group(words, tables, last, element):
    """Between elements of different electronegativity the cations may end: copy each cation track onto its anion track."""
    if tables.pauling and (last < 0 or tables.tie[last] != tables.tie[element]):
        width = tables.width
        for pair in range(tables.tracks // 2):
            for index in range(1 + 2 * pair * width, 1 + (2 * pair + 1) * width):
                words[index + width] |= words[index]


@njit(cache=True)
def build_goals(tables, goals):
    """Fill ``goals[element, combination, frame]``: the states from which elements of at least that index can finish a crystal."""
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
                if not tables.required[element] and skipped >= 0:
                    goal[:] = goals[element + 1, skipped, frame]
                if chosen < 0:
                    continue
                for count in range(1, tables.next_frame.shape[1]):
                    following = tables.next_frame[frame, count]
                    if following < 0 or not tables.count_allowed[element, count]:
                        continue
                    after = goals[element + 1, chosen, following]
                    if after[0] & ANY and (tables.number[frame] == 0 or not tables.neutral):
                        goal[0] |= ANY
                    if after[0] & METALS and tables.metal[element]:
                        goal[0] |= METALS
                    for arc in range(tables.arc_start[element, count], tables.arc_start[element, count + 1]):
                        source, target = 1 + tables.arcs[arc, 0] * width, 1 + tables.arcs[arc, 1] * width
                        for index in range(width):
                            moved = _shifted_word(after, target, width, -tables.arcs[arc, 2], index)
                            goal[source + index] |= moved & tables.track_mask[index]
                if new_group:
                    for pair in range(tables.tracks // 2):
                        for index in range(1 + 2 * pair * width, 1 + (2 * pair + 1) * width):
                            goal[index] |= goal[index + width]


@njit(cache=True)
def allowed_actions(tables, goals, last, frame, combination, words, out):
    """Masks of many partial compositions.

    ``out`` ``(n, elements * largest count + 1)`` is set to 1 for each action from which a crystal can be finished: action
    ``column * largest count + count - 1`` adds an element, the last one stops.
    """
    largest = tables.next_frame.shape[1] - 1
    elements = tables.column.shape[0]
    states = np.empty(words.shape[1], np.uint64)
    for row in range(last.shape[0]):
        out[row, :] = 0
        states[:] = words[row]
        previous, alive, here = last[row], combination[row], frame[row]
        first = tables.number[here] == 0
        stop = False
        for index in range(states.shape[0]):
            stop = stop or (states[index] & tables.accepted[here, index]) != 0
        for element in range(previous + 1, elements):
            if element == 0 or element - 1 == previous or tables.tie[element - 1] != tables.tie[element]:
                _open_new_group(states, tables, previous, element)
            chosen = tables.combination_choose[alive, element]
            if chosen >= 0:
                base = tables.column[element] * largest - 1
                for count in range(1, largest + 1):
                    following = tables.next_frame[here, count]
                    if following < 0 or not tables.count_allowed[element, count]:
                        continue
                    if _reaches(states, tables, element, count, first, goals[element + 1, chosen, following]):
                        out[row, base + count] = 1
            if tables.required[element]:
                stop = False
                break
            alive = tables.combination_skip[alive, element]
        if stop:
            out[row, elements * largest] = 1


@njit(cache=True)
def apply_actions(tables, actions, last, frame, combination, words, counts):
    """Add the chosen elements to partial compositions, in place; rows whose action is to stop are left as they are."""
    largest = tables.next_frame.shape[1] - 1
    elements = tables.column.shape[0]
    states = np.empty(words.shape[1], np.uint64)
    for row in range(actions.shape[0]):
        column, count = actions[row] // largest, actions[row] % largest + 1
        if column >= elements:
            continue
        element = tables.position[column]
        states[:] = words[row]
        _open_new_group(states, tables, last[row], element)
        advance(states, tables, element, count, tables.number[frame[row]] == 0, words[row])
        for skipped in range(last[row] + 1, element):
            combination[row] = tables.combination_skip[combination[row], skipped]
        combination[row] = tables.combination_choose[combination[row], element]
        frame[row] = tables.next_frame[frame[row], count]
        last[row] = element
        counts[row, column] = count
