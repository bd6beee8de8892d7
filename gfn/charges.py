"""The charges that oxidation states can give a partial composition, as sets of bits on tracks, and the arcs that elements add."""

from __future__ import annotations

import numpy as np

from gfn.chemistry import Element
from gfn.constraints import Space
from gfn.frames import Frame


class Charges:
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
        places = self.limit + 1 if self.pauling else 2 * self.limit + 1
        self.width = -(-places // 64)
        self.track_mask = bits(range(places), self.width)
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
                arcs += [(track, track, shift) for shift in totals(element.states, element, count, divisor)]
                continue
            cations = [q for q in element.states if q > 0]
            anions = [q for q in element.states if q < 0]
            arcs += [(track, track, shift) for shift in totals(cations, element, count, divisor)]
            arcs += [(track + 1, track + 1, shift) for shift in totals(anions, element, count, divisor)]
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
            words[1 + track * self.width : 1 + (track + 1) * self.width] |= bits([self.zero], self.width)
        return words

    def accepted(self, frame: Frame, complete: bool) -> np.ndarray:
        """The states in which a crystal may be finished at a frame."""
        if frame.number == 0 or not complete:
            return self._words(0, [])
        flags = (1 if not self.neutral or frame.number == 1 else 0) | (2 if self.alloys else 0)
        if not self.tracks:
            return self._words(flags, [])
        per_world = 2 if self.pauling else 1
        worlds = [0] + ([1 + self.divisors.index(frame.divisor)] if self.divisors else [])
        return self._words(flags, [world * per_world + per_world - 1 for world in worlds])


def totals(states: tuple[int, ...] | list[int], element: Element, count: int, divisor: int) -> list[int]:
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


def bits(places: range | list[int], width: int) -> np.ndarray:
    """``(width,)`` words with the bits at some places set."""
    words = [0] * width
    for place in places:
        words[place >> 6] |= 1 << (place & 63)
    return np.array(words, dtype=np.uint64)
