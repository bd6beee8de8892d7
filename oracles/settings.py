"""Every knob of the oracles, validated; light to import, so that a configuration is refused before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from oracles.band_gap import BandGap
from oracles.density import Density
from oracles.formation_energy import FormationEnergy

PropertyOracle = Annotated[FormationEnergy | BandGap | Density, Field(discriminator="kind")]
"""Every property oracle there is; a new one adds its class here."""


class Settings(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RelaxationSettings(Settings):
    """When a relaxation has arrived, when it has gone wrong, and how it walks."""

    fmax: float = Field(default=0.05, gt=0, description="largest force on an atom of a converged crystal, eV/Å")
    max_stress: float = Field(default=0.1, gt=0, description="largest component of the stress of a converged crystal, GPa")
    max_steps: int = Field(default=300, ge=1, description="energy evaluations per crystal")
    largest_starting_force: float = Field(default=1000.0, gt=0, description="a start with a larger force is unphysical, eV/Å")
    volume_ratio: tuple[float, float] = Field(default=(0.2, 4.0), description="allowed final over starting volume")
    energy_window: tuple[float, float] = Field(default=(-20.0, 100.0), description="allowed energy of the potential, eV/atom")
    first_step: float = Field(default=0.1, gt=0, description="length of the first step, Å")
    longest_step: float = Field(default=0.4, gt=0, description="no step moves an atom further, Å")
    strain_length: float = Field(default=4.0, gt=0, description="a strain of 1 counts as a step of this length, Å")
    kink: float = Field(default=0.0, ge=0, description="steps up to this long may end in a kink of the potential, Å (0: never; try 0.002)")
    patience: int = Field(default=40, ge=1, description="a walk ends after so many evaluations without a lower energy")
    softest: float = Field(default=0.3, gt=0, description="least curvature assumed along any coordinate, eV/Å2")
    batch_atoms: int = Field(default=64, ge=1, description="representative atoms evaluated in one batch")


class FreeingSettings(Settings):
    """How a relaxed crystal is tested for being held up by its symmetry alone, and followed where it is."""

    gentle_steps: int = Field(default=60, ge=0, description="a second walk with symmetry begins with so many evaluations of FIRE; 0: none")
    shake: float = Field(default=0.03, gt=0, description="displacement along each axis before a walk without symmetry, Å")
    from_start: bool = Field(default=True, description="also walk from the start without symmetry")
    tolerance: float = Field(default=0.001, ge=0, description="energies this close are one valley, eV/atom")


class Heat(Settings):
    """One heat of the race between arrangements."""

    runners: int = Field(ge=1, description="arrangements that take part: the lowest so far")
    steps: int = Field(ge=1, description="energy evaluations of each in this heat, in the proposed cell")


class PositionSettings(Settings):
    """How hard to look for the arrangement of the atoms."""

    enumerated_ways: int = Field(
        default=30_000, ge=1, description="most ways to occupy the Wyckoff positions that are listed; of more a sample"
    )
    ways: int = Field(default=250, ge=1, description="of these, ways that are tried (drawn by likelihood)")
    candidates: int = Field(default=600, ge=1, description="arrangements ranked by a static energy")
    draws_per_candidate: int = Field(default=8, ge=1, description="random draws of which the least crowded becomes a candidate")
    closest_approach: float = Field(default=0.45, gt=0, description="least distance over the shortest one known of the element pair")
    heats: tuple[Heat, ...] = Field(
        default=(Heat(runners=64, steps=5), Heat(runners=24, steps=8), Heat(runners=10, steps=12)),
        min_length=1,
        description="heats of the race",
    )
    relaxed: int = Field(default=5, ge=1, description="arrangements that are relaxed to the end")
    time_limit_s: float = Field(
        default=60.0, gt=0, description="drawing stops after this much CPU time, s; what was drawn till then is used"
    )


SPARE = PositionSettings(ways=12, candidates=24, heats=(Heat(runners=8, steps=5), Heat(runners=4, steps=8)), relaxed=2)
"""A search for potentials that take ten times as long as M3GNet, whose evaluation on asymmetric units is our own."""

FIRST_LOOK = PositionSettings(
    candidates=48,
    draws_per_candidate=4,
    heats=(Heat(runners=12, steps=4), Heat(runners=5, steps=8), Heat(runners=2, steps=15), Heat(runners=1, steps=60)),
    time_limit_s=10.0,
)
SPARE_FIRST_LOOK = PositionSettings(
    ways=12, candidates=8, draws_per_candidate=16, heats=(Heat(runners=3, steps=4), Heat(runners=1, steps=8))
)
"""The race of a screening, which asks only what a cell costs about; the second for potentials that take ten times as long as M3GNet."""


class OracleSettings(Settings):
    """The YAML section ``oracles``: all that decides a label, besides the crystal and the campaign's seed."""

    potential: str = Field(
        default="auto",
        description="auto (M3GNet, else CHGNet), M3GNet, CHGNet, TensorNet-MatPES, SevenNet-0, SevenNet-l3i5, module:callable (ASE)",
    )
    models: Path | None = Field(default=None, description="folder with matgl weights; default $AL_CRYSTAL_MODELS, then matgl's hub")
    second_potential: str | None = Field(default=None, description="potential whose formation energy is recorded beside")
    symmetry: Literal["kept", "freed"] = Field(
        default="kept", description="freed: the best relaxed crystal is stirred and relaxed again without symmetry"
    )
    freeing: FreeingSettings = Field(default=FreeingSettings(), description="how symmetry is freed")
    symprec: float = Field(default=0.01, gt=0, description="tolerance for the space group of the relaxed crystal, Å")
    formation_energy_window: tuple[float, float] = Field(
        default=(-6.0, 5.0), description="a relaxed crystal outside is a hole of the potential and rejected, eV/atom"
    )
    positions: PositionSettings | None = Field(
        default=None, description="the search for the arrangement of the atoms; default: thorough with M3GNet, spare with slower potentials"
    )
    screening: PositionSettings | None = Field(
        default=None,
        description="the search of a crystal that is screened; default: a quarter of a label's with M3GNet, less with slower ones",
    )
    relaxation: RelaxationSettings = Field(default=RelaxationSettings(), description="the relaxation of cell and positions")
    properties: tuple[PropertyOracle, ...] = Field(
        default=(FormationEnergy(), BandGap(), Density()), description="properties of the relaxed crystal, each an oracle with its knobs"
    )

    def search(self, potential: str) -> PositionSettings:
        """The search for the arrangement of the atoms with the potential of this name."""
        return self.positions or (PositionSettings() if potential == "M3GNet" else SPARE)

    def first_look(self, potential: str) -> PositionSettings:
        """The search of a screening with the potential of this name."""
        return self.screening or (FIRST_LOOK if potential == "M3GNet" else SPARE_FIRST_LOOK)
