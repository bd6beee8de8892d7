"""One campaign, surrogate to potential to GPAW, on three engines: the same records from each, but for times and job ids."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hpc.conftest import ROOT

pytestmark = [
    pytest.mark.dft,
    pytest.mark.xdist_group("gpaw"),
    pytest.mark.skipif(importlib.util.find_spec("gpaw") is None, reason="needs GPAW: make test-dft, or rigs/gpaw.sh VENV"),
]
OF_THE_ENGINE = {"cost", "engine", "seconds", "wall_s", "cpu_s", "seconds_per_iteration", "trajectories_per_second"}

ENGINES = {
    "inline": "{kind: inline}",
    "local": "{kind: local, workers: 2, time_limit_s: 3000}",
    "slurm": f"{{kind: slurm, poll_s: 1, memory_gb: 3, time_limit_s: 3000, environment: ['export PYTHONPATH={ROOT}']}}",
}


def start(folder: Path, kind: str) -> subprocess.Popen[str]:
    file = folder / f"{kind}.yaml"
    file.write_text(f"extends: {ROOT}/campaigns/tiny_dft.yaml\noutput: {folder / kind}\nengine: {ENGINES[kind]}\n")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "al_crystal.run", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=folder)


def records(folder: Path, kind: str) -> list[str]:
    """The lines of a history without what only the engine decides, in an order that does not depend on who was first."""
    lines = (folder / kind / "tiny_dft" / "history.jsonl").read_text().splitlines()
    return sorted(json.dumps(_without(json.loads(line)), sort_keys=True) for line in lines)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in OF_THE_ENGINE}
    return [_without(item) for item in value] if isinstance(value, list) else value


def slurm_is_up() -> bool:
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=10).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def test_the_same_records_from_every_engine(tmp_path: Path) -> None:
    kinds = ["inline", "local", *(["slurm"] if slurm_is_up() else [])]
    runs = {kind: start(tmp_path, kind) for kind in kinds}
    for kind, run in runs.items():
        said, _ = run.communicate(timeout=2400)
        assert run.returncode == 0, f"{kind}: {said}"
    first = records(tmp_path, "inline")
    promoted = [json.loads(line)["label"] for line in first if '"promotion": "gpaw"' in line]
    assert [label["status"] for label in promoted] == ["ok", "ok"]
    assert all("formation_energy_per_atom" in label["properties"] for label in promoted)
    for kind in kinds[1:]:
        assert records(tmp_path, kind) == first, kind
