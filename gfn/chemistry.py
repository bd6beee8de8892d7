"""SMACT's facts about the elements, from the shipped table (``benchmarks/gfn_tables.py`` writes and compares it)."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from al_crystal.crystal import ATOMIC_NUMBER

LARGEST_EXPANSION = 1_000_000
"""SMACT refuses mixed valence where more combinations of oxidation states would have to be tried."""


class Element(NamedTuple):
    """SMACT's facts about an element (``gfn/data/oxidation_states.json``)."""

    states: tuple[int, ...]
    electronegativity: float | None
    metal: bool
    mixed_valence: bool


@cache
def chemistry() -> dict[str, Element]:
    """The table of oxidation states, by symbol."""
    table = json.loads((files("gfn") / "data" / "oxidation_states.json").read_text())
    unknown = Element((), None, False, False)
    return {symbol: unknown for symbol in ATOMIC_NUMBER} | {
        symbol: Element(tuple(row["states"]), row["electronegativity"], row["metal"], row["mixed_valence"]) for symbol, row in table.items()
    }
