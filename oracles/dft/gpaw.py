"""GPAW statics as an atomate2 job: energy, forces, stress and gap of a structure as it is.

The Maker subclasses atomate2's ASE maker, so the same job runs in line, in a worker process, on Slurm or through jobflow-remote.
GPAW (GPLv3+) is imported when a calculation starts, never before: the project does not depend on it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseTaskDoc
from jobflow import job
from pydantic import BaseModel, ConfigDict, Field

from oracles.dft.settings import GpawSettings

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure

MAGNETIC = frozenset("V Cr Mn Fe Co Ni Mo Tc Ru W Re Os Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm U Np Pu".split())
"""Elements whose open shell makes ``spin: auto`` start from a magnetic state."""
STARTING_MOMENT = {"Co": 5.0, "Cr": 5.0, "Fe": 5.0, "Mn": 5.0, "Mo": 5.0, "Ni": 5.0, "V": 5.0, "W": 5.0}
"""Bohr magnetons, the starting moments of the Materials Project's input sets; 0.6 for what is not listed here."""


class StaticResult(BaseModel):
    """What one static calculation says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float = Field(description="total energy, eV per cell")
    energy_per_atom: float = Field(description="eV/atom; zero is GPAW's: isolated, spherical, spin-paired reference atoms")
    forces: list[list[float]] = Field(description="(atoms, 3) eV/Å")
    stress: list[list[float]] | None = Field(description="(3, 3) eV/Å3, positive under tension (ASE's sign); None for a molecule in a box")
    band_gap: float = Field(description="fundamental gap on the mesh of k-points, eV; 0 for a metal")
    direct_gap: float = Field(description="smallest direct gap on the mesh, eV")
    magnetic_moment: float = Field(description="total moment of the cell, Bohr magnetons; 0 without spin polarisation")
    kpoints: int = Field(description="irreducible k-points")


@dataclass
class GpawStaticMaker(AseRelaxMaker):
    """One static GPAW calculation; the fields are those of :class:`oracles.dft.settings.GpawSettings`.

    A ``kpoint_density`` of 0 is Gamma alone, for a molecule in a box.
    """

    name: str = "GPAW static"
    steps: int = 0
    relax_cell: bool = False
    functional: str = "PBE"
    cutoff: float = 700.0
    kpoint_density: float = 3.5
    smearing: float = 0.05
    energy_convergence: float = 1e-5
    max_iterations: int = 200
    spin: str = "auto"

    @classmethod
    def from_settings(cls, settings: GpawSettings) -> GpawStaticMaker:
        """With the knobs of the settings."""
        return cls(**settings.model_dump(exclude={"kind", "max_atoms", "references"}))

    def _get_calculator(self) -> Calculator:
        from gpaw import GPAW, PW, FermiDirac

        return GPAW(
            mode=PW(self.cutoff),
            xc=self.functional,
            kpts={"density": self.kpoint_density, "even": True, "gamma": True} if self.kpoint_density else (1, 1, 1),
            occupations=FermiDirac(self.smearing),
            convergence={"energy": self.energy_convergence},
            maxiter=self.max_iterations,
            txt="gpaw.txt",
        )

    @job
    def make(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> StaticResult:  # type: ignore[override]
        """Calculate a structure as it is; atomate2 runs ASE, the gap is read off the calculator afterwards.

        Raises:
            gpaw.KohnShamConvergenceError: no self-consistency within ``max_iterations``.
        """
        from ase.dft.bandgap import bandgap

        structure = _with_moments(mol_or_struct, self.spin)
        document: Any = AseTaskDoc.to_mol_or_struct_metadata_doc("gpaw", self.run_ase(structure), self.steps, relax_cell=False)
        calculator: Any = self.calculator
        polarised = calculator.get_number_of_spins() == 2
        return StaticResult(
            energy=document.output.energy,
            energy_per_atom=document.output.energy_per_atom,
            forces=_rows(calculator.results["forces"]),
            stress=_rows(_full(calculator.results["stress"])) if "stress" in calculator.results else None,
            band_gap=float(bandgap(calculator)[0]),
            direct_gap=float(bandgap(calculator, direct=True)[0]),
            magnetic_moment=float(calculator.get_magnetic_moment()) if polarised else 0.0,
            kpoints=len(calculator.get_ibz_k_points()),
        )


def level_of_theory(settings: GpawSettings, geometry: str) -> str:
    """Everything that decides an energy: code, functional, convergence settings, and whose geometry it is."""
    code = f"GPAW-{version('gpaw')} (setups {version('gpaw-data')})"
    mesh = f"{settings.cutoff:g} eV, {settings.kpoint_density:g} k-points/Å⁻¹, {settings.smearing:g} eV Fermi-Dirac, spin {settings.spin}"
    return f"{settings.functional} {code}, {mesh}, at the geometry of {geometry}"


def problems(settings: GpawSettings, elements: frozenset[str]) -> list[str]:
    """What stands in the way of GPAW here; empty when it can calculate crystals of these elements."""
    if importlib.util.find_spec("gpaw") is None:
        return [
            "GPAW is not installed in this environment\n  fix: rigs/gpaw.sh .venv (pip install gpaw gpaw-data), or take the promotion out"
        ]
    from gpaw import setup_paths

    folders = [Path(path) for path in setup_paths]  # those of gpaw-data included
    missing = [element for element in sorted(elements) if not any(_has_setup(folder, element, settings.functional) for folder in folders)]
    if missing:
        where = ", ".join(map(str, folders)) or "nowhere"
        return [
            f"GPAW has no {settings.functional} PAW setups for {', '.join(missing)} (searched {where})\n"
            "  fix: pip install gpaw-data, or leave these elements out of `space.elements`"
        ]
    return []


def _has_setup(folder: Path, element: str, functional: str) -> bool:
    names = {"RPBE": "PBE"}  # GPAW takes the setups of PBE for RPBE
    return any(folder.glob(f"{element}.{names.get(functional, functional)}*"))


def _with_moments(structure: Structure, spin: str) -> Structure:
    symbols = [site.specie.symbol for site in structure]
    polarised = spin == "on" or (spin == "auto" and not MAGNETIC.isdisjoint(symbols))
    structure = structure.copy()
    if polarised:
        structure.add_site_property("magmom", [STARTING_MOMENT.get(symbol, 0.6) for symbol in symbols])
    return structure


def _rows(values: Any) -> list[list[float]]:
    return [[float(x) for x in row] for row in values]


def _full(stress: Any) -> list[list[float]]:
    """The 3 x 3 stress of six Voigt components (xx, yy, zz, yz, xz, xy)."""
    xx, yy, zz, yz, xz, xy = stress
    return [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
