"""Frames: what the counts of a partial composition leave open, whatever the elements are.

A frame is the number of elements so far, the number of atoms (as far as bounds on it can still bind), what is left of the Wyckoff positions
and, with mixed valence, the greatest common divisor of the counts.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np

from gfn.constraints import Space
from gfn.symmetry import wyckoff
from gfn.wyckoff import Remaining, WyckoffAutomaton


class Frame(NamedTuple):
    """What is left open (see the module)."""

    number: int
    atoms: int | None  # None: the bounds on the number of atoms hold whatever follows
    signature: tuple
    remaining: Remaining
    divisor: int


class Frames:
    """Every reachable frame, and the frame after each count."""

    def __init__(self, space: Space, largest: int) -> None:
        self.space, self.largest = space, largest
        self.mixed = space.charge_neutrality is not None and space.charge_neutrality.mixed_valence
        self.counts = sorted(
            {n for symbol in space.elements for n in range(space.count_range(symbol)[0], space.count_range(symbol)[1] + 1)}
        )
        automata: dict[tuple, WyckoffAutomaton] = {}
        self.roots: dict[int, Frame] = {}
        for group in space.space_groups:
            automaton = WyckoffAutomaton(wyckoff(group), largest)
            automata.setdefault(automaton.signature, automaton)
            self.roots[group] = Frame(0, self._atoms(0, 0), automaton.signature, automaton.start, 0)
        self.frames: list[Frame] = list(dict.fromkeys(self.roots.values()))
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

    def _add(self, frame: Frame, count: int, remaining: Remaining) -> int:
        atoms = None if frame.atoms is None else self._atoms(frame.number + 1, frame.atoms + count)
        divisor = gcd(frame.divisor, count) if self.mixed else 0
        following = Frame(frame.number + 1, atoms, frame.signature, remaining, divisor)
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

    def complete(self, frame: Frame) -> bool:
        """Whether the numbers of elements and atoms allow to stop here."""
        return frame.number >= self.space.number_of_elements[0] and (frame.atoms is None or frame.atoms >= self.space.atoms[0])
