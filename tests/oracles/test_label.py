from __future__ import annotations

import typer
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from al_crystal.crystal import Crystal, Label, crystals_to_frame
from oracles.label import main
from tests.oracles.conftest import EMT

app = typer.Typer()
app.command()(main)
runner = CliRunner()


def run(*arguments: str):
    return runner.invoke(app, [*arguments, "--potential", EMT])


def test_labels_a_cif_where_its_atoms_are(tmp_path):
    file = tmp_path / "copper.cif"
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]]).to(filename=str(file))
    result = run(str(file), "--output", str(tmp_path / "labels.jsonl"))
    assert result.exit_code == 0, result.output
    assert "Cu in group 225: ok" in result.output
    label = Label.model_validate_json((tmp_path / "labels.jsonl").read_text())
    assert label.relaxed.space_group == 225


def test_symmetry_freed_and_a_second_opinion(tmp_path):
    file, output = tmp_path / "copper.cif", tmp_path / "labels.jsonl"
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]]).to(filename=str(file))
    result = run(str(file), "--symmetry", "freed", "--second-potential", EMT, "--output", str(output))
    assert result.exit_code == 0, result.output
    checks = Label.model_validate_json(output.read_text()).checks
    assert checks["freed"]["left"] is False
    assert checks["second_potential"]["level_of_theory"] == EMT
    assert checks["second_potential"]["max_force"] <= 0.05
    for option, value in (("--symmetry", "broken"), ("--second-potential", "no_such")):
        refused = run(str(file), option, value)
        assert refused.exit_code == 2
        assert "allowed: " in refused.output


def test_labels_a_table(tmp_path):
    crystals = [Crystal(space_group=225, composition={"Ag": 4}, lattice_parameters=(4.2, 4.2, 4.2, 90, 90, 90))]
    crystals_to_frame(crystals).to_parquet(tmp_path / "crystals.parquet")
    result = run(str(tmp_path / "crystals.parquet"))
    assert result.exit_code == 0, result.output
    assert "Ag in group 225: ok" in result.output


def test_bad_input_is_one_message_and_exit_code_2(tmp_path):
    (tmp_path / "empty.cif").write_text("nothing")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    for file, message in (("none.cif", "no such file"), ("empty.cif", "cannot read it"), ("columns.csv", "not a table of crystals")):
        result = run(str(tmp_path / file))
        assert result.exit_code == 2
        assert message in result.output
    assert runner.invoke(app, [str(tmp_path / "columns.csv"), "--potential", "no_such"]).exit_code == 2
