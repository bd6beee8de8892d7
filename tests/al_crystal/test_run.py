"""The command, as a user meets it: whole campaigns in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from al_crystal.crystal import crystals_from_frame
from al_crystal.experience import SHIPPED
from al_crystal.history import History, read
from oracles.packing import overlap

TINY = Path(__file__).parents[2] / "campaigns" / "tiny.yaml"
SCREENED = {"batch_size": 2, "pool": 32, "random_share": 0.5, "screened": 3}


def _campaign(folder: Path, **changes: object) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(json.dumps({"extends": str(TINY), "output": str(folder / "runs")} | changes))
    return path


def _command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "al_crystal.run", str(path), *options]


def _run(path: Path, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(path, *options), capture_output=True, text=True, timeout=900, env=os.environ | (environment or {}))


def _results(folder: Path) -> list[object]:
    """What a history says, but for times and processes."""
    state = read(folder / "history.jsonl")
    rows: list[object] = []
    for entry in state.rounds:
        rows.append([candidate.model_dump(mode="json") for candidate in entry.candidates])
        labels = {
            key: label.model_dump(mode="json", exclude={"cost": True, "provenance": {"engine"}}) for key, label in entry.labels.items()
        }
        rows.append(dict(sorted(labels.items())))
    return rows


def _finished(folder: Path, **changes: object) -> Path:
    """The folder of a tiny campaign that ran in ``folder`` without a stop; what it printed is two folders above."""
    done = _run(_campaign(folder, **changes))
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A tiny campaign."""
    return _finished(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def screened(tmp_path_factory) -> Path:
    """One round of a tiny campaign whose batch the potential looks at first."""
    return _finished(tmp_path_factory.mktemp("screened"), rounds=1, selection=SCREENED)


@pytest.mark.slow
def test_a_campaign_runs_from_nothing_to_its_results(finished):
    state = read(finished / "history.jsonl")
    assert state.closed_rounds == 2
    labels = [label for _, _, label in state.labelled()]
    assert len(labels) == 6
    assert any(label.status == "ok" for label in labels)
    good = sum(label.status == "ok" for label in state.rounds[0].labels.values())
    assert [entry.diagnostics["retraced"] for entry in state.rounds] == [0, good]
    assert {candidate.arm for _, candidate, _ in state.labelled()} == {"gfn", "random"}
    for label in labels:
        assert label.provenance
        if label.status == "ok":
            assert {"formation_energy_per_atom", "band_gap"} <= set(label.properties)
            assert all(value.level_of_theory for value in label.properties.values())
    for name in ("campaign.yaml", "manifest.json", "labels.csv", "report.html"):
        assert (finished / name).stat().st_size > 0
    assert list((finished / "structures").glob("best-*.cif"))
    output = (finished.parents[1] / "output.txt").read_text()
    assert "predicted before labelling" in output
    assert "report.html" in output


@pytest.mark.slow
def test_every_pick_keeps_every_hard_constraint(finished):
    from al_crystal.config import load
    from gfn.environment import CrystalEnvironment

    environment = CrystalEnvironment(load(finished / "campaign.yaml").space)
    for _, candidate, _ in read(finished / "history.jsonl").labelled():
        assert environment.contains(candidate.crystal) == []


@pytest.mark.slow
def test_running_again_changes_nothing(finished):
    before = (finished / "history.jsonl").read_bytes()
    done = _run(_campaign(finished.parents[1]))
    assert done.returncode == 0, done.stderr
    assert (finished / "history.jsonl").read_bytes() == before


@pytest.mark.slow
def test_killed_while_labelling_it_goes_on_without_loss_and_ends_the_same(finished, tmp_path):
    path = _campaign(tmp_path)
    history = tmp_path / "runs" / "tiny" / "history.jsonl"
    for kills_after in (3, 7):  # lines: start, picks, label, label, ... : once in the first round, once in the second
        process = subprocess.Popen(_command(path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 900
        while not (history.exists() and history.read_bytes().count(b"\n") >= kills_after):
            assert process.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = history.read_bytes()
    done = _run(path)
    assert done.returncode == 0, done.stderr
    assert history.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    labelled = [json.loads(line)["label"]["crystal_id"] for line in history.read_text().splitlines() if '"kind": "label"' in line]
    assert len(labelled) == len(set(labelled)) == 6
    assert _results(history.parent) == _results(finished)


@pytest.mark.slow
def test_a_screened_batch_was_looked_at_and_its_control_was_not(screened):
    assert "screened 3" in (screened.parents[1] / "output.txt").read_text()
    state = read(screened / "history.jsonl")
    diagnostics = state.rounds[0].diagnostics
    assert diagnostics["screened"] == 3
    pool = crystals_from_frame(pd.read_parquet(screened / "round-000" / "pool.parquet"))
    assert len(pool) == diagnostics["pool"] == 32 - diagnostics["pool_without_room"] > 3
    assert all(overlap(crystal) <= 0.01 for crystal in pool)
    looked = {candidate.id for candidate in state.rounds[0].candidates if candidate.screening} | {
        look.crystal.id for look in state.rounds[0].passed_over
    }
    assert len(looked) == 3 - state.rounds[0].diagnostics["screened_without_energy"]
    assert state.rounds[0].metrics["look_errors"]["n"] == len(looked)
    for _, candidate, label in state.labelled():
        assert (candidate.screening is not None) == (candidate.arm == "gfn")
        cell = label.proposal_properties.get("formation_energy_per_atom")
        if candidate.screening is not None:
            look = candidate.screening.formation_energy_per_atom
            assert cell is None or (cell.level_of_theory == look.level_of_theory and cell.value <= look.value + 0.005)
            assert candidate.prediction == candidate.screening.surrogate  # nothing was learned of looks yet


@pytest.mark.slow
def test_a_campaign_begins_with_the_experience_of_another(screened, tmp_path):
    table = tmp_path / "experience.parquet"
    made = [sys.executable, "-m", "al_crystal.experience", str(screened), "--output", str(table)]
    subprocess.run(made, check=True, capture_output=True, timeout=300)
    looked = len(read(screened / "history.jsonl").rounds[0].looks)
    assert looked > 0
    done = _run(_campaign(tmp_path, rounds=1, seed=1, selection=SCREENED, surrogate={"experience": str(table)}))
    assert done.returncode == 0, done.stderr
    assert f"beside {looked} of earlier campaigns" in done.stdout
    assert read(tmp_path / "runs" / "tiny" / "history.jsonl").rounds[0].diagnostics["retraced"] == looked


@pytest.mark.slow
def test_a_campaign_whose_rebuildable_files_are_gone_goes_on(finished, tmp_path):
    """Everything but the history can be re-created: a third round needs the surrogate again."""
    import shutil

    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(finished / "history.jsonl", folder / "history.jsonl")
    done = _run(_campaign(tmp_path, rounds=3))
    assert done.returncode == 0, done.stderr
    assert read(folder / "history.jsonl").closed_rounds == 3
    assert _results(folder)[:4] == _results(finished)


def test_help_and_a_wrong_campaign_are_answered_without_torch(tmp_path):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "al_crystal.run", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert " torch\n" not in done.stderr
    path = _campaign(tmp_path, rouns=2)
    done = subprocess.run([sys.executable, "-X", "importtime", *_command(path)[1:]], capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean 'rounds'?" in done.stderr
    assert " torch\n" not in done.stderr


@pytest.mark.slow
def test_another_seed_runs_beside(tmp_path):
    done = _run(_campaign(tmp_path), "--dry-run", "--seed", "3")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "runs" / "tiny_3") in done.stdout
    assert "--seed" in _run(_campaign(tmp_path), "--seed", "-1").stderr


@pytest.mark.models
def test_a_target_that_no_label_can_have_is_refused(tmp_path, models_folder):
    done = _run(_campaign(tmp_path, oracles={"potential": "TensorNet-MatPES", "models": str(models_folder)}), "--dry-run")
    assert done.returncode == 2
    assert "no label can have it with the potential TensorNet-MatPES" in done.stderr
    assert "fix: name another potential" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"elements": ["Na", "K"], "space_groups": [225], "number_of_elements": [2, 2]}}, "leaves no crystal"),
        ({"oracles": {"potential": "M3GNet", "models": "nowhere"}}, "nowhere"),
        ({"oracles": {"potential": "Unobtainium"}}, "Unobtainium"),
        ({"known_crystals": "nowhere.csv"}, "there is no file nowhere.csv"),
        ({"surrogate": {"experience": "nowhere.parquet"}}, "there is no file nowhere.parquet"),
        ({"surrogate": {"experience": str(SHIPPED)}, "oracles": {"potential": "CHGNet"}}, "holds nothing of the potential CHGNet"),
        ({"space": {"elements": ["Na", "Rn", "Cl"]}}, "knows nothing of Rn"),
        ({"stability": {"hull": __file__, "level_of_theory": "r2SCAN"}}, "the labels will be of"),
    ],
    ids=[
        "impossible space",
        "absent weights",
        "unknown potential",
        "no table",
        "no experience",
        "experience of another potential",
        "unknown element",
        "hull of another level",
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path, changes, message):
    done = _run(_campaign(tmp_path, **changes), environment={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 25
    assert not (tmp_path / "runs").exists()


def test_broken_weights_are_refused(tmp_path, models_folder):
    import shutil

    models = tmp_path / "models"
    shutil.copytree(models_folder / "M3GNet-MP-2021.2.8-PES", models / "M3GNet-MP-2021.2.8-PES")
    state = models / "M3GNet-MP-2021.2.8-PES" / "state.pt"
    state.chmod(0o644)
    state.write_bytes(state.read_bytes()[:1000])
    done = _run(_campaign(tmp_path, oracles={"potential": "M3GNet", "models": str(models)}))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_folder_of_another_campaign_and_a_second_driver_are_refused(tmp_path):
    from al_crystal.history import Start

    folder = tmp_path / "runs" / "tiny"
    with History(folder) as history:
        history.append(Start(campaign="0" * 16, facts={}))
    before = sorted(path.name for path in folder.iterdir())
    done = _run(_campaign(tmp_path))
    assert done.returncode == 2
    assert "holds another campaign" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before

    from al_crystal.config import load

    with History(tmp_path / "runs" / "second") as history:
        path = _campaign(tmp_path, name="second")
        history.append(Start(campaign=load(path).hash, facts={}))
        done = _run(path)
    assert done.returncode == 2
    assert "another driver" in done.stderr


def test_a_strange_folder_is_refused(tmp_path):
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("do not touch")
    done = _run(_campaign(tmp_path))
    assert done.returncode == 2
    assert "is not a campaign's folder" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
