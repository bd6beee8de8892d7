"""The knobs of the DFT oracles; light to import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GpawSettings(_Settings):
    """GPAW, plane waves: one static calculation of the structure that the potential relaxed.

    The defaults are those of ``docs/dft.md``: total energies of Si, NaCl and MgO within 10 meV/atom of a finer setting.
    """

    kind: Literal["gpaw"] = Field(default="gpaw", description="GPAW statics (extra `dft`, licence GPL)")
    functional: Literal["PBE", "RPBE", "LDA"] = Field(default="PBE", description="exchange-correlation functional")
    cutoff: float = Field(default=700.0, ge=200, le=2000, description="plane-wave cutoff, eV; below 600 energies are not converged")
    kpoint_density: float = Field(default=3.5, gt=0, description="k-points per 1/Å along each reciprocal vector; even meshes with Gamma")
    smearing: float = Field(default=0.05, gt=0, description="width of the Fermi-Dirac occupation, eV")
    energy_convergence: float = Field(
        default=1e-5, gt=0, description="largest change of the energy in the last steps, eV per valence electron"
    )
    max_iterations: int = Field(
        default=200, ge=1, description="steps towards self-consistency before the crystal is rejected as not converged"
    )
    spin: Literal["auto", "on", "off"] = Field(
        default="auto", description="spin polarisation; auto: where an element has an open d or f shell"
    )
    max_atoms: int = Field(default=32, ge=1, description="most atoms in the primitive cell; a larger crystal is rejected")
    references: Literal["compute", "withhold"] = Field(
        default="withhold", description="formation energies: compute the elements once at the same settings, or withhold formation energies"
    )


class VaspSettings(_Settings):
    """VASP with the Materials Project's settings, relaxation and static, through atomate2's flows."""

    kind: Literal["vasp"] = Field(default="vasp", description="VASP flows of atomate2 (needs a licence, VASP_CMD and pseudopotentials)")
    functional: Literal["PBE", "r2SCAN"] = Field(
        default="PBE", description="PBE: Materials Project GGA(+U) double relaxation; r2SCAN: its meta-GGA one"
    )
    gap: Literal["static", "band_structure"] = Field(
        default="static", description="gap from the static run's mesh, or from band-structure runs after it"
    )
    max_atoms: int = Field(default=64, ge=1, description="most atoms in the primitive cell; a larger crystal is rejected")
    references: Literal["withhold"] = Field(
        default="withhold",
        description="formation energies are withheld: correct the raw energies with the Materials Project's scheme afterwards",
    )


DftSettings = Annotated[GpawSettings | VaspSettings, Field(discriminator="kind")]
