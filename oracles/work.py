"""``python -m oracles.work FOLDER``: what a job of a queue does. Reads ``task.json``, writes ``label.json`` or ``error.json``."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from oracles.engines import one_line
from oracles.tasks import ERROR, LABEL, STARTED, TASK, decode, write_whole


def work(folder: Path) -> int:
    """Do the task of a folder, once; the exit code.

    The first job to get here owns the task: another one for the same task (there should be none) leaves at once.
    """
    import json

    job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
    try:
        descriptor = os.open(folder / STARTED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        sys.stderr.write(f"{folder}: begun by another job already\n")
        return 4
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps({"job": job, "node": os.uname().nodename, "process": os.getpid()}))
    try:
        labeller, item, attempt = decode((folder / TASK).read_text())
        label = labeller.label(item, attempt)
    except Exception as error:  # whatever an oracle raises becomes the reason of a failed label
        write_whole(folder / ERROR, json.dumps({"reason": one_line(error), "traceback": traceback.format_exc()}))
        return 1
    write_whole(folder / LABEL, label.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
