"""Every knob of the oracles, validated; light to import, so that a configuration is refused before anything heavy is loaded."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen, and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RelaxationSettings(Settings):
    """When a relaxation has arrived, when it has gone wrong, and how it walks."""

    fmax: float = Field(0.05, gt=0, description="largest force on an atom of a converged crystal, eV/Å")
    max_stress: float = Field(0.1, gt=0, description="largest component of the stress of a converged crystal, GPa")
    max_steps: int = Field(300, ge=1, description="energy evaluations per crystal")
    largest_starting_force: float = Field(500.0, gt=0, description="a start with a larger force is unphysical, eV/Å")
    volume_ratio: tuple[float, float] = Field((0.2, 4.0), description="allowed final over starting volume")
    energy_window: tuple[float, float] = Field((-20.0, 30.0), description="allowed energy of the potential, eV/atom")
    first_step: float = Field(0.1, gt=0, description="length of the first step, Å")
    longest_step: float = Field(0.4, gt=0, description="no step moves an atom further, Å")
    strain_length: float = Field(4.0, gt=0, description="a strain of 1 counts as a step of this length, Å")
    softest: float = Field(0.3, gt=0, description="least curvature assumed along any coordinate, eV/Å2")
    batch_atoms: int = Field(64, ge=1, description="representative atoms evaluated in one batch")
