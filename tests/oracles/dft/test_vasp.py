"""VASP inputs against the Materials Project's input sets; VASP itself is not run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oracles.dft.settings import VaspSettings
from oracles.dft.vasp import findings, problems, vasp_flow, write_inputs

CRYSTALS = {
    "Si": ("Fd-3m", 5.43, ["Si"], [[0, 0, 0]]),
    "FeO": ("Fm-3m", 4.33, ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "NaCl": ("Fm-3m", 5.69, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
}
COSMETIC = {"LAECHG", "LCHARG", "LELF", "LWAVE", "LVTOT", "LVHAR", "LORBIT", "ALGO", "NELM", "LDAUPRINT", "MAGMOM"}
"""INCAR tags without influence on a converged energy of these crystals (MAGMOM is compared by its values)."""


def structure(name: str) -> Any:
    from pymatgen.core import Lattice, Structure

    group, constant, species, coordinates = CRYSTALS[name]
    return Structure.from_spacegroup(group, Lattice.cubic(constant), species, coordinates).get_primitive_structure()


@pytest.mark.parametrize("name", CRYSTALS)
def test_inputs_are_the_materials_projects(name: str, tmp_path: Path) -> None:
    from pymatgen.io.vasp import Incar, Kpoints, Poscar
    from pymatgen.io.vasp.sets import MPRelaxSet, MPStaticSet

    crystal = structure(name)
    folders = {folder.name: folder for folder in write_inputs(crystal, VaspSettings(), tmp_path)}
    for folder, reference in (("relax_2", MPRelaxSet(crystal)), ("static", MPStaticSet(crystal))):
        assert sorted(path.name for path in folders[folder].iterdir()) == ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"]
        ours, theirs = Incar.from_file(folders[folder] / "INCAR"), reference.incar
        different = {key for key in {*ours, *theirs} - COSMETIC if ours.get(key) != theirs.get(key)}
        assert not different, {key: (ours.get(key), theirs.get(key)) for key in different}
        assert ours.get("MAGMOM") == theirs.get("MAGMOM")
        assert (folders[folder] / "POTCAR.spec").read_text().split() == reference.potcar_symbols
        assert Poscar.from_file(folders[folder] / "POSCAR").structure.matches(crystal)
        mesh = Kpoints.from_file(folders[folder] / "KPOINTS")
        assert mesh.kpts == reference.kpoints.kpts
        assert mesh.style == reference.kpoints.style


def test_r2scan_and_band_structures_are_other_flows() -> None:
    crystal = structure("Si")
    assert [job.name for job, _ in vasp_flow(crystal, VaspSettings()).iterflow()] == ["MP GGA relax 1", "MP GGA relax 2", "static"]
    bands = vasp_flow(crystal, VaspSettings(functional="r2SCAN", gap="band_structure"))
    names = [job.name for job, _ in bands.iterflow()]
    assert names == ["MP pre-relax 1", "MP meta-GGA relax 2", "static", "band structure uniform", "band structure line"]


def test_r2scan_inputs(tmp_path: Path) -> None:
    from pymatgen.io.vasp import Incar

    write_inputs(structure("Si"), VaspSettings(functional="r2SCAN"), tmp_path)
    assert Incar.from_file(tmp_path / "static" / "INCAR")["METAGGA"].lower() == "r2scan"
    assert "R2SCAN" in str(Incar.from_file(tmp_path / "relax_2" / "INCAR")["METAGGA"]).upper()


def test_label_of_task_documents() -> None:
    crystal = structure("Si")
    output = SimpleNamespace(energy_per_atom=-5.42, bandgap=0.61, forces=[[0.0, 0.003, 0.004]], structure=crystal)
    line = SimpleNamespace(output=SimpleNamespace(bandgap=0.57))
    documents = {"static": SimpleNamespace(output=output, dir_name="host:/path"), "band structure line": line}
    found = findings(documents, vasp_flow(crystal, VaspSettings()), VaspSettings())
    assert found["properties"]["band_gap"].value == 0.57
    assert found["properties"]["energy_per_atom"].value == -5.42
    assert found["checks"]["max_force"] == pytest.approx(0.005)


def test_a_machine_without_vasp_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = "\n".join(problems())
    assert "no VASP" in said
    assert "no VASP pseudopotentials" in said
