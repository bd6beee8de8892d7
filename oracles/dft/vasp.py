"""VASP flows of atomate2 with the Materials Project's settings. Inputs are checked in the tests; VASP itself is not run there."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_crystal.crystal import AtomicStructure, Value
from oracles.dft.settings import VaspSettings

if TYPE_CHECKING:
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker, MPMetaGGADoubleRelaxStaticMaker
    from jobflow import Flow
    from pymatgen.core import Structure

STATIC = "static"
BAND_STRUCTURE = "band structure"


def relax_static_maker(settings: VaspSettings) -> MPGGADoubleRelaxStaticMaker | MPMetaGGADoubleRelaxStaticMaker:
    """The Maker of atomate2: two relaxations and a static run, PBE(+U) or r2SCAN, as the Materials Project runs them.

    atomate2's core Makers default to PBEsol; these do not.
    """
    from atomate2.vasp.flows.mp import MPGGADoubleRelaxStaticMaker, MPMetaGGADoubleRelaxStaticMaker

    return MPMetaGGADoubleRelaxStaticMaker() if settings.functional == "r2SCAN" else MPGGADoubleRelaxStaticMaker()


def vasp_flow(structure: Structure, settings: VaspSettings) -> Flow:
    """Relaxation and static, then band structures on a line and on a mesh where they are asked for.

    The job that states energy and structure is named ``static``, the ones that state the gap ``band structure ...``.
    """
    from atomate2.vasp.jobs.core import NonSCFMaker
    from jobflow import Flow

    relaxation = relax_static_maker(settings).make(structure)
    static: Any = relaxation.jobs[-1]
    static.name = STATIC
    if settings.gap == "static":
        return Flow([relaxation], output=relaxation.output, name=f"VASP {settings.functional}")
    bands = []
    for mode in ("uniform", "line"):
        maker: Any = NonSCFMaker(name=f"{BAND_STRUCTURE} {mode}")
        band = maker.make(static.output.structure, prev_dir=static.output.dir_name, mode=mode)
        band.name = f"{BAND_STRUCTURE} {mode}"
        bands.append(band)
    return Flow([relaxation, *bands], output=relaxation.output, name=f"VASP {settings.functional}")


def findings(outputs: dict[str, Any], flow: Flow, settings: VaspSettings) -> dict[str, Any]:
    """``properties``, ``checks`` and ``structure`` of a label, from atomate2's task documents by job name."""
    static = outputs[STATIC]
    bands = [document for name, document in outputs.items() if name.startswith(BAND_STRUCTURE)]
    gap = min((document.output.bandgap for document in bands), default=static.output.bandgap)
    level = level_of_theory(settings)
    forces = static.output.forces or []
    return {
        "properties": {
            "energy_per_atom": Value(value=static.output.energy_per_atom, level_of_theory=level),
            "band_gap": Value(value=gap, level_of_theory=f"{level}, gap of the {settings.gap.replace('_', ' ')}"),
        },
        "checks": {"max_force": max((sum(x * x for x in force) ** 0.5 for force in forces), default=0.0), "folder": str(static.dir_name)},
        "structure": AtomicStructure.from_pymatgen(static.output.structure),
    }


def level_of_theory(settings: VaspSettings) -> str:
    """Functional and input sets; the energies are raw (the Materials Project's corrections are not applied)."""
    sets = "MPScanRelaxSet" if settings.functional == "r2SCAN" else "MPRelaxSet"
    return f"{settings.functional} VASP, {sets} of atomate2 {version('atomate2')}, raw energies"


def write_inputs(structure: Structure, settings: VaspSettings, folder: Path) -> list[Path]:
    """Write the inputs of each VASP run of the flow under ``folder``: INCAR, KPOINTS, POSCAR and POTCAR.spec; no licence needed.

    Returns the folders, one per input set (relaxation and static).
    """
    maker = relax_static_maker(settings)
    steps: dict[str, Any] = {
        "relax_1": maker.relax_maker.relax_maker1,  # type: ignore[attr-defined]
        "relax_2": maker.relax_maker.relax_maker2,  # type: ignore[attr-defined]
        "static": maker.static_maker,  # type: ignore[attr-defined]
    }
    written = []
    for name, step in steps.items():
        step.input_set_generator.get_input_set(structure, potcar_spec=True).write_input(folder / name, make_dir_if_not_present=True)
        written.append(folder / name)
    return written


def problems() -> list[str]:
    """What stands in the way of VASP here; empty when executable and pseudopotentials are in place."""
    from atomate2 import SETTINGS

    found = []
    command = os.path.expandvars(str(SETTINGS.VASP_CMD))
    program = next((word for word in reversed(command.split()) if "vasp" in Path(word).name), command.split()[-1])
    if shutil.which(program) is None:
        found.append(
            f"no VASP: the command is {command!r}, and {program!r} is not an executable here\n"
            "  fix: set VASP_CMD in ~/.atomate2.yaml (or ATOMATE2_VASP_CMD) to a licensed VASP, or promote to gpaw"
        )
    from pymatgen.core import SETTINGS as PYMATGEN

    folder = PYMATGEN.get("PMG_VASP_PSP_DIR")
    if not folder or not Path(str(folder)).is_dir():
        found.append(
            f"no VASP pseudopotentials: PMG_VASP_PSP_DIR is {folder!r}\n"
            "  fix: pmg config -p POTCARS FOLDER; pmg config --add PMG_VASP_PSP_DIR FOLDER (they come with the VASP licence)"
        )
    return found
