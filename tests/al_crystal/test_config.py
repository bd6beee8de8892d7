from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from al_crystal.config import ConfigError, dump, load

CAMPAIGNS = Path(__file__).parents[2] / "campaigns"
MINIMAL = "name: small\nobjective:\n  targets:\n    band_gap: {near: 1.3}\n"


def _write(folder: Path, text: str, name: str = "campaign.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CAMPAIGNS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_campaign_loads_and_is_named_after_its_file(path):
    assert load(path).name == path.stem


def test_a_resolved_campaign_loads_as_itself(tmp_path):
    campaign = load(CAMPAIGNS / "solar_bg.yaml")
    again = load(_write(tmp_path, dump(campaign)))
    assert again == campaign
    assert again.hash == campaign.hash


def test_the_hash_names_the_experiment_and_not_where_or_how_long_it_runs():
    campaign = load(CAMPAIGNS / "solar_bg.yaml")
    assert campaign.model_copy(update={"rounds": 99, "output": Path("elsewhere")}).hash == campaign.hash
    assert campaign.model_copy(update={"seed": 1}).hash != campaign.hash


def test_another_seed_is_a_campaign_of_its_own(tmp_path):
    first = _write(tmp_path, MINIMAL + "seed: 7\n", "first.yaml")
    other = load(first, seed=3)
    assert (other.seed, other.name, other.folder) == (3, f"{load(first).name}_3", load(first).folder.with_name(f"{load(first).name}_3"))
    assert load(_write(tmp_path, f"extends: first.yaml\nname: {other.name}\nseed: 3\n")).hash == other.hash != load(first).hash


def test_extends_states_only_what_differs(tmp_path):
    _write(tmp_path, MINIMAL + "seed: 7\nselection: {batch_size: 5, pool: 50}\n", "base.yaml")
    campaign = load(_write(tmp_path, "extends: base.yaml\nname: other\nselection: {pool: 60}\n"))
    assert (campaign.name, campaign.seed, campaign.selection.batch_size, campaign.selection.pool) == ("other", 7, 5, 60)


def test_targets_are_stated_anew(tmp_path):
    _write(tmp_path, MINIMAL, "base.yaml")
    text = "extends: base.yaml\nobjective:\n  sharpness: 2\n  targets:\n    density: {above: 3}\n"
    campaign = load(_write(tmp_path, text))
    assert campaign.objective.properties == ("density",)


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (MINIMAL + "rouns: 3\n", 5, ["unknown key `rouns`", "did you mean 'rounds'?", "allowed:"]),
        (MINIMAL + "selection:\n  batch_sze: 3\n", 6, ["unknown key `selection.batch_sze`", "batch_size"]),
        (MINIMAL + "selection:\n  screened: 7\n", 5, ["`selection`", "screened is 7; allowed: 0, or batch_size (12) to pool"]),
        (MINIMAL + "rounds: many\n", 5, ["`rounds`", "given: 'many'", "valid integer"]),
        (MINIMAL + "rounds: 3\nrounds: 4\n", 6, ["rounds", "each key once"]),
        (MINIMAL + "rounds: [3\n", 6, ["not YAML"]),
        ("name: small\n", 1, ["`objective` is missing"]),
        (MINIMAL.replace("band_gap", "bandgap"), 2, ["no surrogate predicts 'bandgap'", "did you mean 'band_gap'?"]),
        (MINIMAL.replace("near", "neer"), 4, ["band_gap", "near, width"]),
        (MINIMAL + "space:\n  elements: [Na, Xx]\n", 6, ["Xx"]),
        (MINIMAL + "space:\n  space_groups: [1, 231]\n", 6, ["231"]),
        ("- 1\n", 1, ["maps keys to values"]),
    ],
)
def test_mistakes_are_answered_with_file_line_and_help(tmp_path, text, line, parts):
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    message = str(error.value)
    assert f"{path}:{line}:" in message
    assert "fix:" in message
    for part in parts:
        assert part in message
    assert len(message.splitlines()) < 25


def test_a_mistake_in_the_file_that_is_extended_is_placed_there(tmp_path):
    base = _write(tmp_path, MINIMAL + "rouns: 3\n", "base.yaml")
    with pytest.raises(ConfigError, match=f"{base}:5"):
        load(_write(tmp_path, "extends: base.yaml\n"))


def test_circles_and_missing_files(tmp_path):
    with pytest.raises(ConfigError, match="extends itself"):
        load(_write(tmp_path, "extends: campaign.yaml\n"))
    with pytest.raises(ConfigError, match="no such campaign file"):
        load(tmp_path / "nothing.yaml")


def test_loading_a_campaign_imports_nothing_heavy():
    code = f"""
import sys
from al_crystal.config import load
load({str(CAMPAIGNS / "solar_bg.yaml")!r})
heavy = {{"torch", "matgl", "pymatgen", "pandas", "botorch", "pyxtal", "jobflow", "atomate2", "chgnet"}} & set(sys.modules)
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
