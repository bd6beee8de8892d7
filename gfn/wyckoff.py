"""Which atom counts fit the Wyckoff positions of a space group, as a finite automaton.

Each element's count must be a sum of multiplicities; a position without free parameters may be used once in the whole crystal, one with
free parameters any number of times. The automaton reads the counts one element after another; its state is the set of what may be left
of the fixed positions. Counts are exact and independent of the order of the elements.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from gfn.symmetry import Wyckoff

Remaining = frozenset[tuple[int, ...]]


class WyckoffAutomaton:
    """The automaton of one group for counts of at most ``largest_count`` atoms per element.

    Positions larger than that drop out, and so do fixed positions whose multiplicity free ones can make up, so that many groups
    share one automaton: :attr:`signature` tells which.
    """

    def __init__(self, positions: Wyckoff, largest_count: int) -> None:
        self.free = _sums(positions.free, largest_count)
        useful = [m for m in positions.fixed if m <= largest_count and not self.free[m]]
        self.multiplicities = tuple(sorted(set(useful)))
        self.start: Remaining = frozenset({tuple(useful.count(m) for m in self.multiplicities)})
        self.signature = (self.free, self.multiplicities, next(iter(self.start)))

    def step(self, state: Remaining, count: int) -> Remaining | None:
        """The state after an element with ``count`` atoms; None where they do not fit."""
        left = {rest for remaining in state for rest in self._place(remaining, count)}
        return _maximal(left) if left else None

    def _place(self, remaining: tuple[int, ...], count: int, first: int = 0) -> Iterable[tuple[int, ...]]:
        """What may be left of the fixed positions after placing ``count`` atoms, using only the multiplicities from ``first``."""
        if first == len(remaining):
            if self.free[count]:
                yield remaining
            return
        multiplicity = self.multiplicities[first]
        for used in range(min(remaining[first], count // multiplicity) + 1):
            rest = (*remaining[:first], remaining[first] - used, *remaining[first + 1 :])
            yield from self._place(rest, count - used * multiplicity, first + 1)


def _sums(multiplicities: tuple[int, ...], largest: int) -> tuple[bool, ...]:
    """For each n up to ``largest``: is n a sum of the multiplicities, each used any number of times?"""
    possible = [True] + [False] * largest
    for total in range(1, largest + 1):
        possible[total] = any(m <= total and possible[total - m] for m in multiplicities)
    return tuple(possible)


def _maximal(vectors: set[tuple[int, ...]]) -> Remaining:
    """Those not dominated by another: less left of every position is never better."""
    return frozenset(v for v in vectors if not any(v != w and all(x <= y for x, y in zip(v, w, strict=True)) for w in vectors))


def fits(positions: Wyckoff, counts: Iterable[int]) -> bool:
    """Whether the counts of a composition fit; by plain search over positions, independent of the automaton (for checks)."""

    @cache
    def search(elements: tuple[int, ...], fixed: tuple[int, ...]) -> bool:
        if not elements:
            return True
        if elements[0] == 0:
            return search(elements[1:], fixed)
        head, rest = elements[0], elements[1:]
        for multiplicity in set(fixed):
            unused = list(fixed)
            unused.remove(multiplicity)
            if multiplicity <= head and search((head - multiplicity, *rest), tuple(unused)):
                return True
        return any(multiplicity <= head and search((head - multiplicity, *rest), fixed) for multiplicity in positions.free)

    return search(tuple(sorted(counts, reverse=True)), positions.fixed)
