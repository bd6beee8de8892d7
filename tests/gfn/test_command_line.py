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


def test_any_table_of_crystals_can_be_judged_by_several_properties(tmp_path):
    functions = {"volume": "batch.volume", "density": "batch.density", "stable": "-batch.volume"}
    (tmp_path / "judges.py").write_text("".join(f"def {name}(batch):\n    return {value}\n" for name, value in functions.items()))
    table = pd.DataFrame(
        {
            "composition": ['{"Na": 4, "Cl": 4}', '{"Mg": 4, "O": 4}'],
            "space_group_number": 225,
            **{edge: [5.6, 4.2] for edge in "abc"},
            **dict.fromkeys(("alpha", "beta", "gamma"), 90.0),
            "predicted": [-2.0, -3.0],
        }
    )
    table.to_parquet(tmp_path / "theirs.parquet")
    judges = [argument for name in ("volume", "density") for argument in ("--property", f"{tmp_path}/judges.py:{name}")]
    judges += ["--above-hull", f"{tmp_path}/judges.py:volume", "--above-hull", f"{tmp_path}/judges.py:stable"]
    judged = run(evaluate.main, tmp_path / "theirs.parquet", *judges, "--column", "predicted")
    assert judged.exit_code == 0, judged.output
    numbers = json.loads((tmp_path / "theirs.evaluation.json").read_text())
    assert numbers["value_quantile_50"] == pytest.approx((5.6**3 + 4.2**3) / 2)
    assert numbers["density_quantile_50"] == pytest.approx((2.21 + 3.61) / 2, abs=0.02)  # g/cm3, rock salt and periclase
    assert (numbers["below_hull"], numbers["below_hull_by_stable"]) == (0.0, 1.0)
    assert numbers["predicted_quantile_50"] == -2.5
    refused = run(evaluate.main, tmp_path / "theirs.parquet", "--column", "energy")
    assert refused.exit_code == 2
    assert "energy" in refused.output


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


KNOWN = {"composition": ['{"Fe": 4, "O": 4}', '{"Cs": 4, "O": 4}'], "space_group_number": 225, **{e: [4.3, 5.0] for e in "abc"}}
KNOWN |= dict.fromkeys(("alpha", "beta", "gamma"), 90.0)


def test_known_crystals_are_counted_and_a_table_that_serves_nothing_is_refused(tmp_path):
    text = CONFIG.replace("batch_size: 10", "batch_size: 10, dataset_size: 3") + "known_crystals: known.parquet\n"
    (tmp_path / "config.yaml").write_text(text)
    missing = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run")
    assert missing.exit_code == 2
    assert "cannot be read as a table of crystals" in missing.output
    pd.DataFrame(KNOWN).tail(1).to_parquet(tmp_path / "known.parquet")
    outside = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run")
    assert outside.exit_code == 2
    assert "none of its 1 crystals is inside the space; left out by constraint: {'elements': 1}" in outside.output
    assert not (tmp_path / "run").exists()
    pd.DataFrame(KNOWN).to_parquet(tmp_path / "known.parquet")
    trained = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "2")
    assert trained.exit_code == 0, trained.output
    assert "1 of 2 inside the space" in trained.output
    (tmp_path / "config.yaml").write_text(CONFIG + "known_crystals: known.parquet\n")
    unused = run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "other")
    assert unused.exit_code == 2
    assert "need each other" in unused.output


def test_finetuning_by_command_needs_the_reward(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "iron.yaml").write_text("elements: [Fe, O]\nfinetune: 2\n")
    assert run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "1").exit_code == 0
    asked = (sample.main, tmp_path / "run", "-n", "10", "--restrict", tmp_path / "iron.yaml", "-o", tmp_path / "iron.parquet")
    refused = run(*asked)
    assert refused.exit_code == 2
    assert "finetune needs the reward" in refused.output
    assert run(*asked, "--config", tmp_path / "config.yaml").exit_code == 0
    assert all(set(json.loads(text)) <= {"Fe", "O"} for text in pd.read_parquet(tmp_path / "iron.parquet")["composition"])


def test_bad_files_are_refused_before_the_work(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    assert run(train.main, tmp_path / "config.yaml", "-o", tmp_path / "run", "--iterations", "1").exit_code == 0
    nowhere = run(sample.main, tmp_path / "run", "-n", "5", "-o", tmp_path / "absent" / "x.parquet")
    assert nowhere.exit_code == 2
    assert "no folder" in nowhere.output
    pd.DataFrame(KNOWN).to_parquet(tmp_path / "known.parquet")
    for option, message in (("--reference", "cannot be read as a table"), ("--property", "cannot import")):
        refused = run(evaluate.main, tmp_path / "known.parquet", option, tmp_path / "absent.py")
        assert refused.exit_code == 2
        assert message in refused.output
    (tmp_path / "run" / "trainer.json").write_text("{")
    broken = run(sample.main, tmp_path / "run", "-o", tmp_path / "x.parquet")
    assert broken.exit_code == 2
    assert "trainer.json: broken" in broken.output
