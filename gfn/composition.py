"""The composition subspace: which (element, count) actions can still lead to a crystal, exactly.

A composition is built element by element in ascending order of Pauling electronegativity (the order in which formulae are written), so
that every composition has exactly one trajectory. The hard constraints then are a finite automaton read along that order:

* *frame*: how many elements, how many atoms (as far as bounds on them can still bind), what is left of the Wyckoff positions, and with
  mixed valence the greatest common divisor of the counts. It depends on the counts alone.
* *combination*: which excluded combinations of elements are still complete.
* *states*: the set of charges that oxidation states can give. Pauling's rule (every cation less electronegative than every anion, none
  without charge) means that along the order all cations come first, then all anions: a track of cation charges and one of net charges
  after the change, the change being possible only between elements of different electronegativity. Without the rule there is one track of
  signed charges. A flag keeps "anything goes" (crystals of one element, or no charge constraint), another "metals alone" (alloys).
* *quantities*: sums over the atoms, such as the estimated volume, must end inside windows that leave room for a cell
  (:class:`gfn.lattice.LatticeSpace` says which).

From the end backwards, :func:`gfn.goals.build_goals` computes for each (element, combination, frame) the states from which a crystal
can be finished: an action is allowed if and only if it leads into one of them. Nothing is approximated, nothing is searched while sampling.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gfn import goals, lookahead
from gfn.charges import Charges
from gfn.chemistry import LARGEST_EXPANSION, chemistry
from gfn.constraints import Space
from gfn.frames import Frames
from gfn.lattice import LatticeSpace
from gfn.space_group import SYSTEM_OF

LARGEST_BOUNDS = 2e9
"""Bytes that the tables of bounds may take."""


class Tables(NamedTuple):
    """The composition automaton as arrays, for the compiled kernels. ``element`` is the place in the order of electronegativity."""

    column: np.ndarray  # (elements,) column of the element in a CrystalBatch
    position: np.ndarray  # (elements,) the inverse
    tie: np.ndarray  # (elements,) elements of equal electronegativity share a number
    metal: np.ndarray  # (elements,) bool
    required: np.ndarray  # (elements,) bool
    count_allowed: np.ndarray  # (elements, largest + 1) bool
    arc_start: np.ndarray  # (elements, largest + 2) first arc of (element, count)
    arcs: np.ndarray  # (arcs, 3) source track, destination track, shift
    track_mask: np.ndarray  # (width,) uint64, the bits of a track
    next_frame: np.ndarray  # (frames, largest + 1) int32, -1 where the count does not fit
    number: np.ndarray  # (frames,) elements so far
    step_start: np.ndarray  # (frames + 1,) first step of each frame; a step is a count that fits
    step_count: np.ndarray  # (steps,) its count
    step_of: np.ndarray  # (frames, largest + 1) the step of a count
    accepted: np.ndarray  # (frames, words) uint64, states in which the crystal may be finished
    combination_skip: np.ndarray  # (combinations, elements) int32
    combination_choose: np.ndarray  # (combinations, elements) int32, -1 where forbidden
    weight: np.ndarray  # (elements, quantities) what an atom adds to each quantity
    rest: np.ndarray  # (elements + 1, most elements + 1, quantities, 2) least and most that further elements from a place on can add
    bound_of: np.ndarray  # (quantities, 2) which table of bounds serves the lower and the upper bound, -1: none
    expansion: np.ndarray  # (elements, largest + 1, worlds) combinations of states with mixed valence; world 0 is without
    largest_expansion: float
    width: int  # words per track
    tracks: int
    neutral: bool
    pauling: bool


class CompositionSpace:
    """The automaton of one :class:`~gfn.constraints.Space` and its exact look-ahead.

    ``layout`` is the space whose elements and largest count number the actions: the space itself, or the one it restricts.

    Attributes:
        symbols: the elements of the layout in ascending atomic number, the columns of ``counts``.
        largest: most atoms of an element; action ``column * largest + count - 1`` adds an element, action ``len(symbols) * largest`` stops.
        group_feasible: ``(231,)`` bool, the space groups in which some composition is possible.
    """

    def __init__(self, space: Space, lattice: LatticeSpace, layout: Space) -> None:
        self.symbols = layout.elements
        facts = [chemistry()[symbol] for symbol in self.symbols]
        order = sorted(range(len(facts)), key=lambda i: (facts[i].electronegativity or 0.0, i))
        ranges = [space.count_range(self.symbols[i]) if self.symbols[i] in space.elements else (1, 0) for i in order]
        self.largest = max(layout.count_range(symbol)[1] for symbol in self.symbols)
        self.number_of_actions = len(self.symbols) * self.largest + 1
        frames = Frames(space, self.largest)
        self.root_frame = np.array([frames.root(group) for group in range(231)], dtype=np.int32)
        charges = Charges(space, [facts[i] for i in order], ranges, self.largest)
        combination_skip, combination_choose = _combinations(space, [self.symbols[i] for i in order])
        weight, window = lattice.weights[order], lattice.limits[SYSTEM_OF]
        rest = _rest(space, weight, [high for _, high in ranges])
        possible = (self.root_frame >= 0) & _within_range(weight, ranges, window, rest[0, 0])
        bound_of = _bounds_needed(weight, window[possible], rest[0, 0])
        electronegativities = [facts[i].electronegativity or 0.0 for i in order]
        self.tables = Tables(
            column=np.array(order, dtype=np.int32),
            position=np.argsort(order).astype(np.int32),
            tie=np.unique(electronegativities, return_inverse=True)[1].astype(np.int32),
            metal=np.array([facts[i].metal for i in order]),
            required=np.array([self.symbols[i] in space.required_elements for i in order]),
            count_allowed=np.array([[low <= count <= high for count in range(self.largest + 1)] for low, high in ranges]),
            arc_start=charges.arc_start,
            arcs=charges.arcs,
            track_mask=charges.track_mask,
            next_frame=frames.next_frame,
            step_start=np.concatenate([[0], np.cumsum((frames.next_frame >= 0).sum(axis=1))]),
            step_count=np.nonzero(frames.next_frame >= 0)[1],
            step_of=np.cumsum(frames.next_frame >= 0).reshape(frames.next_frame.shape) - 1,
            number=np.array([frame.number for frame in frames.frames], dtype=np.int32),
            accepted=np.stack([charges.accepted(frame, frames.complete(frame)) for frame in frames.frames]),
            combination_skip=combination_skip,
            combination_choose=combination_choose,
            width=charges.width,
            tracks=charges.tracks,
            neutral=charges.neutral,
            pauling=charges.pauling,
            weight=weight,
            rest=rest,
            bound_of=bound_of,
            expansion=charges.expansion,
            largest_expansion=float(LARGEST_EXPANSION),
        )
        self.start, self.window = charges.start, window
        shape = (len(order) + 1, len(combination_skip), len(frames.frames), len(self.start))
        self.goals = np.zeros(shape, dtype=np.uint64)
        self.entries = np.zeros((len(order), len(combination_skip), len(self.tables.step_count), len(self.start)), dtype=np.uint64)
        goals.build_goals(self.tables, self.goals, self.entries)
        tables = int(bound_of.max()) + 1
        size = (tables, *self.goals.shape[:3], 64 * self.goals.shape[3])
        if 4 * np.prod(size, dtype=float) > LARGEST_BOUNDS:  # trial alone, without tables, is as exact, and slower
            bound_of[:] = -1
            size = (0, *size[1:])
        self.bounds = np.zeros(size, dtype=np.float32)
        for (quantity, side), table in np.ndenumerate(bound_of):
            if table >= 0:
                goals.build_bound(self.tables, self.goals, self.bounds[table], quantity, -1.0 if side else 1.0)
        self.group_feasible = np.zeros(231, dtype=bool)
        if set(space.required_elements) <= set(space.elements):
            root = np.where(possible & lattice.system_feasible[SYSTEM_OF], self.root_frame, -1)
            lookahead.feasible_roots(self.tables, self.goals, self.entries, self.bounds, root, self.start, self.window, self.group_feasible)

    def initial(self, space_group: np.ndarray) -> Partial:
        """Empty compositions in the given groups ``(n,)``."""
        n = len(space_group)
        return Partial(
            last=np.full(n, -1, dtype=np.int32),
            frame=self.root_frame[space_group],
            combination=np.zeros(n, dtype=np.int32),
            states=np.tile(self.start, (n, 1)),
            sums=np.zeros((n, self.window.shape[1])),
            products=np.ones((n, self.tables.expansion.shape[2])),
            window=self.window[space_group],
            counts=np.zeros((n, len(self.symbols)), dtype=np.int64),
        )

    def allowed(self, partial: Partial) -> np.ndarray:
        """Mask ``(n, actions)`` uint8 of the actions from which a crystal can be finished."""
        mask = np.empty((len(partial.last), self.number_of_actions), dtype=np.uint8)
        lookahead.allowed_actions(self.tables, self.goals, self.entries, self.bounds, *partial[:-1], mask)
        return mask

    def apply(self, partial: Partial, actions: np.ndarray) -> None:
        """Take the actions ``(n,)``, in place; a stop changes nothing."""
        lookahead.apply_actions(self.tables, actions, *partial[:6], partial.counts)

    def actions_of(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The one trajectory of each composition ``(n, elements)``: actions ``(n, elements + 1)`` padded by -1, and their numbers.

        The stop is part of it.
        """
        n, elements = counts.shape
        ordered = counts[:, self.tables.column]
        number = (counts > 0).sum(axis=1)
        actions = np.full((n, elements + 1), -1, dtype=np.int64)
        rows, places = np.nonzero(ordered)
        step = (np.cumsum(ordered > 0, axis=1) - 1)[rows, places]
        actions[rows, step] = self.tables.column[places] * self.largest + ordered[rows, places] - 1
        actions[np.arange(n), number] = elements * self.largest
        return actions, number + 1


class Partial(NamedTuple):
    """Partial compositions, one row each."""

    last: np.ndarray  # (n,) place of the last element, -1 at the start
    frame: np.ndarray  # (n,)
    combination: np.ndarray  # (n,)
    states: np.ndarray  # (n, words) automaton states
    sums: np.ndarray  # (n, quantities) so far
    products: np.ndarray  # (n, worlds) combinations of oxidation states so far
    window: np.ndarray  # (n, quantities, 2) where they must end in the row's lattice system
    counts: np.ndarray  # (n, elements)

    def rows(self, index: np.ndarray) -> Partial:
        """Copies of some rows."""
        return Partial(*(array[index] for array in self))


def _rest(space: Space, weight: np.ndarray, most_atoms: list[int]) -> np.ndarray:
    """``(elements + 1, most elements + 1, quantities, 2)``: the least and the most that further elements can add, from each place on and
    once there are 0, 1, ... elements: each with as many atoms as it may have, the elements with the largest sums first."""
    elements, quantities = weight.shape
    most = space.number_of_elements[1]
    table = np.zeros((elements + 1, most + 1, quantities, 2))
    largest = weight * np.array(most_atoms)[:, None]
    for place in range(elements):
        for side, sign in ((0, -1.0), (1, 1.0)):
            gains = np.sort(np.maximum(sign * largest[place:], 0.0), axis=0)[::-1]
            table[place, :, :, side] = sign * np.array([gains[: most - number].sum(axis=0) for number in range(most + 1)])
    return table


def _within_range(weight: np.ndarray, ranges: list[tuple[int, int]], windows: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """``(n,)`` whether each quantity alone can end inside its window ``(n, quantities, 2)`` with at least one element: no more than
    arithmetic, which tells a hopeless window without any table."""
    fewest = np.array([low for low, _ in ranges])[:, None] * weight
    used = fewest[[low <= high for low, high in ranges]]
    least = np.where(rest[:, 0] < 0, rest[:, 0], used.min(axis=0, initial=np.inf))
    most = np.where(rest[:, 1] > 0, rest[:, 1], used.max(axis=0, initial=-np.inf))
    return np.all((windows[:, :, 0] <= most) & (windows[:, :, 1] >= least), axis=1)


def _bounds_needed(weight: np.ndarray, windows: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """``(quantities, 2)``: the number of the table of bounds for each end of each window, -1 where it cannot bind.

    A lower bound that two atoms reach needs no table either: the few compositions below it are finished by trial.
    """
    least = weight.min(axis=0)
    low = windows[:, :, 0].max(axis=0, initial=-np.inf) > np.where(least > 0, 2 * least, rest[:, 0])
    high = windows[:, :, 1].min(axis=0, initial=np.inf) < rest[:, 1]
    needed = np.stack([low, high], axis=1)
    return np.where(needed, np.cumsum(needed).reshape(needed.shape) - 1, -1)


def _combinations(space: Space, order: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The automaton of the excluded combinations along the order: (skip, choose), each ``(states, elements)``; state 0 is the start.

    A state is the set of combinations whose members so far have all been chosen, at least one.
    """
    members = [sorted(map(order.index, combination)) for combination in space.excluded_combinations if set(combination) <= set(order)]
    states: list[frozenset[int]] = [frozenset()]
    index = {states[0]: 0}
    skip_rows, choose_rows = [], []

    def find(state: frozenset[int]) -> int:
        if state not in index:
            index[state] = len(states)
            states.append(state)
        return index[state]

    for state in states:  # grows while it is read
        skip, choose = [], []
        for element in range(len(order)):
            touched = {i for i, places in enumerate(members) if element in places}
            begun = {i for i in touched if members[i][0] == element}
            kept = (state - touched) | (state & touched) | begun
            skip.append(find(state - touched))
            finished = any(members[i][-1] == element for i in touched & (state | begun))
            choose.append(-1 if finished else find(kept))
        skip_rows.append(skip)
        choose_rows.append(choose)
    return np.array(skip_rows, dtype=np.int32), np.array(choose_rows, dtype=np.int32)
