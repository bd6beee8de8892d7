"""Relaxation: our batched walks against ASE's FIRE with FrechetCellFilter, one crystal at a time, on 64 PyXtal cells.

``python benchmarks/oracle_relaxation.py`` draws random arrangements of 8 to 30 atoms in real cells of the 22 elements (space group,
composition and lattice of known crystals, positions by PyXtal), relaxes them both ways with M3GNet to 0.05 eV/Å (ours also to 0.1 GPa,
the plain way to the filter's own measure of stress, about 0.5 GPa), and compares cost, convergence and energies; ours once with the
symmetry of each cell kept and once freed afterwards, as ``oracles.symmetry`` says. ``--workers`` labels with one worker process and
with two instead. The plain way takes ten minutes: its cells and results are kept line by line, and an interrupted run goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.seeds import rng
from oracles.freeing import free
from oracles.potentials import load, resolve
from oracles.relaxation import Relaxed, relax_all
from oracles.settings import FreeingSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

STEPS = 500  # of the plain way
CLOSE = 0.005  # eV/atom
RESULTS = Path("benchmarks/results/oracle_relaxation.jsonl")


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    count: Annotated[int, typer.Option(help="cells")] = 64,
    workers: Annotated[bool, typer.Option(help="only label with one worker process and with two")] = False,
    output: Annotated[Path, typer.Option(help="results of the plain way, one line each; the cells go beside it")] = RESULTS,
) -> None:
    """Measure relaxed structures per CPU-second, convergence, and agreement."""
    import torch

    torch.set_num_threads(1)
    if workers:
        _workers(data)
        return
    structures = _cells(data, count, output.with_suffix(".cells"))
    plain = _plain(structures, output)
    potential = load(resolve("M3GNet"))
    start = time.process_time()
    cells = [SymmetricCell.from_structure(structure) for structure in structures]
    kept = relax_all(cells, potential, RelaxationSettings())
    cost = time.process_time() - start
    generators = [rng(0, 0, "benchmark/free", index) for index in range(count)]
    freed = free(kept, cells, potential, FreeingSettings(), RelaxationSettings(), generators)
    whole = time.process_time() - start
    typer.echo(f"{count} PyXtal cells, {np.mean([len(structure) for structure in structures]):.1f} atoms on average, M3GNet")
    _plain_row(plain)
    _table("symmetry: kept", structures, plain, kept, cost)
    _table("symmetry: freed", structures, plain, [one.relaxed for one in freed], whole)
    gains = np.array([one.gain or 0.0 for one in freed])
    typer.echo(f"\nfreed: {sum(one.left for one in freed)} of {count} leave, {(gains > CLOSE).sum()} gain over {CLOSE * 1e3:.0f} meV/atom")


def _cells(data: Path, count: int, file: Path) -> list[Any]:
    """The cells of the file; drawn and written there first where there is none.

    PyXtal draws differently in every process, whatever generator it is given, so the results of an interrupted run belong to its cells.
    """
    from pymatgen.core import Structure

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(structure.as_dict()) + "\n" for structure in _drawn(data, count)))
    lines = file.read_text().splitlines()
    if len(lines) < count:
        raise SystemExit(f"{file} has {len(lines)} cells, {count} are asked for; remove it and the results beside it to draw anew")
    return [Structure.from_dict(json.loads(line)) for line in lines[:count]]


def _drawn(data: Path, count: int) -> list[Any]:
    """Random arrangements by PyXtal in real cells, as pymatgen structures of the conventional cell."""
    import pandas as pd
    from pyxtal import pyxtal
    from pyxtal.lattice import Lattice
    from pyxtal.symmetry import Group

    table = pd.read_parquet(data / "seed_crystals.parquet")
    table = table[(table["cell_setting"] == "spglib") & table["in_22el"]]
    atoms = table["composition"].map(lambda text: sum(json.loads(text).values()))
    table = table[(atoms >= 8) & (atoms <= 30)].sample(400, random_state=0)
    generator = np.random.default_rng(0)
    structures: list[Any] = []
    for _, row in table.iterrows():
        composition, group = json.loads(row["composition"]), int(row["space_group_number"])
        parameters = row[["a", "b", "c", "alpha", "beta", "gamma"]].astype(float)
        crystal = pyxtal()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):  # PyXtal raises what it likes: the next cell then
            lattice = Lattice.from_para(*parameters, ltype=Group(group, quick=True).lattice_type)
            numbers = [int(value) for value in composition.values()]
            crystal.from_random(3, group, list(composition), numbers, lattice=lattice, random_state=generator)
            if crystal.valid:
                structures.append(crystal.to_pymatgen())
        if len(structures) == count:
            break
    return structures


def _plain(structures: list[Any], output: Path) -> list[dict[str, Any]]:
    """ASE's FIRE on matgl's own forward pass, one structure at a time."""
    import matgl
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from matgl.ext.ase import PESCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    from oracles.aggregation import set_aggregation

    output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    if len(done) >= len(structures):
        return done[: len(structures)]
    record = load(resolve("M3GNet")).record
    model = matgl.load_model(record.source)
    model.eval()
    set_aggregation(model, record.aggregation or "source")
    calculator = PESCalculator(model, stress_unit="eV/A3")
    for structure in structures[len(done) :]:
        start = time.process_time()
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.calc = calculator
        optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
        try:
            converged = bool(optimizer.run(fmax=0.05, steps=STEPS))
            energy = float(atoms.get_potential_energy()) / len(atoms)
        except Exception:  # the plain way stops on a cell that flew apart: not converged
            converged, energy = False, float("nan")
        cost = time.process_time() - start
        ended = {"lattice": atoms.cell.tolist(), "positions": atoms.get_scaled_positions().tolist(), "numbers": atoms.numbers.tolist()}
        done.append({"converged": converged, "energy": energy, "steps": optimizer.nsteps, "cpu_s": cost, **ended})
        with output.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return done


def _plain_row(plain: list[dict[str, Any]]) -> None:
    cost, settled = sum(line["cpu_s"] for line in plain), np.array([line["converged"] for line in plain])
    early = np.mean([line["converged"] and line["steps"] <= 200 for line in plain])
    typer.echo(
        f"ASE FIRE, one by one: {cost / len(plain):.2f} CPU-s each, {settled.sum() / cost:.3f} relaxed per CPU-s, "
        f"converged {settled.mean():.3f} (<= {STEPS} steps), {early:.3f} (<= 200)"
    )


def _table(name: str, structures: list[Any], plain: list[dict[str, Any]], ours: list[Relaxed], cost: float) -> None:
    count = len(structures)
    plain_cost = sum(line["cpu_s"] for line in plain)
    settled = np.array([line["converged"] for line in plain])
    converged = np.array([one.outcome == "converged" for one in ours])
    both = settled & converged
    difference = np.array([one.energy_per_atom - line["energy"] for one, line in zip(ours, plain, strict=True)])
    close = difference <= CLOSE
    typer.echo(f"\n{name}: {cost / count:.2f} CPU-s each, {converged.sum() / cost:.3f} relaxed per CPU-s, converged {converged.mean():.3f}")
    typer.echo(f"  relaxed per CPU-s over the plain way: {converged.sum() / cost / (settled.sum() / plain_cost):.1f}")
    typer.echo(
        f"  energies within {CLOSE * 1e3:.0f} meV/atom of the plain way or lower: {close[both].mean():.3f} of the {both.sum()} converged "
        f"both ways (lower by more: {(difference[both] < -CLOSE).sum()}, higher by more: {(~close[both]).sum()})"
    )
    for structure, one, line, higher in zip(structures, ours, plain, ~close, strict=True):
        if one.outcome != "converged" or (higher and line["converged"]):
            energies = f"{one.energy_per_atom:.3f} against {line['energy']:.3f} eV/atom"
            typer.echo(f"    {structure.composition.formula}: {one.outcome}, {one.reason}; {energies}")


def _workers(data: Path) -> None:
    """Twelve crystals labelled by one worker process and by two: wall time from the first label to the last, models loaded."""
    import pandas as pd

    from al_crystal.crystal import crystals_from_frame
    from oracles.engine_settings import LocalSettings
    from oracles.engines import LocalEngine
    from oracles.labelling import Labeller
    from oracles.settings import OracleSettings

    table = pd.read_parquet(data / "seed_crystals.parquet")
    table = table[(table["cell_setting"] == "spglib") & table["in_22el"]]
    crystals = [one for one in crystals_from_frame(table.sample(200, random_state=1)) if 8 <= one.number_of_atoms <= 20][:24]
    labeller = Labeller(OracleSettings(), load(resolve("M3GNet")).record, seed=0)
    for workers in (1, 2):
        begun = time.perf_counter()
        labels = []
        for label in LocalEngine(LocalSettings(workers=workers)).run(labeller, [(crystal, 0) for crystal in crystals]):
            if not labels:
                begun = time.perf_counter()  # the first label waits for the models to load
            labels.append(label)
        wall = time.perf_counter() - begun
        busy = sum(label.cost.get("cpu_s", 0.0) for label in labels[1:])
        ok = sum(label.status == "ok" for label in labels)
        typer.echo(
            f"{workers} worker(s): {len(labels)} labels ({ok} ok), {wall:.1f} s of wall time after the first, {busy:.1f} CPU-s, "
            f"{busy / wall:.2f} cores busy"
        )


if __name__ == "__main__":
    typer.run(main)
