"""Facts about space groups: lattice system, point symmetry, crystal system and Wyckoff multiplicities.

Sources: International Tables for Crystallography A (ranges of group numbers per crystal class); the Wyckoff table is PyXtal's, written by
``benchmarks/gfn_tables.py``. The two attributes are those of Crystal-GFN (Mistal et al.): the lattice system in eight kinds (the trigonal
system split by lattice) and the point symmetry in five.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cache
from importlib.resources import files
from typing import NamedTuple

LATTICE_SYSTEMS: tuple[str, ...] = (
    "triclinic",
    "monoclinic",
    "orthorhombic",
    "tetragonal",
    "trigonal-rhombohedral",
    "trigonal-hexagonal",
    "hexagonal-hexagonal",
    "cubic",
)
CRYSTAL_SYSTEMS: tuple[str, ...] = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
POINT_SYMMETRIES: tuple[str, ...] = ("centrosymmetric", "non-centrosymmetric", "enantiomorphic", "polar", "enantiomorphic-polar")

RHOMBOHEDRAL_GROUPS = frozenset({146, 148, 155, 160, 161, 166, 167})
PAPER_ELEMENTS: tuple[str, ...] = tuple("H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se".split())
UNCOMMON_ELEMENTS = frozenset({"Po", "At", "Rn", "Fr", "Ra"})
"""Elements up to plutonium that the Materials Project has next to no data for; the other 89 are ``elements: all``."""

_CRYSTAL_SYSTEM_ENDS = (2, 15, 74, 142, 167, 194, 230)
# Last group number of each crystal class, with the class's point symmetry as an index into POINT_SYMMETRIES.
_CLASS_ENDS = (
    *((1, 4), (2, 0), (5, 4), (9, 3), (15, 0), (24, 2), (46, 3), (74, 0), (80, 4), (82, 1), (88, 0), (98, 2), (110, 3), (122, 1)),
    *((142, 0), (146, 4), (148, 0), (155, 2), (161, 3), (167, 0), (173, 4), (174, 1), (176, 0), (182, 2), (186, 3), (190, 1)),
    *((194, 0), (199, 2), (206, 0), (214, 2), (220, 1), (230, 0)),
)
_PAPER_RANGES = (
    "1-16,18-21,25,26,29-31,33,36,38,40,41,43,44,46,47,51-53,55-67,69-72,74,82,84-88,92,99,102,107,113,114,121-123,126,129,131,136-141,"
    "146-148,150,155,156,160-164,166,167,176,181,185-187,189,192,194,198,199,205,206,216,217,220,221,224,225,227,229,230"
)


class Wyckoff(NamedTuple):
    """Multiplicities of a group's Wyckoff positions: ``fixed`` ones hold one orbit in total, ``free`` ones any number."""

    fixed: tuple[int, ...]
    free: tuple[int, ...]


def paper_groups() -> tuple[int, ...]:
    """The 113 space groups of the Crystal-GFN paper."""
    groups: list[int] = []
    for part in _PAPER_RANGES.split(","):
        first, _, last = part.partition("-")
        groups.extend(range(int(first), int(last or first) + 1))
    return tuple(groups)


def crystal_system(space_group: int) -> str:
    """One of :data:`CRYSTAL_SYSTEMS`."""
    return CRYSTAL_SYSTEMS[bisect_left(_CRYSTAL_SYSTEM_ENDS, space_group)]


def lattice_system(space_group: int) -> int:
    """Index into :data:`LATTICE_SYSTEMS`."""
    system = bisect_left(_CRYSTAL_SYSTEM_ENDS, space_group)
    if system == 4:
        return 4 if space_group in RHOMBOHEDRAL_GROUPS else 5
    return system if system < 4 else system + 1


def point_symmetry(space_group: int) -> int:
    """Index into :data:`POINT_SYMMETRIES`."""
    return next(symmetry for last, symmetry in _CLASS_ENDS if space_group <= last)


@cache
def _table() -> dict[str, dict]:
    return json.loads((files("gfn") / "data" / "space_groups.json").read_text())


def symbol(space_group: int) -> str:
    """Hermann-Mauguin symbol."""
    return _table()[str(space_group)]["symbol"]


def wyckoff(space_group: int) -> Wyckoff:
    """The multiplicities of the group's Wyckoff positions in its conventional cell (hexagonal axes for R groups)."""
    row = _table()[str(space_group)]
    return Wyckoff(tuple(row["fixed"]), tuple(row["free"]))
