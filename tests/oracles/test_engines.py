from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oracles.engine_settings import LocalSettings
from oracles.engines import InlineEngine, LocalEngine
from tests.oracles.faults import Faulty, crystal

FAULTS = {2: "hang", 3: "segfault", 4: "exception", 5: "memory", 6: "exit"}


def test_every_fault_becomes_a_label_and_no_other_label_is_lost():
    engine = LocalEngine(LocalSettings(workers=2, time_limit_s=8, memory_limit_gb=4))
    tasks = [(crystal(atoms), 0) for atoms in range(1, 10)]
    labels = {label.crystal_id: label for label in engine.run(Faulty(FAULTS), tasks)}
    assert set(labels) == {one.id for one, _ in tasks}
    reasons = {atoms: labels[crystal(atoms).id].reason for atoms in FAULTS}
    assert all(labels[crystal(atoms).id].status == "failed" for atoms in FAULTS)
    assert "time limit of 8 s" in reasons[2]
    assert "SIGSEGV" in reasons[3]
    assert reasons[4] == "RuntimeError: an oracle that raises"
    assert "out of memory at the limit of 4 GB" in reasons[5]
    assert "exit code 3" in reasons[6]
    assert all(labels[crystal(atoms).id].status == "ok" for atoms in (1, 7, 8, 9))
    assert labels[crystal(4).id].provenance["attempt"] == 0


def test_inline_exceptions_become_labels_and_attempts_are_passed_on():
    found = list(InlineEngine().run(Faulty({4: "once"}), [(crystal(4), 0), (crystal(4), 1), (crystal(5), 0)]))
    assert [label.status for label in found] == ["failed", "ok", "ok"]
    assert found[0].provenance["engine"]["process"] == os.getpid()


DRIVER = """
import sys
from oracles.engine_settings import LocalSettings
from oracles.engines import LocalEngine
from tests.oracles.faults import Faulty, crystal

if __name__ == "__main__":
    tasks = [(crystal(1), 0), (crystal(2), 0)]
    for label in LocalEngine(LocalSettings(workers=1, time_limit_s=600)).run(Faulty({2: "hang"}), tasks):
        sys.stdout.write(str(label.provenance["engine"]["process"]) + "\\n")
        sys.stdout.flush()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers that die with their driver need prctl")
def test_workers_die_with_their_driver(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"worker {worker} outlived its driver")
