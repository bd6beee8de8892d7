"""Overhead of the engines: 200 tasks of 10 ms through local workers, and through Slurm where there is one.

    python -m benchmarks.engine_overhead [--tasks 200] [--engines local slurm] [--output FILE.json]

Overhead per task is (wall time x workers - work) / tasks, so that waiting for a scheduler counts. The controller's memory is read
after each label; growth is the difference between the last and the tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from oracles.engine_settings import LocalSettings, SlurmSettings
from oracles.engines import Engine, make_engine
from tests.hpc.labellers import Misbehaving, crystals

WORK = 0.010  # seconds
WORKERS = 2


def measure(engine: Engine, tasks: int) -> dict[str, Any]:
    """Run the tasks and take wall time, the controller's CPU time and its memory."""
    process = psutil.Process()
    labeller = Misbehaving(seconds=WORK)
    start, cpu, memory = time.perf_counter(), time.process_time(), []
    labels = []
    for label in engine.run(labeller, [(crystal, 0) for crystal in crystals(tasks)]):
        labels.append(label.status)
        memory.append(process.memory_info().rss / 1e6)
    wall = time.perf_counter() - start
    return {
        "tasks": tasks,
        "ok": labels.count("ok"),
        "wall_s": round(wall, 1),
        "wall_overhead_per_task_s": round((wall - WORK * tasks / WORKERS) / tasks, 4),
        "controller_cpu_per_task_ms": round((time.process_time() - cpu) / tasks * 1000, 1),
        "controller_memory_mb": round(max(memory), 1),
        "controller_memory_growth_mb": round(memory[-1] - memory[min(9, len(memory) - 1)], 1),
    }


def main() -> None:
    """Print one row an engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--engines", nargs="+", default=["local", "slurm"], choices=["local", "slurm"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    rows = {}
    for kind in options.engines:
        if kind == "slurm" and shutil.which("sbatch") is None:
            print("slurm: there is no sbatch here (rigs/slurm.sh up)")
            continue
        slurm = SlurmSettings(poll_s=0.5, memory_gb=0.3, max_jobs=50)
        settings = LocalSettings(workers=WORKERS) if kind == "local" else slurm
        with tempfile.TemporaryDirectory(prefix="al-crystal-") as folder:
            rows[kind] = measure(make_engine(settings, Path(folder)), options.tasks)
        print(kind, json.dumps(rows[kind]))
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
