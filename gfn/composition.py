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
* *volume*: the sum of element volumes must leave room for a cell whose edges are inside their windows.

From the end backwards, :func:`gfn.lookahead.build_goals` computes for each (element, combination, frame) the states from which a crystal
can be finished: an action is allowed if and only if it leads into one of them. Nothing is approximated, nothing is searched while sampling.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np

from gfn import lookahead
from gfn.chemistry import LARGEST_EXPANSION, Element, chemistry
from gfn.constraints import Space
from gfn.lattice import LatticeSpace
from gfn.space_group import SYSTEM_OF
from gfn.symmetry import wyckoff
from gfn.wyckoff import Remaining, WyckoffAutomaton


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
    volume: np.ndarray  # (elements,) estimated volume of an atom in Å3
    largest_rest: np.ndarray  # (most elements + 1,) largest volume that can be added once there are so many elements
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
        frames = _Frames(space, self.largest)
        self.root_frame = np.array([frames.root(group) for group in range(231)], dtype=np.int32)
        charges = _Charges(space, [facts[i] for i in order], ranges, self.largest)
        combination_skip, combination_choose = _combinations(space, [self.symbols[i] for i in order])
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
            volume=lattice.element_volumes[order],
            largest_rest=_largest_rest(space, lattice.element_volumes[order] * [high for _, high in ranges]),
            expansion=charges.expansion,
            largest_expansion=float(LARGEST_EXPANSION),
        )
        self.start, self.window = charges.start, lattice.estimate[SYSTEM_OF]
        shape = (len(order) + 1, len(combination_skip), len(frames.frames), len(self.start))
        self.goals = np.zeros(shape, dtype=np.uint64)
        self.entries = np.zeros((len(order), len(combination_skip), len(self.tables.step_count), len(self.start)), dtype=np.uint64)
        lookahead.build_goals(self.tables, self.goals, self.entries)
        self.bounds = self._volume_bounds()
        self.group_feasible = np.zeros(231, dtype=bool)
        if set(space.required_elements) <= set(space.elements):
            root = np.where(lattice.system_feasible[SYSTEM_OF], self.root_frame, -1)
            lookahead.feasible_roots(
                self.tables, self.goals, self.entries, *self.bounds, root, self.start, self.window, self.group_feasible
            )

    def _volume_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Tables of the largest and (negative) smallest volume that can still be added, where the windows of the estimate need them.

        A lower bound that two atoms reach needs no table: the few compositions below it are finished by trial.
        """
        shape = (*self.goals.shape[:3], 64 * self.goals.shape[3])
        groups = self.window[self.root_frame >= 0]
        tables = []
        for needed, sign in (
            (groups[:, 0].max() > 2 * self.tables.volume.min(), 1.0),
            (groups[:, 1].min() < self.tables.largest_rest[0], -1.0),
        ):
            tables.append(np.zeros(shape if needed else (0, 0, 0, 0), dtype=np.float32))
            if needed:
                lookahead.build_volumes(self.tables, self.goals, tables[-1], sign)
        return tables[0], tables[1]

    def initial(self, space_group: np.ndarray) -> Partial:
        """Empty compositions in the given groups ``(n,)``."""
        n = len(space_group)
        return Partial(
            last=np.full(n, -1, dtype=np.int32),
            frame=self.root_frame[space_group],
            combination=np.zeros(n, dtype=np.int32),
            states=np.tile(self.start, (n, 1)),
            volume=np.zeros(n),
            products=np.ones((n, self.tables.expansion.shape[2])),
            window=self.window[space_group],
            counts=np.zeros((n, len(self.symbols)), dtype=np.int64),
        )

    def allowed(self, partial: Partial) -> np.ndarray:
        """Mask ``(n, actions)`` uint8 of the actions from which a crystal can be finished."""
        mask = np.empty((len(partial.last), self.number_of_actions), dtype=np.uint8)
        lookahead.allowed_actions(self.tables, self.goals, self.entries, *self.bounds, *partial[:-1], mask)
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
    volume: np.ndarray  # (n,) estimated volume so far in Å3
    products: np.ndarray  # (n, worlds) combinations of oxidation states so far
    window: np.ndarray  # (n, 2) smallest and largest estimated volume in the row's lattice system
    counts: np.ndarray  # (n, elements)

    def rows(self, index: np.ndarray) -> Partial:
        """Copies of some rows."""
        return Partial(*(array[index] for array in self))


class _Frame(NamedTuple):
    number: int
    atoms: int | None  # None: the bounds on the number of atoms hold whatever follows
    signature: tuple
    remaining: Remaining
    divisor: int


class _Frames:
    """Every reachable frame, and the frame after each count."""

    def __init__(self, space: Space, largest: int) -> None:
        self.space, self.largest = space, largest
        self.mixed = space.charge_neutrality is not None and space.charge_neutrality.mixed_valence
        self.counts = sorted(
            {n for symbol in space.elements for n in range(space.count_range(symbol)[0], space.count_range(symbol)[1] + 1)}
        )
        automata: dict[tuple, WyckoffAutomaton] = {}
        self.roots: dict[int, _Frame] = {}
        for group in space.space_groups:
            automaton = WyckoffAutomaton(wyckoff(group), largest)
            automata.setdefault(automaton.signature, automaton)
            self.roots[group] = _Frame(0, self._atoms(0, 0), automaton.signature, automaton.start, 0)
        self.frames: list[_Frame] = list(dict.fromkeys(self.roots.values()))
        self.index = {frame: i for i, frame in enumerate(self.frames)}
        steps: dict[tuple, Remaining | None] = {}
        rows = []
        for frame in self.frames:  # grows while it is read
            row = [-1] * (largest + 1)
            for count in self.counts if frame.number < space.number_of_elements[1] else ():
                key = (frame.signature, frame.remaining, count)
                if key not in steps:
                    steps[key] = automata[frame.signature].step(frame.remaining, count)
                remaining = steps[key]
                if remaining is not None and (frame.atoms is None or frame.atoms + count <= space.atoms[1]):
                    row[count] = self._add(frame, count, remaining)
            rows.append(row)
        self.next_frame = np.array(rows, dtype=np.int32)

    def _add(self, frame: _Frame, count: int, remaining: Remaining) -> int:
        atoms = None if frame.atoms is None else self._atoms(frame.number + 1, frame.atoms + count)
        divisor = gcd(frame.divisor, count) if self.mixed else 0
        following = _Frame(frame.number + 1, atoms, frame.signature, remaining, divisor)
        if following not in self.index:
            self.index[following] = len(self.frames)
            self.frames.append(following)
        return self.index[following]

    def _atoms(self, number: int, atoms: int) -> int | None:
        """The number of atoms, or None once no bound on it can bind any more."""
        most_to_come = (self.space.number_of_elements[1] - number) * self.largest
        return None if atoms >= self.space.atoms[0] and atoms + most_to_come <= self.space.atoms[1] else atoms

    def root(self, group: int) -> int:
        """Index of the frame of an empty composition; -1 for groups outside the space."""
        return self.index[self.roots[group]] if group in self.roots else -1

    def complete(self, frame: _Frame) -> bool:
        """Whether the numbers of elements and atoms allow to stop here."""
        return frame.number >= self.space.number_of_elements[0] and (frame.atoms is None or frame.atoms >= self.space.atoms[0])


class _Charges:
    """Tracks of charges and the arcs that each (element, count) adds.

    With mixed valence there is one further pair of tracks for each common divisor d of the counts: SMACT lets the atoms of the *reduced*
    formula choose their states one by one, so in the pair of d an element with n atoms makes n / d choices, and the pair accepts where d is
    the greatest common divisor.
    """

    def __init__(self, space: Space, facts: list[Element], ranges: list[tuple[int, int]], largest: int) -> None:
        rule = space.charge_neutrality
        self.neutral, self.alloys = rule is not None, rule is not None and rule.alloys
        self.pauling = self.neutral and space.electronegativity
        self.divisors = list(range(1, largest + 1)) if rule is not None and rule.mixed_valence else []
        per_world = (2 if self.pauling else 1) if self.neutral else 0
        self.tracks = per_world * (1 + len(self.divisors))
        most = space.number_of_elements[1]
        strongest = [self._strongest(sign, facts, ranges, most) for sign in (1, -1)]
        self.limit = min(strongest) if self.pauling else max(strongest)
        self.zero = 0 if self.pauling else self.limit
        bits = self.limit + 1 if self.pauling else 2 * self.limit + 1
        self.width = -(-bits // 64)
        self.track_mask = _bits(range(bits), self.width)
        arcs: list[tuple[int, int, int]] = []
        starts = np.zeros((len(facts), largest + 2), dtype=np.int32)
        for e, (element, (low, high)) in enumerate(zip(facts, ranges, strict=True)):
            for count in range(largest + 1):
                starts[e, count] = len(arcs)
                if self.neutral and low <= count <= high:
                    arcs.extend(self._arcs(element, count, per_world))
            starts[e, largest + 1] = len(arcs)
        self.arc_start = starts
        self.arcs = np.array(arcs, dtype=np.int32).reshape(-1, 3)
        self.expansion = self._expansion(facts, largest)
        self.start = self._words(flags=1 | (2 if self.alloys else 0), tracks=range(0, self.tracks, max(per_world, 1)))

    def _strongest(self, sign: int, facts: list[Element], ranges: list[tuple[int, int]], most: int) -> int:
        """Largest charge that all elements of a crystal but one can have together."""
        charges = [
            max([sign * q for q in element.states if sign * q > 0], default=0) * high
            for element, (_, high) in zip(facts, ranges, strict=True)
        ]
        return sum(sorted(charges)[max(0, len(charges) - max(1, most - 1)) :])

    def _arcs(self, element: Element, count: int, per_world: int) -> list[tuple[int, int, int]]:
        arcs = []
        for world, divisor in enumerate([0, *self.divisors]):
            if divisor and count % divisor:
                continue
            track = world * per_world
            if not self.pauling:
                arcs += [(track, track, shift) for shift in _charges(element.states, element, count, divisor)]
                continue
            cations = [q for q in element.states if q > 0]
            anions = [q for q in element.states if q < 0]
            arcs += [(track, track, shift) for shift in _charges(cations, element, count, divisor)]
            arcs += [(track + 1, track + 1, shift) for shift in _charges(anions, element, count, divisor)]
        return [arc for arc in arcs if abs(arc[2]) <= self.limit * (1 if self.pauling else 2)]

    def _expansion(self, facts: list[Element], largest: int) -> np.ndarray:
        """Combinations of oxidation states that SMACT would try for each (element, count) in the world of each divisor."""
        table = np.ones((len(facts), largest + 1, 1 + len(self.divisors)))
        for world, divisor in enumerate(self.divisors, start=1):
            for e, element in enumerate(facts):
                for count in range(divisor, largest + 1, divisor):
                    table[e, count, world] = float(max(1, len(element.states))) ** (count // divisor if element.mixed_valence else 1)
        return table

    def _words(self, flags: int, tracks: range | list[int]) -> np.ndarray:
        """States: the flags, and charge zero on the given tracks."""
        words = np.zeros(1 + self.tracks * self.width, dtype=np.uint64)
        words[0] = flags
        for track in tracks:
            words[1 + track * self.width : 1 + (track + 1) * self.width] |= _bits([self.zero], self.width)
        return words

    def accepted(self, frame: _Frame, complete: bool) -> np.ndarray:
        """The states in which a crystal may be finished at a frame."""
        if frame.number == 0 or not complete:
            return self._words(0, [])
        flags = (1 if not self.neutral or frame.number == 1 else 0) | (2 if self.alloys else 0)
        if not self.tracks:
            return self._words(flags, [])
        per_world = 2 if self.pauling else 1
        worlds = [0] + ([1 + self.divisors.index(frame.divisor)] if self.divisors else [])
        return self._words(flags, [world * per_world + per_world - 1 for world in worlds])


def _largest_rest(space: Space, volumes: np.ndarray) -> np.ndarray:
    """Largest volume that can be added once there are 0, 1, ... elements, from the largest of each (ascending order not needed)."""
    most = space.number_of_elements[1]
    descending = np.sort(volumes)[::-1]
    return np.array([descending[: most - number].sum() for number in range(most + 1)])


def _charges(states: tuple[int, ...] | list[int], element: Element, count: int, divisor: int) -> list[int]:
    """Total charges of an element: one state for all its atoms, or with ``divisor`` and mixed valence one for each atom left after it."""
    if not divisor:
        return [q * count for q in states]
    atoms = count // divisor
    if not element.mixed_valence:
        return [q * atoms for q in states]
    sums = {0}
    for _ in range(atoms):
        sums = {total + q for total in sums for q in states}
    return sorted(sums)


def _bits(places: range | list[int], width: int) -> np.ndarray:
    words = [0] * width
    for place in places:
        words[place >> 6] |= 1 << (place & 63)
    return np.array(words, dtype=np.uint64)


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
