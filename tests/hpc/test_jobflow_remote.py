"""The jobflow-remote engine on a real project: its runner, its database, a worker that runs shell jobs."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracles.engine_jobflow_remote import JobflowRemoteEngine
from oracles.engine_queue import EngineUnavailable
from oracles.engine_settings import JobflowRemoteSettings
from tests.hpc.conftest import ROOT
from tests.hpc.labellers import Misbehaving, crystals

PACKAGES = ("jobflow_remote", "secantus")
pytestmark = [
    pytest.mark.hpc,
    pytest.mark.xdist_group("jobflow-remote"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in PACKAGES), reason="needs jobflow-remote and its rig: make test-hpc"
    ),
]
PROJECT = "al-crystal-rig"
RIG = str(ROOT / "rigs" / "jobflow_remote.sh")
VENV = str(Path(sys.prefix))

MakeEngine = Callable[..., JobflowRemoteEngine]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server, a project and a runner of this module's own."""
    folder = tmp_path_factory.mktemp("rig") / "remote"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_CRYSTAL_REMOTE_RIG", str(folder))
        patch.setenv("AL_CRYSTAL_REMOTE_PORT", "27127")
        patch.setenv("JFREMOTE_PROJECTS_FOLDER", str(folder / "projects"))
        subprocess.run([RIG, "up", VENV], check=True, stdout=subprocess.DEVNULL)
        yield folder
        subprocess.run([RIG, "down"], check=True)


@pytest.fixture
def engine(rig: Path, tmp_path: Path) -> MakeEngine:
    """Makes engines over a folder of this test."""

    def make(**settings: object) -> JobflowRemoteEngine:
        return JobflowRemoteEngine(JobflowRemoteSettings.model_validate({"project": PROJECT, "poll_s": 1.0} | settings), tmp_path / "tasks")

    return make


def test_job_that_raises_or_dies(engine: MakeEngine, tmp_path: Path) -> None:
    good, raises, dies = crystals(3)
    labeller = Misbehaving(behaviour={raises.id: "raise", dies.id: "die"}, journal=tmp_path / "journal")
    tasks = [(crystal, 0) for crystal in (good, raises, dies)]
    labels = {label.crystal_id: label for label in engine().run(labeller, tasks)}
    assert labels[good.id].status == "ok"
    assert labels[raises.id].reason == "ValueError: an oracle that raises"
    assert labels[dies.id].status == "failed"
    assert "likely killed" in labels[dies.id].reason
    assert len(list(engine().run(labeller, tasks))) == 3  # nothing runs again
    assert Counter((tmp_path / "journal").read_text().splitlines()) == {f"{crystal.id} 0": 1 for crystal in (good, raises, dies)}


def test_job_that_takes_too_long_is_stopped(engine: MakeEngine) -> None:
    (crystal,) = crystals(1)
    (label,) = engine(time_limit_s=10).run(Misbehaving(behaviour={crystal.id: "sleep"}), [(crystal, 0)])
    assert label.status == "failed"
    assert label.reason == "the time limit of 10 s was hit (time_limit_s)"


def test_driver_killed_and_database_restarted(engine: MakeEngine, rig: Path, tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from oracles.engine_jobflow_remote import JobflowRemoteEngine
        from oracles.engine_settings import JobflowRemoteSettings
        from tests.hpc.labellers import Misbehaving, crystals
        engine = JobflowRemoteEngine(JobflowRemoteSettings(project={PROJECT!r}, poll_s=1.0), Path({str(tmp_path / "tasks")!r}))
        labeller = Misbehaving(seconds=2.0, journal=Path({str(tmp_path / "journal")!r}))
        for label in engine.run(labeller, [(crystal, 0) for crystal in crystals(4)]):
            print(label.status, flush=True)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "ok"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    subprocess.run([RIG, "stop-database"], check=True)
    subprocess.run([RIG, "start-database", VENV], check=True)
    said, _ = second.communicate(timeout=400)
    assert said.split() == ["ok"] * 4
    assert Counter((tmp_path / "journal").read_text().splitlines()) == {f"{crystal.id} 0": 1 for crystal in crystals(4)}


def test_what_is_missing_is_said_beforehand(engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no project 'nowhere'" in engine(project="nowhere").problems()[0]
    assert "allowed: here" in engine(worker="nobody").problems()[0]
    with pytest.raises(EngineUnavailable, match="no project 'nowhere'"):
        list(engine(project="nowhere").run(Misbehaving(), [(crystals(1)[0], 0)]))
