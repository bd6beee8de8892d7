"""What a whole campaign costs: wall time, CPU time, and peak memory of the driver with all its workers.

    python benchmarks/campaign_footprint.py [CAMPAIGN.yaml] [--output FILE.json]

Memory is the sum of the proportional set sizes of the process tree (pages that n processes share count once), read twice a second
from /proc; Linux only. CPU time is that of the driver and of every child that it waited for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

INTERVAL = 0.5  # seconds


def memory_of_tree(root: psutil.Process) -> tuple[float, int]:
    """Gigabytes of a process and its descendants together, and how many they are."""
    total, count = 0, 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
            count += 1
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it ended meanwhile
    return total / 1e9, count


def measure(command: list[str]) -> dict[str, Any]:
    """Run a command to its end, its output passed on."""
    start, peak, processes = time.perf_counter(), 0.0, 0
    run = subprocess.Popen(command)
    root = psutil.Process(run.pid)
    while run.poll() is None:
        try:
            memory, count = memory_of_tree(root)
        except psutil.NoSuchProcess:
            break
        peak, processes = max(peak, memory), max(processes, count)
        time.sleep(INTERVAL)
    code = run.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": code,
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_gb": round(peak, 2),
        "largest_process_gb": round(used.ru_maxrss / 1e6, 2),
        "most_processes": processes,
    }


def main() -> None:
    """Run the campaign and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path, nargs="?", default=Path("campaigns/solar_bg.yaml"))
    parser.add_argument("--output", type=Path, help="write the measurement here too")
    options = parser.parse_args()
    measured = measure([sys.executable, "-m", "al_crystal.run", str(options.campaign)])
    print(json.dumps(measured))
    if options.output:
        options.output.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
