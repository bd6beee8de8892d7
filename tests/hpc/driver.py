"""A driver to be killed: ``python -m tests.hpc.driver FOLDER COUNT SECONDS [die-before-recording]``, one line a label."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from oracles.engine_queue import Ticket
from oracles.engine_settings import SlurmSettings
from oracles.engine_slurm import SlurmEngine
from tests.hpc.conftest import ROOT
from tests.hpc.labellers import Misbehaving, crystals


class DiesBeforeRecording(SlurmEngine):
    """Is killed after sbatch has taken the third job, before its number is written down."""

    recorded = 0

    def _record(self, ticket: Ticket) -> None:
        self.recorded += 1
        if self.recorded == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._record(ticket)


def main() -> None:
    """Label and write one line a label."""
    folder, count, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    kind = DiesBeforeRecording if sys.argv[4:] == ["die-before-recording"] else SlurmEngine
    settings = SlurmSettings(poll_s=0.3, memory_gb=0.5, environment=(f"export PYTHONPATH={ROOT}",))
    labeller = Misbehaving(seconds=seconds, journal=folder / "journal")
    for label in kind(settings, folder / "tasks").run(labeller, [(crystal, 0) for crystal in crystals(count)]):
        sys.stdout.write(f"{label.crystal_id} {label.status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
