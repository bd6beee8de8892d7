"""Two worker processes against one: wall time of the same labels from start to end, and what the machine itself would allow.

``python benchmarks/oracle_workers.py`` labels known crystals of the 22 elements (largest first, so that no long one comes last) with
one worker and with two; the time that workers take to start and load the potential is part of the wall time and stated apart. The
control labels a few of them in one plain process alone and in two at once, without any engine: how much more CPU a label costs
when both cores are busy is then the machine's doing. It needs two free cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer


@dataclass(frozen=True)
class Loaded:
    """The labeller, with its potential loaded before the clock of a label starts."""

    labeller: Any

    def label(self, crystal: Any, attempt: int = 0) -> Any:
        """Load, then label."""
        from oracles.potentials import load

        load(self.labeller.record)
        return self.labeller.label(crystal, attempt)


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    count: Annotated[int, typer.Option(help="crystals")] = 52,
    control: Annotated[int, typer.Option(help="labels of the control")] = 8,
    plain: Annotated[bool, typer.Option(hidden=True, help="label the control's crystals in this process")] = False,
) -> None:
    """Measure what a second worker brings."""
    if plain:
        typer.echo(json.dumps(_plain(data, control)))
        return
    alone, together = _control(data, control, 1), _control(data, control, 2)
    growth = np.mean([one["cpu_s"] for one in together]) / alone[0]["cpu_s"]
    typer.echo(
        f"control, {control} labels in each plain process: {alone[0]['cpu_s']:.1f} CPU-s alone, "
        f"{' and '.join(format(one['cpu_s'], '.1f') for one in together)} with two at once: x {growth:.2f} CPU, "
        f"so that two cores are worth at most {2 / growth:.2f}"
    )
    one, two = (_labelled(data, count, workers) for workers in (1, 2))
    for name, key in (("from start to end", "wall"), ("without the start", "after")):
        typer.echo(f"wall time {name}: {one[key]:.1f} s against {two[key]:.1f} s: x {one[key] / two[key]:.2f}")
    typer.echo(f"CPU of a label, two workers over one: x {two['cpu'] / one['cpu']:.2f}")


def _crystals(data: Path, count: int) -> list[Any]:
    """Known crystals of 8 to 12 atoms in the conventional cell, the largest first."""
    import pandas as pd

    from al_crystal.crystal import crystals_from_frame

    table = pd.read_parquet(data / "seed_crystals.parquet")
    table = table[(table["cell_setting"] == "spglib") & table["in_22el"]]
    crystals = [one for one in crystals_from_frame(table.sample(600, random_state=1)) if 8 <= one.number_of_atoms <= 12][:count]
    return sorted(crystals, key=lambda one: -one.number_of_atoms)


def _labeller() -> Any:
    from oracles.labelling import Labeller
    from oracles.potentials import load, resolve
    from oracles.settings import OracleSettings

    return Labeller(OracleSettings(), load(resolve("M3GNet")).record, seed=0)


def _labelled(data: Path, count: int, workers: int) -> dict[str, float]:
    """Wall seconds of all labels, the same without the workers' start, and CPU seconds of all labels."""
    from oracles.engine_settings import LocalSettings
    from oracles.engines import LocalEngine

    labeller, tasks = _labeller(), [(crystal, 0) for crystal in _crystals(data, count)]
    begun, busy = time.perf_counter(), time.process_time()
    labels, first = [], 0.0
    for label in LocalEngine(LocalSettings(workers=workers)).run(Loaded(labeller), tasks):
        first = first or time.perf_counter() - begun - label.cost["wall_s"]
        labels.append(label)
    wall, driver = time.perf_counter() - begun, time.process_time() - busy
    cpu = sum(label.cost["cpu_s"] for label in labels)
    ok, largest = sum(label.status == "ok" for label in labels), max(label.cost["cpu_s"] for label in labels)
    typer.echo(
        f"{workers} worker(s): {len(labels)} labels ({ok} ok) in {wall:.1f} s, {first:.1f} s of it the start; "
        f"{cpu / len(labels):.2f} CPU-s a label (largest {largest:.1f}), {driver:.1f} CPU-s of the driver"
    )
    return {"wall": wall, "after": wall - first, "cpu": cpu}


def _control(data: Path, count: int, processes: int) -> list[dict[str, float]]:
    """The same labels in so many plain processes at once."""
    command = [sys.executable, __file__, "--data", str(data), "--control", str(count), "--plain"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return [json.loads(one.communicate()[0].splitlines()[-1]) for one in running]


def _plain(data: Path, count: int) -> dict[str, float]:
    """CPU and wall seconds of a few labels in this process, after one that warms up."""
    import torch

    torch.set_num_threads(1)
    labeller, crystals = _labeller(), _crystals(data, 60)
    labeller.label(crystals[-1])
    cpu, wall = time.process_time(), time.perf_counter()
    for crystal in crystals[:: len(crystals) // count][:count]:
        labeller.label(crystal)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


if __name__ == "__main__":
    typer.run(main)
