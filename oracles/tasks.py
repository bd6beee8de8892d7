"""One label task as a file: what a queue's worker reads, and what names it.

A task's key is a hash of all that decides the label (labeller with its settings, crystal, attempt), so that the same task is the
same job after a restart. JSON by way of monty, which knows dataclasses and pydantic models; no pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oracles.engines import CanLabel

TASK, STARTED, LABEL, ERROR = "task.json", "started.json", "label.json", "error.json"


def encode(labeller: CanLabel, item: Any, attempt: int) -> str:
    """The task as JSON, with sorted keys."""
    from monty.json import MontyEncoder

    return json.dumps({"labeller": labeller, "item": item, "attempt": attempt}, cls=MontyEncoder, sort_keys=True)


def decode(text: str) -> tuple[CanLabel, Any, int]:
    """Labeller, item and attempt of a task."""
    from monty.json import MontyDecoder

    task = json.loads(text, cls=MontyDecoder)
    return task["labeller"], task["item"], int(task["attempt"])


def key_of(text: str) -> str:
    """20 hexadecimal digits that name the task."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it: who sees it sees all of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
