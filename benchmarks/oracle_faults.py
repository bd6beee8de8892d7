"""Injected faults: hang, segfault, out of memory, exception, NaN and broken weights, 50 of each among as many healthy tasks.

``python benchmarks/oracle_faults.py`` sends them through worker processes and counts what comes back: every task must have a label,
every fault one that says what happened, and every healthy task its own. The first four end or stop a worker; the last two run the
real labeller, on a potential that returns NaN now and then or always, and on weights with garbage in them.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from al_crystal.crystal import Crystal, Label
from oracles.engine_settings import LocalSettings
from oracles.engines import LocalEngine

EXPECTED = {
    "hang": ("failed", "time limit"),
    "segfault": ("failed", "SIGSEGV"),
    "memory": ("failed", "out of memory"),
    "exception": ("failed", "RuntimeError: injected"),
    "nan": ("rejected", "finite energy"),
    "weights": ("failed", "PotentialRefused"),
    "healthy": ("ok", "relaxed"),
}


@dataclass(frozen=True)
class Injected:
    """Labels a crystal the way its fault says; ``faults`` by crystal id. ``weights``: a folder with broken ones."""

    faults: dict[str, str] = field(default_factory=dict)
    weights: str = ""

    def label(self, crystal: Crystal, attempt: int = 0) -> Label:
        """Go wrong, or label."""
        fault = self.faults[crystal.id]
        if fault == "hang":
            time.sleep(3600)
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "memory":
            bytearray(64 * 10**9)
        if fault == "exception":
            raise RuntimeError("injected")
        if fault == "nan":
            return _with_nan(crystal)
        if fault == "weights":
            return _with_weights(crystal, self.weights)
        return Label(crystal_id=crystal.id, status="ok", reason="relaxed")


def _with_nan(crystal: Crystal) -> Label:
    """The real labeller on a potential that gives NaN for every energy."""
    from unittest.mock import patch

    import numpy as np

    from oracles import backends
    from oracles.labelling import Labeller
    from oracles.potentials import load, resolve
    from oracles.settings import OracleSettings

    record = load(resolve("ase.calculators.emt:EMT")).record
    sound = backends.AsePotential.evaluate

    def broken(self: Any, structures: Any) -> Any:
        found = sound(self, structures)
        return type(found)(np.full_like(found.energies, np.nan), found.forces, found.stresses)

    with patch.object(backends.AsePotential, "evaluate", broken):
        return Labeller(OracleSettings(potential=record.name, properties=()), record, 0).label(crystal)


def _with_weights(crystal: Crystal, folder: str) -> Label:
    """The real labeller on weights that are not weights."""
    from oracles.labelling import Labeller
    from oracles.potentials import resolve
    from oracles.settings import OracleSettings

    return Labeller(OracleSettings(potential="M3GNet"), resolve("M3GNet", folder), 0).label(crystal)


def main(
    count: Annotated[int, typer.Option(help="of each fault")] = 50,
    workers: Annotated[int, typer.Option(help="worker processes")] = 2,
) -> None:
    """Count what becomes of injected faults."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.pt", "state.pt", "model.json"):
            (Path(folder) / name).write_bytes(b"garbage")
        quick = _run(["hang", "segfault", "memory", "exception"], count, folder, LocalSettings(workers=workers, time_limit_s=3))
        slow = _run(["nan", "weights"], count, folder, LocalSettings(workers=workers, time_limit_s=600))
    typer.echo("fault       tasks  labels  as they should be")
    for fault in EXPECTED:
        tasks, labels, right = (quick[fault][place] + slow[fault][place] for place in range(3))
        typer.echo(f"{fault:10s} {tasks:6d} {labels:7d} {right:7d}")
    lost = sum(counts[0] - counts[1] for counts in (*quick.values(), *slow.values()))
    typer.echo(f"labels lost: {lost}")


def _run(faults: list[str], count: int, folder: str, settings: LocalSettings) -> dict[str, tuple[int, int, int]]:
    """Per fault: tasks sent, labels received, labels that are as they should be."""
    kinds = [fault for number in range(count) for fault in (*faults, *["healthy"] * len(faults))]
    crystals = [
        Crystal(
            space_group=123, composition={"Cu": 1, "Au": 1}, lattice_parameters=(2.8 + 1e-4 * number, 2.8 + 1e-4 * number, 3.7, 90, 90, 90)
        )
        for number in range(len(kinds))
    ]
    fault_of = {crystal.id: fault for crystal, fault in zip(crystals, kinds, strict=True)}
    sent, received, right = Counter(kinds), Counter[str](), Counter[str]()
    for label in LocalEngine(settings).run(Injected(fault_of, folder), [(crystal, 0) for crystal in crystals]):
        fault = fault_of[label.crystal_id]
        received[fault] += 1
        status, words = EXPECTED[fault]
        if label.status == status and words in label.reason:
            right[fault] += 1
        else:
            typer.echo(f"{fault}: {label.status}, {label.reason}")
    return {fault: (sent[fault], received[fault], right[fault]) for fault in EXPECTED}


if __name__ == "__main__":
    typer.run(main)
