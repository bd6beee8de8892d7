"""The nouns every room speaks: crystals, predictions, candidates and labels.

Nothing here imports another module of the project, and nothing heavy is imported before it is needed, so that ``--help`` and
configuration errors answer at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import cos, radians, sqrt
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import pandas as pd
    import torch

ELEMENTS: tuple[str, ...] = tuple(
    """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh
    Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra
    Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()
)
"""Element symbols; the element of atomic number Z is ``ELEMENTS[Z - 1]``."""

ATOMIC_NUMBER: dict[str, int] = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
ATOMIC_MASS_PER_CUBIC_ANGSTROM = 1.66053906660  # in g/cm3 (CODATA 2018)
LATTICE_PARAMETERS: tuple[str, ...] = ("a", "b", "c", "alpha", "beta", "gamma")

Arm = Literal["gfn", "random", "seed"]
Status = Literal["ok", "rejected", "failed"]


class Noun(BaseModel):
    """A frozen record that goes to disk as JSON and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Crystal(Noun):
    """A space group, a composition and a cell; no atom positions.

    ``composition`` counts the atoms of each element in the conventional cell, in the ITA standard setting (hexagonal axes for
    the rhombohedral groups); ``lattice_parameters`` are (a, b, c, alpha, beta, gamma) of that cell in Å and degrees, kept to
    1e-5 so that a crystal and its written form are the same crystal.
    """

    space_group: int = Field(ge=1, le=230)
    composition: dict[str, int]
    lattice_parameters: tuple[float, float, float, float, float, float]

    @field_validator("composition")
    @classmethod
    def _canonical_composition(cls, composition: dict[str, int]) -> dict[str, int]:
        if not composition:
            raise ValueError("a crystal needs at least one element")
        for symbol, count in composition.items():
            if symbol not in ATOMIC_NUMBER:
                raise ValueError(f"{symbol!r} is not a chemical element")
            if count < 1:
                raise ValueError(f"{count} atoms of {symbol}: counts start at 1")
        return dict(sorted(composition.items(), key=lambda item: ATOMIC_NUMBER[item[0]]))

    @field_validator("lattice_parameters")
    @classmethod
    def _canonical_lattice(cls, parameters: tuple[float, ...]) -> tuple[float, ...]:
        if min(parameters) <= 0:
            raise ValueError(f"lattice parameters must be positive, given {parameters}")
        return tuple(round(float(value), 5) for value in parameters)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical form."""
        canonical = [self.space_group, list(self.composition.items()), [f"{value:.5f}" for value in self.lattice_parameters]]
        return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()[:16]

    @property
    def number_of_atoms(self) -> int:
        """Atoms in the conventional cell."""
        return sum(self.composition.values())

    @property
    def chemical_system(self) -> str:
        """Element symbols in alphabetical order, joined by hyphens."""
        return "-".join(sorted(self.composition))

    @property
    def formula(self) -> str:
        """Reduced formula, elements in order of electronegativity (pymatgen's convention)."""
        from pymatgen.core import Composition  # late: heavy

        return Composition(self.composition).reduced_formula

    @property
    def volume(self) -> float:
        """Volume of the conventional cell in Å3; 0 where the angles admit no real cell."""
        return cell_volume(self.lattice_parameters)

    @property
    def volume_per_atom(self) -> float:
        """Volume in Å3 per atom."""
        return self.volume / self.number_of_atoms

    @property
    def density(self) -> float:
        """Mass density in g/cm3."""
        from pymatgen.core import Element  # late: heavy

        mass = sum(count * float(Element(symbol).atomic_mass) for symbol, count in self.composition.items())
        return mass * ATOMIC_MASS_PER_CUBIC_ANGSTROM / self.volume


def cell_volume(parameters: Sequence[float]) -> float:
    """Volume in Å3 of the cell (a, b, c in Å; alpha, beta, gamma in degrees); 0 for angles that close no cell."""
    a, b, c, *angles = parameters
    x, y, z = (cos(radians(angle)) for angle in angles)
    return a * b * c * sqrt(max(0.0, 1 - x * x - y * y - z * z + 2 * x * y * z))


@cache
def element_volumes() -> dict[str, float]:
    """Volume in Å3 that an atom of each element takes in a crystal, fitted by ``benchmarks/element_volumes.py``."""
    return json.loads((files("al_crystal") / "data" / "element_volumes.json").read_text())["volumes"]


def expected_volume_per_atom(composition: Mapping[str, int]) -> float:
    """Estimate in Å3 per atom: the sum of the element volumes over the atoms (see :func:`element_volumes`)."""
    volumes = element_volumes()
    return sum(count * volumes[symbol] for symbol, count in composition.items()) / sum(composition.values())


@dataclass(frozen=True)
class CrystalBatch:
    """Many crystals as tensors: what the sampler draws and the surrogate reads.

    Attributes:
        elements: atomic numbers of the columns of ``counts``, ascending.
        space_group: ``(n,)`` int64, 1 to 230.
        counts: ``(n, len(elements))`` int64, atoms in the conventional cell.
        lattice_parameters: ``(n, 6)`` floating point; a, b, c in Å, alpha, beta, gamma in degrees.
    """

    elements: tuple[int, ...]
    space_group: torch.Tensor
    counts: torch.Tensor
    lattice_parameters: torch.Tensor

    def __len__(self) -> int:
        return int(self.space_group.shape[0])

    def __getitem__(self, index: Any) -> CrystalBatch:
        """The batch of the rows that ``index`` (slice, index tensor or mask) selects."""
        return CrystalBatch(self.elements, self.space_group[index], self.counts[index], self.lattice_parameters[index])

    def __iter__(self) -> Iterator[Crystal]:
        return iter(self.to_crystals())

    @property
    def number_of_atoms(self) -> torch.Tensor:
        """``(n,)`` atoms in the conventional cell."""
        return self.counts.sum(1)

    @property
    def volume(self) -> torch.Tensor:
        """``(n,)`` cell volume in Å3; 0 where the angles admit no real cell."""
        lengths, cosines = self.lattice_parameters[:, :3], self.lattice_parameters[:, 3:].deg2rad().cos()
        metric = 1 - (cosines**2).sum(1) + 2 * cosines.prod(1)
        return lengths.prod(1) * metric.clamp_min(0).sqrt()

    @property
    def volume_per_atom(self) -> torch.Tensor:
        """``(n,)`` in Å3 per atom."""
        return self.volume / self.number_of_atoms

    @property
    def density(self) -> torch.Tensor:
        """``(n,)`` mass density in g/cm3."""
        import torch
        from pymatgen.core import Element

        masses = torch.tensor([float(Element.from_Z(number).atomic_mass) for number in self.elements], dtype=self.volume.dtype)
        return (self.counts.to(masses.dtype) @ masses) * ATOMIC_MASS_PER_CUBIC_ANGSTROM / self.volume

    @classmethod
    def from_crystals(cls, crystals: Sequence[Crystal], elements: Iterable[str] | None = None) -> CrystalBatch:
        """Stack crystals; ``elements`` (symbols) fixes the columns, otherwise those that occur."""
        import torch

        symbols = elements if elements is not None else {symbol for crystal in crystals for symbol in crystal.composition}
        numbers = tuple(sorted(ATOMIC_NUMBER[symbol] for symbol in symbols))
        column = {ELEMENTS[number - 1]: index for index, number in enumerate(numbers)}
        counts = torch.zeros(len(crystals), len(numbers), dtype=torch.int64)
        for row, crystal in enumerate(crystals):
            for symbol, count in crystal.composition.items():
                counts[row, column[symbol]] = count
        return cls(
            elements=numbers,
            space_group=torch.tensor([crystal.space_group for crystal in crystals], dtype=torch.int64),
            counts=counts,
            lattice_parameters=torch.tensor([crystal.lattice_parameters for crystal in crystals], dtype=torch.float64).reshape(-1, 6),
        )

    def to_crystals(self) -> list[Crystal]:
        """One :class:`Crystal` a row."""
        symbols = [ELEMENTS[number - 1] for number in self.elements]
        rows = zip(self.space_group.tolist(), self.counts.tolist(), self.lattice_parameters.tolist(), strict=True)
        return [
            Crystal(
                space_group=space_group,
                composition={symbol: count for symbol, count in zip(symbols, counts, strict=True) if count},
                lattice_parameters=tuple(lattice),
            )
            for space_group, counts, lattice in rows
        ]


def crystals_to_frame(crystals: Sequence[Crystal]) -> pd.DataFrame:
    """A table with the columns ``id, formula, space_group_number, a..gamma, composition`` (JSON counts), ``n_atoms, volume_per_atom``."""
    import pandas as pd

    return pd.DataFrame(
        {
            "id": [crystal.id for crystal in crystals],
            "formula": [crystal.formula for crystal in crystals],
            "space_group_number": [crystal.space_group for crystal in crystals],
            **{name: [crystal.lattice_parameters[i] for crystal in crystals] for i, name in enumerate(LATTICE_PARAMETERS)},
            "composition": [json.dumps(crystal.composition) for crystal in crystals],
            "n_atoms": [crystal.number_of_atoms for crystal in crystals],
            "volume_per_atom": [crystal.volume_per_atom for crystal in crystals],
        }
    )


def crystals_from_frame(frame: pd.DataFrame) -> list[Crystal]:
    """The crystals of a table with the columns ``space_group_number, a..gamma, composition``; other columns are ignored."""
    return [
        Crystal(space_group=int(space_group), composition=json.loads(composition), lattice_parameters=tuple(lattice))
        for space_group, composition, lattice in zip(
            frame["space_group_number"], frame["composition"], frame[list(LATTICE_PARAMETERS)].to_numpy(), strict=True
        )
    ]


class Prediction(Noun):
    """What the surrogate believes of one crystal, in the cell it states.

    ``mean`` and ``standard_deviation`` are by property (units: :data:`UNITS`); ``distance`` says how far the crystal is from the
    training data (0 inside it, growing outside, in units of the typical spacing of the data).
    """

    mean: dict[str, float]
    standard_deviation: dict[str, float]
    distance: float


class Value(Noun):
    """One labelled number: its value, one standard deviation of its error where known, and the level of theory it is stated at."""

    value: float
    level_of_theory: str
    standard_deviation: float | None = None


class Screening(Noun):
    """A first look at a crystal: the formation energy that a short search reached in its cell, beside the surrogate's own prediction."""

    formation_energy_per_atom: Value
    surrogate: Prediction


class Look(Noun):
    """A crystal that was looked at."""

    crystal: Crystal
    screening: Screening


class Candidate(Noun):
    """A crystal picked in a round, with the prediction that it was picked on.

    A crystal that was screened has the energy that a short search reached in its cell, and what the surrogate said without it.
    """

    crystal: Crystal
    prediction: Prediction
    acquisition: float
    arm: Arm
    reason: str
    screening: Screening | None = None

    @property
    def id(self) -> str:
        """The crystal's id."""
        return self.crystal.id


class AtomicStructure(Noun):
    """Atoms in a cell: lattice vectors in Å (rows), element symbols, fractional coordinates."""

    lattice: tuple[tuple[float, float, float], ...]
    species: tuple[str, ...]
    fractional_coordinates: tuple[tuple[float, float, float], ...]

    @classmethod
    def from_pymatgen(cls, structure: Any) -> AtomicStructure:
        """Of an ordered pymatgen ``Structure``; coordinates are kept to 1e-6."""
        return cls(
            lattice=tuple(tuple(round(float(x), 6) for x in row) for row in structure.lattice.matrix),
            species=tuple(site.specie.symbol for site in structure),
            fractional_coordinates=tuple(tuple(round(float(x), 6) for x in row) for row in structure.frac_coords),
        )

    def to_pymatgen(self) -> Any:
        """As a pymatgen ``Structure``."""
        from pymatgen.core import Structure

        return Structure(self.lattice, list(self.species), self.fractional_coordinates)


class Observation(Noun):
    """One training row: properties of a crystal *in the cell it states*.

    ``group`` ties rows that must stay on the same side of any split (the relaxed and the proposed cell of one candidate). A ``look`` is
    the energy that a first look, not a label, reached in a proposed cell, or what an earlier campaign measured there.
    """

    crystal: Crystal
    properties: dict[str, Value]
    group: str
    kind: Literal["relaxed", "proposal", "look"]


class Label(Noun):
    """What the oracles said of one crystal.

    ``properties`` belong to the relaxed structure. ``proposal_properties`` belong to the proposed cell with the atoms at rest in
    it (cell fixed): the two train the surrogate side by side, each as the property of its own cell. ``relaxed`` is the relaxed
    structure as a crystal in the ITA setting, with the space group that spglib finds.
    """

    crystal_id: str
    status: Status
    reason: str
    properties: dict[str, Value] = Field(default_factory=dict)
    proposal_properties: dict[str, Value] = Field(default_factory=dict)
    relaxed: Crystal | None = None
    structure: AtomicStructure | None = None
    checks: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, float] = Field(default_factory=dict)
    provenance: dict[str, Any] = Field(default_factory=dict)

    def observations(self, proposal: Crystal) -> list[Observation]:
        """The rows an ``ok`` label teaches: the relaxed cell's and, where stated, the proposed cell's; none for other statuses."""
        if self.status != "ok":
            return []
        rows = []
        if self.relaxed is not None and self.properties:
            rows.append(Observation(crystal=self.relaxed, properties=self.properties, group=self.crystal_id, kind="relaxed"))
        if self.proposal_properties:
            rows.append(Observation(crystal=proposal, properties=self.proposal_properties, group=self.crystal_id, kind="proposal"))
        return rows


UNITS: dict[str, str] = {
    "formation_energy_per_atom": "eV/atom",
    "energy_per_atom": "eV/atom",
    "e_above_hull": "eV/atom",
    "e_above_campaign_hull": "eV/atom",
    "band_gap": "eV",
    "density": "g/cm³",
    "volume_per_atom": "Å³/atom",
}
"""Units of the properties the project knows; a property that is not here has the unit its oracle states."""
