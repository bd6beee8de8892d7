"""Compiled kernels that go forwards through the composition automaton: steps, and masks that look ahead exactly.

States are sets of bits, as :mod:`gfn.goals` explains, whose tables say from which of them a crystal can be finished. Numba recompiles a
kernel when its own file changes only: after a change of :mod:`gfn.goals`, touch this file too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gfn.goals import ANY, METALS, shifted_word


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
            out[target + index] |= shifted_word(words, source, width, shift, index) & tables.track_mask[index]


@njit(cache=True)
def _meet(words, goal):
    """Whether two sets of states have one in common."""
    for index in range(words.shape[0]):  # noqa: SIM110 - compiled
        if words[index] & goal[index]:
            return True
    return False


@njit(cache=True)
def _end_cations(words, tables):
    """Between elements of different electronegativity the cations may end: copy each cation track onto its anion track."""
    width = tables.width
    for pair in range(tables.tracks // 2):
        for index in range(1 + 2 * pair * width, 1 + (2 * pair + 1) * width):
            words[index + width] |= words[index]


@njit(cache=True)
def _drop_expanded(words, tables, products):
    """Leave out the mixed-valence tracks whose number of combinations of oxidation states exceeds SMACT's limit."""
    per_world = 2 if tables.pauling else 1
    for world in range(1, products.shape[0]):
        if products[world] > tables.largest_expansion:
            words[1 + world * per_world * tables.width : 1 + (world + 1) * per_world * tables.width] = 0


@njit(cache=True)
def _within_reach(words, goal, tables, bounds, element, combination, frame, sums, window):
    """Whether a state of ``words`` in ``goal`` can still bring the quantities into their windows, each bound taken by itself."""
    for word in range(words.shape[0]):
        common = words[word] & goal[word]
        bit = 64 * word
        while common:
            if common & np.uint64(1):
                enough = True
                for quantity in range(sums.shape[0]):
                    low, high = tables.bound_of[quantity, 0], tables.bound_of[quantity, 1]
                    if low >= 0 and sums[quantity] + bounds[low, element, combination, frame, bit] < window[quantity, 0]:
                        enough = False
                    if high >= 0 and sums[quantity] - bounds[high, element, combination, frame, bit] > window[quantity, 1]:
                        enough = False
                if enough:
                    return True
            common >>= np.uint64(1)
            bit += 1
    return False


@njit(cache=True)
def _inside(sums, window):
    """Whether all quantities are in their windows."""
    for quantity in range(sums.shape[0]):  # noqa: SIM110 - compiled
        if not window[quantity, 0] <= sums[quantity] <= window[quantity, 1]:
            return False
    return True


@njit(cache=True)
def _settled(tables, element, number, sums, window):
    """Whether no bound on a quantity can bind any more, whatever elements of at least that place follow."""
    for quantity in range(sums.shape[0]):
        if sums[quantity] + tables.rest[element, number, quantity, 0] < window[quantity, 0]:
            return False
        if sums[quantity] + tables.rest[element, number, quantity, 1] > window[quantity, 1]:
            return False
    return True


@njit(cache=True)
def _add(tables, element, count, sums, out):
    """The quantities after adding ``count`` atoms of an element, into ``out``; without the temporary arrays of a vector expression."""
    for quantity in range(sums.shape[0]):
        out[quantity] = sums[quantity] + count * tables.weight[element, quantity]


NO, YES, TRY = 0, 1, 2


@njit(cache=True)
def _verdict(tables, goals, bounds, element, combination, frame, words, sums, plain_only, window):
    """What the tables say about finishing a crystal with elements from place ``element`` on: NO, YES, or TRY the further elements.

    They decide alone wherever at most one bound can still bind and has a table. ``plain_only`` says that there is no mixed valence.
    """
    goal, number = goals[element, combination, frame], tables.number[frame]
    binding, tabled = 0, True
    for quantity in range(sums.shape[0]):
        (low, high), rest = window[quantity], tables.rest[element, number, quantity]
        if sums[quantity] + rest[1] < low or sums[quantity] + rest[0] > high:
            return NO
        if sums[quantity] + rest[0] < low:
            binding, tabled = binding + 1, tabled and tables.bound_of[quantity, 0] >= 0
        if sums[quantity] + rest[1] > high:
            binding, tabled = binding + 1, tabled and tables.bound_of[quantity, 1] >= 0
    reachable, plain, done = False, plain_only, False
    per_world = 2 if tables.pauling else 1
    for index in range(words.shape[0]):
        common = words[index] & goal[index]
        reachable = reachable or common != 0
        plain = plain or (common != 0 and index < 1 + per_world * tables.width)
        done = done or (words[index] & tables.accepted[frame, index]) != 0
    if not reachable:
        return NO
    if plain and binding == 0:
        return YES
    if done and _inside(sums, window):
        for further in range(element, tables.column.shape[0]):
            done = done and not tables.required[further]
        if done:
            return YES
    if bounds.shape[0] and not _within_reach(words, goal, tables, bounds, element, combination, frame, sums, window):
        return NO
    if plain_only and binding == 1 and tabled:
        return YES
    return TRY


@njit(cache=True)
def _finishable(tables, goals, entries, bounds, element, combination, frame, words, tie, sums, products, window):
    """Exact: can a crystal be finished from here, with every quantity in its window and mixed valence within SMACT's limit?

    ``words`` are the states after the last element (``tie`` its tie group, -1 at the start), ``element`` the first place that is still
    open. Where the tables cannot decide, the further elements are tried, depth first.
    """
    plain_only = products.shape[0] == 1
    verdict = _verdict(tables, goals, bounds, element, combination, frame, words, sums, plain_only, window)
    if verdict != TRY:
        return verdict == YES
    largest, depth = tables.next_frame.shape[1] - 1, tables.rest.shape[1] + 1
    states, spent = np.empty((depth, words.shape[0]), np.uint64), np.empty((depth, products.shape[0]))
    reached, added = np.empty((depth, sums.shape[0])), np.empty(sums.shape[0])
    # Of each level: next element, next count, combination, frame, tie group of its last element, whether the cations have ended.
    places = np.empty((depth, 6), np.int64)
    states[0], spent[0], reached[0] = words, products, sums
    places[0, 0], places[0, 1], places[0, 2], places[0, 3], places[0, 4], places[0, 5] = element, largest, combination, frame, tie, 0
    after, level = np.empty_like(words), 0
    while level >= 0:
        here, count, kept, at = places[level, 0], places[level, 1], places[level, 2], places[level, 3]
        if here >= tables.column.shape[0]:
            level -= 1
            continue
        if count == 0:  # every count of this element has been tried: go on without it
            places[level, 0], places[level, 1] = here + 1, largest
            places[level, 2] = tables.combination_skip[kept, here]
            if tables.required[here]:
                level -= 1
            continue
        places[level, 1] = count - 1
        if tables.pauling and places[level, 5] == 0 and places[level, 4] != tables.tie[here]:
            _end_cations(states[level], tables)
            places[level, 5] = 1
        chosen, following = tables.combination_choose[kept, here], tables.next_frame[at, count]
        if chosen < 0 or following < 0 or not tables.count_allowed[here, count]:
            continue
        if not _meet(states[level], entries[here, kept, tables.step_of[at, count]]):
            continue
        advance(states[level], tables, here, count, tables.number[at] == 0, after)
        left = spent[level] * tables.expansion[here, count]
        _add(tables, here, count, reached[level], added)
        _drop_expanded(after, tables, left)
        verdict = _verdict(tables, goals, bounds, here + 1, chosen, following, after, added, plain_only, window)
        if verdict == YES:
            return True
        if verdict == TRY:
            level += 1
            states[level], spent[level], reached[level] = after, left, added
            places[level, 0], places[level, 1], places[level, 2] = here + 1, largest, chosen
            places[level, 3], places[level, 4], places[level, 5] = following, tables.tie[here], 0
    return False


@njit(cache=True)
def allowed_actions(tables, goals, entries, bounds, last, frame, combination, words, sums, products, windows, out):
    """Masks of many partial compositions.

    ``out`` ``(n, elements * largest count + 1)`` is set to 1 for each action from which a crystal can be finished: action
    ``column * largest count + count - 1`` adds an element, the last one stops.
    """
    largest = tables.next_frame.shape[1] - 1
    elements = tables.column.shape[0]
    states, after = np.empty(words.shape[1], np.uint64), np.empty(words.shape[1], np.uint64)
    added = np.empty(sums.shape[1])
    for row in range(last.shape[0]):
        out[row, :] = 0
        states[:] = words[row]
        previous, alive, here = last[row], combination[row], frame[row]
        first = tables.number[here] == 0
        window, here_sums, further = windows[row], sums[row], min(tables.number[here] + 1, tables.rest.shape[1] - 1)
        stop = False
        for index in range(states.shape[0]):
            stop = stop or (states[index] & tables.accepted[here, index]) != 0
        stop = stop and _inside(here_sums, window)
        tie_of, ended = tables.tie[previous] if previous >= 0 else -1, False
        for element in range(previous + 1, elements):
            tie = tables.tie[element]
            if tables.pauling and not ended and tie_of != tie:
                _end_cations(states, tables)
                ended = True
            chosen = tables.combination_choose[alive, element]
            base = tables.column[element] * largest - 1
            for step in range(tables.step_start[here], tables.step_start[here + 1] if chosen >= 0 else 0):
                if not _meet(states, entries[element, alive, step]):
                    continue
                count = tables.step_count[step]
                following = tables.next_frame[here, count]
                _add(tables, element, count, here_sums, added)
                if products.shape[1] > 1 or not _settled(tables, element + 1, further, added, window):
                    advance(states, tables, element, count, first, after)
                    spent = products[row] * tables.expansion[element, count]
                    _drop_expanded(after, tables, spent)
                    if not _finishable(tables, goals, entries, bounds, element + 1, chosen, following, after, tie, added, spent, window):
                        continue
                out[row, base + count] = 1
            if tables.required[element]:
                stop = False
                break
            alive = tables.combination_skip[alive, element]
        if stop:
            out[row, elements * largest] = 1


@njit(cache=True)
def feasible_roots(tables, goals, entries, bounds, frames, start, windows, out):
    """Whether some crystal can be finished from each empty composition (``frames`` -1: none)."""
    products, sums = np.ones(tables.expansion.shape[2]), np.zeros(tables.weight.shape[1])
    for row in range(frames.shape[0]):
        out[row] = frames[row] >= 0 and _finishable(
            tables, goals, entries, bounds, 0, 0, frames[row], start, -1, sums, products, windows[row]
        )


@njit(cache=True)
def apply_actions(tables, actions, last, frame, combination, words, sums, products, counts):
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
        if tables.pauling and (last[row] < 0 or tables.tie[last[row]] != tables.tie[element]):
            _end_cations(states, tables)
        advance(states, tables, element, count, tables.number[frame[row]] == 0, words[row])
        products[row] *= tables.expansion[element, count]
        _drop_expanded(words[row], tables, products[row])
        _add(tables, element, count, sums[row], sums[row])
        for skipped in range(last[row] + 1, element):
            combination[row] = tables.combination_skip[combination[row], skipped]
        combination[row] = tables.combination_choose[combination[row], element]
        frame[row] = tables.next_frame[frame[row], count]
        last[row] = element
        counts[row, column] = count
