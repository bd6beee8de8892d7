"""The Slurm engine on a real Slurm: every way for a job to end becomes the right label, none is lost and none runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from oracles.engine_queue import EngineUnavailable
from oracles.engine_slurm import SlurmEngine
from oracles.tasks import key_of
from tests.hpc.conftest import ROOT
from tests.hpc.labellers import Misbehaving, crystals

pytestmark = [pytest.mark.hpc, pytest.mark.xdist_group("slurm")]

MakeEngine = Callable[..., SlurmEngine]


def jobs_of(folder: Path) -> Counter[str]:
    """How many jobs Slurm has ever seen of each task of a folder."""
    names = subprocess.run(
        ["squeue", "--me", "-h", "--states=all", "--format=%j"], capture_output=True, text=True, check=True
    ).stdout.split()
    keys = {f"al-{key_of(str(path))}" for path in (folder / "tasks").iterdir() if path.is_dir()}
    return Counter(name for name in names if name in keys)


def test_job_that_raises_dies_or_hits_the_walltime(engine: MakeEngine, tmp_path: Path) -> None:
    raises, dies, sleeps, *good = crystals(6)
    labeller = Misbehaving(behaviour={raises.id: "raise", dies.id: "die", sleeps.id: "sleep"}, journal=tmp_path / "journal")
    tasks = [(crystal, 0) for crystal in (raises, dies, sleeps, *good)]
    labels = {label.crystal_id: label for label in engine(time_limit_s=60).run(labeller, tasks)}
    assert len(labels) == 6
    assert {labels[crystal.id].status for crystal in good} == {"ok"}
    assert labels[raises.id].reason == "ValueError: an oracle that raises"
    assert labels[dies.id].status == "failed"
    assert "ended without a label: FAILED" in labels[dies.id].reason
    assert labels[sleeps.id].reason == "the walltime of 60 s was hit (time_limit_s)"
    assert set(jobs_of(tmp_path).values()) == {1}
    again = list(engine(time_limit_s=60).run(labeller, tasks))  # all of it is on record: nothing is submitted
    assert len(again) == 6
    assert len((tmp_path / "journal").read_text().splitlines()) == 6
    retried = list(engine(time_limit_s=60).run(Misbehaving(), [(raises, 1)]))  # the next attempt is another task
    assert [label.status for label in retried] == ["ok"]


def test_job_that_never_starts_is_cancelled(engine: MakeEngine, tmp_path: Path) -> None:
    (label,) = engine(partition="closed", pending_limit_s=2).run(Misbehaving(), [(crystals(1)[0], 0)])
    assert label.status == "failed"
    assert label.reason == "not started within 2 s (PartitionDown); cancelled (pending_limit_s)"
    assert "PENDING" not in subprocess.run(["squeue", "--me", "-h", "-p", "closed", "--format=%T"], capture_output=True, text=True).stdout


def drive(folder: Path, count: int, seconds: float, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.hpc.driver", str(folder), str(count), str(seconds), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("moment", ["while jobs run", "between sbatch and its record"])
def test_driver_killed_and_started_again(slurm: str, tmp_path: Path, moment: str) -> None:
    if moment == "while jobs run":
        driver = drive(tmp_path, 8, 1.5)
        assert driver.stdout is not None
        for _ in range(2):
            driver.stdout.readline()
        driver.send_signal(signal.SIGKILL)
    else:
        driver = drive(tmp_path, 8, 1.5, "die-before-recording")
    assert driver.wait(timeout=60) == -signal.SIGKILL
    finished, _ = drive(tmp_path, 8, 1.5).communicate(timeout=120)
    assert Counter(line.split()[1] for line in finished.splitlines()) == {"ok": 8}
    assert Counter((tmp_path / "journal").read_text().splitlines()) == {f"{crystal.id} 0": 1 for crystal in crystals(8)}
    assert set(jobs_of(tmp_path).values()) == {1}


def test_controller_restarted_while_jobs_run(slurm: str, tmp_path: Path) -> None:
    driver = drive(tmp_path, 6, 3.0)
    assert driver.stdout is not None
    driver.stdout.readline()
    subprocess.run([ROOT / "rigs" / "slurm.sh", "stop-controller"], check=True)
    try:
        assert subprocess.run(["squeue"], capture_output=True).returncode != 0
        time.sleep(5)
        assert driver.poll() is None  # it waits
    finally:
        subprocess.run([ROOT / "rigs" / "slurm.sh", "start-controller"], check=True)
    rest, _ = driver.communicate(timeout=180)
    assert Counter(line.split()[1] for line in rest.splitlines()) == {"ok": 5}
    assert Counter((tmp_path / "journal").read_text().splitlines()) == {f"{crystal.id} 0": 1 for crystal in crystals(6)}


def test_queue_that_stays_away_stops_the_campaign_with_a_message(engine: MakeEngine) -> None:
    subprocess.run([ROOT / "rigs" / "slurm.sh", "stop-controller"], check=True)
    try:
        with pytest.raises(EngineUnavailable, match="out of reach for 2 s"):
            list(engine(patience_s=2).run(Misbehaving(), [(crystals(1)[0], 0)]))
    finally:
        subprocess.run([ROOT / "rigs" / "slurm.sh", "start-controller"], check=True)


def test_collect_and_return_at_once(engine: MakeEngine) -> None:
    labeller, tasks = Misbehaving(seconds=2.0), [(crystal, 0) for crystal in crystals(2)]
    labels, out = engine().advance(labeller, tasks)
    assert (labels, out) == ([], 2)
    deadline = time.monotonic() + 90
    while out and time.monotonic() < deadline:
        time.sleep(1)
        labels, out = engine().advance(labeller, tasks)  # a new engine each time, as cron would make one
    assert (len(labels), out) == (2, 0)


def test_unknown_partition_is_refused_before_anything_is_submitted(engine: MakeEngine) -> None:
    (problem,) = engine(partition="nowhere").problems()
    assert "nowhere" in problem
    assert "partitions main, closed" in problem
    with pytest.raises(EngineUnavailable, match="nowhere"):
        list(engine(partition="nowhere").run(Misbehaving(), [(crystals(1)[0], 0)]))


def test_worker_that_cannot_import_us_costs_one_job(engine: MakeEngine, tmp_path: Path) -> None:
    (problem,) = engine(python="/usr/bin/python3 -I").problems() or ["none"]
    assert "cannot import us" in problem
    with pytest.raises(EngineUnavailable, match="ended before our worker could start"):
        list(engine(environment=("exit 3",)).run(Misbehaving(), [(crystal, 0) for crystal in crystals(5)]))
    assert sum(jobs_of(tmp_path).values()) == 1
    labels = list(engine().run(Misbehaving(), [(crystal, 0) for crystal in crystals(5)]))  # mended
    assert [label.status for label in labels] == ["ok"] * 5


def test_no_sbatch(engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no sbatch on this machine" in engine().problems()[0]
    with pytest.raises(EngineUnavailable, match="no squeue on this machine"):
        list(engine().run(Misbehaving(), [(crystals(1)[0], 0)]))
