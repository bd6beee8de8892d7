"""What a crystal may be: the hard constraints of a campaign, as settings, and their independent checks.

:class:`Space` is the ``space:`` section of a campaign; :class:`Restriction` narrows a space at sampling time. Both are plain settings: the
masks that enforce them live in :mod:`gfn.composition`, :mod:`gfn.space_group` and :mod:`gfn.lattice`, and :mod:`gfn.checks` judges a
finished crystal without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from al_crystal.crystal import ATOMIC_NUMBER, ELEMENTS
from gfn.symmetry import CRYSTAL_SYSTEMS, LATTICE_SYSTEMS, PAPER_ELEMENTS, UNCOMMON_ELEMENTS, crystal_system, lattice_system, paper_groups

Range = tuple[int, int]
Window = tuple[float, float]


class EmptySpace(ValueError):
    """No crystal satisfies the constraints; the message says which of them empties the space."""


class Settings(BaseModel):
    """Frozen settings that refuse keys they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChargeNeutrality(Settings):
    """Charge neutrality as ``smact.screening.smact_validity`` with the icsd24 oxidation states decides it."""

    mixed_valence: bool = Field(
        default=False, description="let atoms of one element take different oxidation states (SMACT's list of elements)"
    )
    alloys: bool = Field(default=False, description="accept any composition of metals alone")


class LatticeWindows(Settings):
    """Bounds of the conventional cell, and how the unit cube of the sampler is read as a cell.

    The default windows each hold about 99 % of real crystals of at most 80 atoms (``benchmarks/gfn_windows.py``).
    """

    decoding: Literal["volumetric", "absolute"] = Field(
        default="volumetric",
        description="volumetric: angles, then the volume relative to an estimate from the composition, then edge ratios; "
        "absolute: edges and angles linear in the cube coordinates",
    )
    lengths: Window = Field(default=(2.5, 30.0), description="smallest and largest edge in Å")
    angles: Window = Field(
        default=(50.0, 130.0), description="smallest and largest angle in degrees (fixed angles, such as 120, count too)"
    )
    volume_ratio: Window = Field(default=(0.6, 1.6), description="volume over the estimate from the composition (volumetric decoding)")
    volume_per_atom: Window | None = Field(
        default=None, description="smallest and largest volume in Å3 per atom (volumetric decoding); null: as `volume_ratio` has it"
    )
    edge_ratio: Window = Field(default=(0.4, 4.0), description="edge over the cube root of the product of the edges (volumetric decoding)")
    flatness: float = Field(default=0.5, gt=0, le=1, description="smallest volume over the product of the edges: keeps the metric positive")

    @field_validator("lengths", "angles", "volume_ratio", "volume_per_atom", "edge_ratio")
    @classmethod
    def _ordered(cls, window: Window | None) -> Window | None:
        if window is not None and not 0 < window[0] < window[1]:
            raise ValueError(f"expected 0 < smallest < largest, given {list(window)}")
        return window

    @model_validator(mode="after")
    def _sensible(self) -> LatticeWindows:
        if self.angles[1] >= 180:
            raise ValueError(f"angles must stay below 180 degrees, given {list(self.angles)}")
        if self.volume_per_atom is not None and self.decoding == "absolute":
            raise ValueError("volume_per_atom needs the volumetric decoding: the absolute one reads edges and angles, whatever the volume")
        if self.edge_ratio[0] >= 1 or self.edge_ratio[1] <= 1:
            raise ValueError(f"edge_ratio must contain 1 (equal edges), given {list(self.edge_ratio)}")
        return self


def _elements(value: Any) -> tuple[str, ...]:
    if value == "paper":
        value = PAPER_ELEMENTS
    elif value == "all":
        value = [symbol for symbol in ELEMENTS[:94] if symbol not in UNCOMMON_ELEMENTS]
    elif isinstance(value, str):
        raise ValueError(f"expected a list of element symbols, 'paper' (22 elements) or 'all' (89 elements), given {value!r}")
    unknown = [symbol for symbol in value if symbol not in ATOMIC_NUMBER]
    if unknown:
        raise ValueError(f"not chemical elements: {', '.join(map(repr, unknown))}")
    return tuple(sorted(set(value), key=ATOMIC_NUMBER.__getitem__))


def _groups(value: Any) -> tuple[int, ...]:
    if value == "paper":
        return paper_groups()
    if value == "all":
        return tuple(range(1, 231))
    groups: set[int] = set()
    for item in [value] if isinstance(value, str | int) else value:
        if isinstance(item, int) and 1 <= item <= 230:
            groups.add(item)
        elif item in CRYSTAL_SYSTEMS:
            groups |= {group for group in range(1, 231) if crystal_system(group) == item}
        elif item in LATTICE_SYSTEMS:
            groups |= {group for group in range(1, 231) if LATTICE_SYSTEMS[lattice_system(group)] == item}
        else:
            names = ", ".join(dict.fromkeys((*CRYSTAL_SYSTEMS, *LATTICE_SYSTEMS)))
            raise ValueError(f"{item!r} is not a space group: give numbers from 1 to 230, 'paper' (113), 'all', or systems ({names})")
    return tuple(sorted(groups))


class Space(Settings):
    """Every crystal the sampler may propose."""

    elements: tuple[str, ...] = Field(default=PAPER_ELEMENTS, description="symbols, or `paper` (22), or `all` (89)")
    space_groups: tuple[int, ...] = Field(
        default_factory=paper_groups, description="numbers and systems (such as `cubic`), or `paper` (113), or `all` (230)"
    )
    number_of_elements: Range = Field(default=(1, 5), description="fewest and most different elements")
    atoms_per_element: Range = Field(default=(1, 16), description="fewest and most atoms of an element in the conventional cell")
    atoms_of: dict[str, Range] = Field(default_factory=dict, description="fewest and most atoms of one element where it occurs, by symbol")
    atoms: Range = Field(default=(1, 80), description="fewest and most atoms in the conventional cell")
    charge_neutrality: ChargeNeutrality | None = Field(
        default_factory=lambda: ChargeNeutrality(), description="null: any composition (then electronegativity must be false)"
    )
    electronegativity: bool = Field(default=True, description="Pauling's rule: every cation less electronegative than every anion")
    required_elements: tuple[str, ...] = Field(default=(), description="elements every crystal must contain")
    excluded_combinations: tuple[tuple[str, ...], ...] = Field(default=(), description="sets of elements that must not occur all together")
    lattice: LatticeWindows = Field(default_factory=lambda: LatticeWindows(), description="bounds of the cell")

    _read_elements = field_validator("elements", mode="before")(_elements)
    _read_groups = field_validator("space_groups", mode="before")(_groups)
    _read_required = field_validator("required_elements", mode="before")(_elements)

    @field_validator("excluded_combinations", mode="before")
    @classmethod
    def _read_combinations(cls, value: Iterable[Any]) -> tuple[tuple[str, ...], ...]:
        return tuple(_elements([item] if isinstance(item, str) else item) for item in value)

    @field_validator("number_of_elements", "atoms_per_element", "atoms")
    @classmethod
    def _range(cls, value: Range) -> Range:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"expected 1 <= fewest <= most, given {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        if not self.elements:
            raise ValueError("elements: at least one element is needed")
        if not self.space_groups:
            raise ValueError("space_groups: at least one group is needed")
        if self.electronegativity and self.charge_neutrality is None:
            raise ValueError(
                "electronegativity: the rule judges the ions of a neutral crystal; with charge_neutrality: null set it to false"
            )
        for symbol, (fewest, most) in self.atoms_of.items():
            if symbol not in ATOMIC_NUMBER or not 1 <= fewest <= most:
                raise ValueError(f"atoms_of: expected an element and 1 <= fewest <= most, given {symbol}: {[fewest, most]}")
        return self

    def count_range(self, symbol: str) -> Range:
        """Fewest and most atoms of an element where it occurs; empty (fewest > most) where nothing is left."""
        fewest, most = self.atoms_of.get(symbol, self.atoms_per_element)
        return max(fewest, self.atoms_per_element[0]), min(most, self.atoms_per_element[1], self.atoms[1])

    def restricted(self, restriction: Restriction | None) -> Space:
        """The part of this space inside a restriction.

        Raises:
            EmptySpace: when a field of the restriction has nothing in common with this space; the message names it.
        """
        return self if restriction is None else _intersection(self, restriction)


class LatticeRestriction(Settings):
    """Narrower bounds of the cell."""

    lengths: Window | None = Field(default=None, description="smallest and largest edge in Å")
    angles: Window | None = Field(default=None, description="smallest and largest angle in degrees")
    volume_ratio: Window | None = Field(default=None, description="volume over the estimate from the composition")
    volume_per_atom: Window | None = Field(default=None, description="smallest and largest volume in Å3 per atom")
    edge_ratio: Window | None = Field(default=None, description="edge over the cube root of the product of the edges")


class Restriction(Settings):
    """Narrows a space at sampling time: each field given is a further constraint."""

    elements: tuple[str, ...] | None = Field(default=None, description="only these elements")
    space_groups: tuple[int, ...] | None = Field(default=None, description="only these groups (numbers and systems)")
    number_of_elements: Range | None = Field(default=None, description="fewest and most different elements")
    atoms_per_element: Range | None = Field(default=None, description="fewest and most atoms of an element")
    atoms_of: dict[str, Range] = Field(default_factory=dict, description="fewest and most atoms of one element where it occurs")
    atoms: Range | None = Field(default=None, description="fewest and most atoms in the conventional cell")
    charge_neutrality: ChargeNeutrality | None = Field(default=None, description="a stricter rule; null keeps the space's")
    electronegativity: bool = Field(default=False, description="true adds Pauling's rule")
    required_elements: tuple[str, ...] = Field(default=(), description="elements every crystal must contain")
    excluded_combinations: tuple[tuple[str, ...], ...] = Field(default=(), description="sets of elements that must not occur all together")
    lattice: LatticeRestriction = Field(default_factory=lambda: LatticeRestriction(), description="narrower bounds of the cell")
    finetune: int = Field(
        default=0, ge=0, description="training iterations inside the restriction before sampling (0: the trained policy as it is)"
    )

    @field_validator("elements", "required_elements", mode="before")
    @classmethod
    def _read_elements(cls, value: Any) -> Any:
        return None if value is None else _elements(value)

    @field_validator("space_groups", mode="before")
    @classmethod
    def _read_groups(cls, value: Any) -> Any:
        return None if value is None else _groups(value)

    _read_combinations = field_validator("excluded_combinations", mode="before")(
        lambda value: tuple(_elements([item] if isinstance(item, str) else item) for item in value)
    )


def _overlap(name: str, ours: Any, theirs: Any) -> Any:
    """Intersection of two windows; None is no window."""
    if ours is None or theirs is None:
        return ours or theirs
    low, high = max(ours[0], theirs[0]), min(ours[1], theirs[1])
    if low > high:
        raise EmptySpace(f"{name}: the restriction {list(theirs)} has nothing in common with the space's {list(ours)}.")
    return low, high


def _common(name: str, ours: tuple, theirs: tuple | None) -> tuple:
    """Intersection of two lists."""
    if theirs is None:
        return ours
    common = tuple(item for item in ours if item in theirs)
    if not common:
        raise EmptySpace(f"{name}: none of the restriction's {list(theirs)} is in the space, which has {list(ours)}.")
    return common


def _intersection(space: Space, restriction: Restriction) -> Space:
    charge = space.charge_neutrality
    if restriction.charge_neutrality is not None:
        asked = restriction.charge_neutrality
        charge = (
            asked
            if charge is None
            else ChargeNeutrality(mixed_valence=charge.mixed_valence and asked.mixed_valence, alloys=charge.alloys and asked.alloys)
        )
    atoms_of = dict(space.atoms_of)
    for symbol, window in restriction.atoms_of.items():
        atoms_of[symbol] = _overlap(f"atoms_of {symbol}", atoms_of.get(symbol, window), window)
    windows = {
        name: _overlap(f"lattice {name}", getattr(space.lattice, name), getattr(restriction.lattice, name))
        for name in ("lengths", "angles", "volume_ratio", "volume_per_atom", "edge_ratio")
    }
    try:
        return Space(
            elements=_common("elements", space.elements, restriction.elements),
            space_groups=_common("space_groups", space.space_groups, restriction.space_groups),
            number_of_elements=_overlap("number_of_elements", space.number_of_elements, restriction.number_of_elements),
            atoms_per_element=_overlap("atoms_per_element", space.atoms_per_element, restriction.atoms_per_element),
            atoms_of=atoms_of,
            atoms=_overlap("atoms", space.atoms, restriction.atoms),
            charge_neutrality=charge,
            electronegativity=space.electronegativity or restriction.electronegativity,
            required_elements=tuple({*space.required_elements, *restriction.required_elements}),
            excluded_combinations=(*space.excluded_combinations, *restriction.excluded_combinations),
            lattice=LatticeWindows.model_validate(space.lattice.model_dump() | windows),
        )
    except EmptySpace:
        raise
    except ValueError as error:
        raise EmptySpace(f"the restriction leaves no valid space: {error}") from error
