"""Fixtures of the tests on real queues; they are skipped, with a reason, where the rigs of ``rigs/`` are not up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from oracles.engine_settings import SlurmSettings
from oracles.engine_slurm import SlurmEngine

ROOT = Path(__file__).parents[2]


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture(scope="session")
def slurm() -> str:
    """The shell lines that workers need; the queue is the rig's own, because these tests stop its controller."""
    configuration = Path("/etc/slurm/slurm.conf")
    if not (configuration.exists() and "al-crystal test rig" in configuration.read_text() and _answers("sinfo")):
        pytest.skip("needs the one-node Slurm of rigs/slurm.sh (make test-hpc)")
    return f"export PYTHONPATH={ROOT}"


@pytest.fixture
def engine(slurm: str, tmp_path: Path) -> Callable[..., SlurmEngine]:
    """Makes Slurm engines with the given settings over a folder of this test."""

    def make(**settings: object) -> SlurmEngine:
        defaults = {"poll_s": 0.5, "memory_gb": 0.5, "environment": (slurm,)}
        return SlurmEngine(SlurmSettings.model_validate(defaults | settings), tmp_path / "tasks")

    return make
