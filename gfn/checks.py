"""Judging a finished crystal without the masks: one function per constraint, each by another road than the sampler's.

Every function returns a sentence that says what is violated, or None.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from math import cos, gcd, prod, radians, sqrt
from typing import TYPE_CHECKING, Any

from al_crystal.crystal import cell_volume, expected_volume_per_atom
from gfn.chemistry import LARGEST_EXPANSION, Element, chemistry
from gfn.lattice import LatticeSpace
from gfn.symmetry import LATTICE_SYSTEMS, lattice_system, wyckoff
from gfn.wyckoff import fits

if TYPE_CHECKING:
    from al_crystal.crystal import Crystal
    from gfn.constraints import ChargeNeutrality, LatticeWindows, Space

TOLERANCE = 2e-4
"""Relative slack on windows: crystals keep their cell to 1e-5."""

Check = Callable[["Space", "Crystal"], str | None]


def violations(space: Space, crystal: Crystal) -> list[str]:
    """What a crystal violates of a space, in sentences."""
    return [sentence for check in CHECKS if (sentence := check(space, crystal))]


def space_group(space: Space, crystal: Crystal) -> str | None:
    """The group is one of the space's."""
    if crystal.space_group not in space.space_groups:
        return f"space_groups: {crystal.space_group} is not among the space's {len(space.space_groups)} groups"
    return None


def elements(space: Space, crystal: Crystal) -> str | None:
    """Elements, their number, the required and the excluded ones."""
    present = set(crystal.composition)
    if strange := present - set(space.elements):
        return f"elements: {', '.join(sorted(strange))} not in the space"
    low, high = space.number_of_elements
    if not low <= len(present) <= high:
        return f"number_of_elements: {len(present)} is outside {low} to {high}"
    if missing := set(space.required_elements) - present:
        return f"required_elements: {', '.join(sorted(missing))} missing"
    for combination in space.excluded_combinations:
        if set(combination) <= present:
            return f"excluded_combinations: {', '.join(combination)} occur together"
    return None


def atoms(space: Space, crystal: Crystal) -> str | None:
    """Counts of each element and of all."""
    for symbol, count in crystal.composition.items():
        low, high = space.count_range(symbol)
        if not low <= count <= high:
            return f"atoms_per_element: {count} atoms of {symbol} are outside {low} to {high}"
    low, high = space.atoms
    if not low <= crystal.number_of_atoms <= high:
        return f"atoms: {crystal.number_of_atoms} is outside {low} to {high}"
    return None


def wyckoff_positions(space: Space, crystal: Crystal) -> str | None:
    """The counts fit the Wyckoff positions of the group."""
    if not fits(wyckoff(crystal.space_group), crystal.composition.values()):
        return f"Wyckoff positions: {crystal.composition} does not fit those of space group {crystal.space_group}"
    return None


def neutrality(space: Space, crystal: Crystal) -> str | None:
    """The composition is neutral, and obeys Pauling's rule if asked."""
    rule = space.charge_neutrality
    if rule is None or is_neutral(crystal.composition, rule, space.electronegativity):
        return None
    return f"charge_neutrality: no oxidation states balance {crystal.composition}" + (
        " with cations less electronegative than anions" if space.electronegativity else ""
    )


def is_neutral(composition: dict[str, int], rule: ChargeNeutrality, pauling: bool) -> bool:
    """The rule of ``smact.screening.smact_validity`` (icsd24), by trying every combination of oxidation states."""
    facts = [chemistry()[symbol] for symbol in composition]
    if len(facts) == 1 or (rule.alloys and all(element.metal for element in facts)):
        return True
    divisor = gcd(*composition.values())
    counts = [count // divisor for count in composition.values()]
    if not all(element.states for element in facts):
        return False
    if _balances(facts, counts, pauling):
        return True
    if not rule.mixed_valence:
        return False
    if prod(len(e.states) ** (n if e.mixed_valence else 1) for e, n in zip(facts, counts, strict=True)) > LARGEST_EXPANSION:
        return False
    return _balances(facts, counts, pauling, mixed=True)


def _balances(facts: list[Element], counts: list[int], pauling: bool, mixed: bool = False) -> bool:
    """Whether some choice of states is neutral: one per element, or with ``mixed`` one per atom of SMACT's mixed-valence elements."""
    choices: list[Any] = [
        list(itertools.combinations_with_replacement(element.states, count))
        if mixed and element.mixed_valence
        else [(state,) * count for state in element.states]
        for element, count in zip(facts, counts, strict=True)
    ]
    for states in itertools.product(*choices):
        if sum(map(sum, states)) == 0:
            cations = [e.electronegativity or 0.0 for e, ions in zip(facts, states, strict=True) if max(ions) > 0]
            anions = [e.electronegativity or 0.0 for e, ions in zip(facts, states, strict=True) if min(ions) < 0]
            if not pauling or max(cations) < min(anions):
                return True
    return False


@cache
def _cells(windows: LatticeWindows) -> LatticeSpace:
    return LatticeSpace(windows, ())


def room(space: Space, crystal: Crystal) -> str | None:
    """The volumes that the composition allows leave room for edges inside their window, at every angle the windows allow (volumetric
    decoding)."""
    windows, system = space.lattice, lattice_system(crystal.space_group)
    cells = _cells(windows)
    if not cells.system_feasible[system]:
        return f"room: the angles {list(windows.angles)} exclude the {LATTICE_SYSTEMS[system]} lattice system"
    if windows.decoding == "absolute":
        return None
    low, high = _volumes(windows, crystal)
    if low > high:
        return f"room: volume_ratio and volume_per_atom have no volume in common for {crystal.composition}"
    flattest, fullest = cells.unit_volumes(system)
    if high < fullest * windows.lengths[0] ** 3 or low > flattest * windows.lengths[1] ** 3:
        return f"room: volumes of {low:.2f} to {high:.2f} Å3 have no room for edges of {list(windows.lengths)} Å at every allowed angle"
    return None


def _volumes(windows: LatticeWindows, crystal: Crystal) -> tuple[float, float]:
    """Smallest and largest volume of the cell in Å3 by its composition alone."""
    estimate = expected_volume_per_atom(crystal.composition) * crystal.number_of_atoms
    low, high = (ratio * estimate for ratio in windows.volume_ratio)
    if windows.volume_per_atom is not None:
        dense, loose = windows.volume_per_atom
        low, high = max(low, dense * crystal.number_of_atoms), min(high, loose * crystal.number_of_atoms)
    return low, high


def lattice(space: Space, crystal: Crystal) -> str | None:
    """The cell obeys its lattice system and the windows, and is a real one."""
    a, b, c, *angles = crystal.lattice_parameters
    windows, system = space.lattice, LATTICE_SYSTEMS[lattice_system(crystal.space_group)]
    right, hexagonal = angles == [90, 90, 90], angles == [90, 90, 120]
    obeys = {
        "triclinic": True,
        "monoclinic": angles[0] == angles[2] == 90,
        "orthorhombic": right,
        "tetragonal": right and a == b,
        "cubic": right and a == b == c,
    }.get(system, hexagonal and a == b)
    if not obeys:
        return f"lattice system: the cell {crystal.lattice_parameters} is not {system}"
    for name, values, (low, high) in (("lengths", (a, b, c), windows.lengths), ("angles", angles, windows.angles)):
        for value in values:
            if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                return f"lattice {name}: {value} is outside {low} to {high}"
    x, y, z = (cos(radians(angle)) for angle in angles)
    unit = sqrt(max(0.0, 1 - x * x - y * y - z * z + 2 * x * y * z))
    if unit < windows.flatness * (1 - TOLERANCE):
        return f"lattice flatness: volume over the product of the edges is {unit:.4f}, below {windows.flatness}"
    return _volumetric(space, crystal) if windows.decoding == "volumetric" else None


def _volumetric(space: Space, crystal: Crystal) -> str | None:
    windows, cell = space.lattice, crystal.lattice_parameters
    estimate = expected_volume_per_atom(crystal.composition) * crystal.number_of_atoms
    ratio = cell_volume(cell) / estimate
    low, high = windows.volume_ratio
    if not low * (1 - TOLERANCE) <= ratio <= high * (1 + TOLERANCE):
        return f"lattice volume_ratio: {ratio:.4f} is outside {low} to {high}"
    if windows.volume_per_atom is not None:
        low, high = windows.volume_per_atom
        if not low * (1 - TOLERANCE) <= crystal.volume_per_atom <= high * (1 + TOLERANCE):
            return f"lattice volume_per_atom: {crystal.volume_per_atom:.4f} is outside {low} to {high}"
    mean = prod(cell[:3]) ** (1 / 3)
    low, high = windows.edge_ratio
    for edge in cell[:3]:
        if not low * (1 - TOLERANCE) <= edge / mean <= high * (1 + TOLERANCE):
            return f"lattice edge_ratio: {edge / mean:.4f} is outside {low} to {high}"
    return None


CHECKS: tuple[Check, ...] = (space_group, elements, atoms, wyckoff_positions, neutrality, room, lattice)
