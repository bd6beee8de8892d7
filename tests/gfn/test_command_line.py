"""The three commands, end to end, and their refusals."""

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from gfn import evaluate, sample, train
from gfn.config import ConfigError, load_config, load_restriction

PAPER = Path(__file__).parents[2] / "campaigns" / "paper"
CONFIG = """
space: {elements: [Li, Fe, O], space_groups: [2, 62, 225], atoms_per_element: [1, 6]}
sampler: {hidden_units: 16, batch_size: 10}
reward: {kind: density}
"""


def run(function, *arguments: str):
    app = typer.Typer()
    app.command()(function)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_sample_evaluate(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "iron.yaml").write_text("required_elements: [Fe]\n")
    assert run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "2").exit_code == 0
    resumed = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "4")
    assert "going on from iteration 2 of 4" in resumed.output
    table = tmp_path / "samples.parquet"
    drawn = run(sample.main, tmp_path / "run", "-n", "50", "--restrict", tmp_path / "iron.yaml", "-o", table)
    assert drawn.exit_code == 0, drawn.output
    assert all("Fe" in json.loads(text) for text in pd.read_parquet(table)["composition"])
    judged = run(evaluate.main, table, "--reference", table)
    assert judged.exit_code == 0, judged.output
    numbers = json.loads(table.with_suffix(".evaluation.json").read_text())
    for name in ("smact_neutral_and_pauling", "wyckoff_by_pyxtal", "lattice_system", "real_cell", "plausible_edges"):
        assert numbers[name] == 1.0
    assert numbers["new_formula"] == 0.0
    assert "left out: the share below the hull" in judged.output


def test_a_wrong_configuration_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG + "colour: red\n")
    refused = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run")
    assert refused.exit_code == 2
    assert "colour" in refused.output
    assert not (tmp_path / "run").exists()


def test_a_folder_begun_with_another_configuration_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "1").exit_code == 0
    (tmp_path / "config.yaml").write_text(CONFIG.replace("batch_size: 10", "batch_size: 20"))
    refused = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "2")
    assert refused.exit_code == 2
    assert "sampler.batch_size: 10 there, 20 here" in refused.output


def test_what_is_no_checkpoint_and_no_table_is_refused(tmp_path):
    assert "no checkpoint" in run(sample.main, tmp_path, "-o", tmp_path / "x.parquet").output
    (tmp_path / "config.yaml").write_text(CONFIG)
    run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "1")
    (tmp_path / "run" / "policy.safetensors").write_bytes(b"broken")
    broken = run(sample.main, tmp_path / "run", "-o", tmp_path / "x.parquet")
    assert broken.exit_code == 2
    assert "absent or broken" in broken.output
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "other.parquet")
    judged = run(evaluate.main, tmp_path / "other.parquet")
    assert judged.exit_code == 2
    assert "cannot be read as a table of crystals" in judged.output


def test_the_files_of_the_paper_load():
    configs = {path.stem: load_config(path) for path in PAPER.glob("*.yaml") if not path.stem.startswith("restriction")}
    assert {config.reward.kind for config in configs.values()} == {"density", "formation_energy", "band_gap"}
    assert all(len(config.space.space_groups) == 113 and len(config.space.elements) == 22 for config in configs.values())
    assert load_restriction(PAPER / "restriction_c.yaml").space_groups == tuple(range(195, 231))
    with pytest.raises(ConfigError, match="no such file"):
        load_config(PAPER / "nothing.yaml")
