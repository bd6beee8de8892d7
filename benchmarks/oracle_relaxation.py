"""Relaxation: our batched walks against ASE's FIRE with FrechetCellFilter, one crystal at a time, on 64 PyXtal cells.

``python benchmarks/oracle_relaxation.py`` draws random arrangements of 8 to 30 atoms in real cells of the 22 elements (space group,
composition and lattice of known crystals, positions by PyXtal), relaxes them both ways with M3GNet to 0.05 eV/Å (ours also to 0.1 GPa,
the plain way to the filter's own measure of stress, about 0.5 GPa), and compares cost, convergence and energies; ours once with the
symmetry of each cell kept and once freed afterwards, as ``oracles.symmetry`` says. The plain way takes ten minutes: its cells and
results are kept line by line, and an interrupted run goes on. A machine is not equally fast at all times: the plain way relaxes its first
four cells again in every run, and what it cost then is multiplied by what that has changed.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
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
AGAIN = 4  # cells
RESULTS = Path("benchmarks/results")


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    count: Annotated[int, typer.Option(help="cells")] = 64,
    draw: Annotated[int, typer.Option(help="which draw of cells: other crystals, other positions")] = 0,
    folder: Annotated[Path, typer.Option(help="cells of the draw and results of the plain way, one line each")] = RESULTS,
) -> None:
    """Measure relaxed structures per CPU-second, convergence, and agreement."""
    import torch

    torch.set_num_threads(1)
    output = folder / f"oracle_relaxation_{draw}.jsonl"
    structures = _cells(data, count, draw, output.with_suffix(".cells"))
    plain = _at_present_speed(structures, _plain(structures, output))
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


def _cells(data: Path, count: int, draw: int, file: Path) -> list[Any]:
    """The cells of the file; drawn and written there first where there is none.

    PyXtal draws differently in every process, whatever generator it is given, so the results of an interrupted run belong to its cells.
    """
    from pymatgen.core import Structure

    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(structure.as_dict()) + "\n" for structure in _drawn(data, count, draw)))
    lines = file.read_text().splitlines()
    if len(lines) < count:
        raise SystemExit(f"{file} has {len(lines)} cells, {count} are asked for; remove it and the results beside it to draw anew")
    return [Structure.from_dict(json.loads(line)) for line in lines[:count]]


def _drawn(data: Path, count: int, draw: int) -> list[Any]:
    """Random arrangements by PyXtal in real cells, as pymatgen structures of the conventional cell."""
    import pandas as pd
    from pyxtal import pyxtal
    from pyxtal.lattice import Lattice
    from pyxtal.symmetry import Group

    table = pd.read_parquet(data / "seed_crystals.parquet")
    table = table[(table["cell_setting"] == "spglib") & table["in_22el"]]
    atoms = table["composition"].map(lambda text: sum(json.loads(text).values()))
    table = table[(atoms >= 8) & (atoms <= 30)].sample(400, random_state=draw)
    generator = np.random.default_rng(draw)
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
    """The plain way's results, one line each; those that the file lacks are made first."""
    output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    calculator = _calculator()
    for structure in structures[len(done) :]:
        done.append(_by_fire(structure, calculator))
        with output.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return done[: len(structures)]


def _at_present_speed(structures: list[Any], plain: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plain way's results with the CPU seconds that they would take now, by the first few, which are relaxed again."""
    calculator = _calculator()
    again = sum(_by_fire(structure, calculator)["cpu_s"] for structure in structures[:AGAIN])
    change = again / sum(line["cpu_s"] for line in plain[:AGAIN])
    typer.echo(f"ASE FIRE on the first {AGAIN} cells again: {again:.1f} CPU-s, {change:.2f} of what it took; its costs are scaled by that")
    return [line | {"cpu_s": line["cpu_s"] * change} for line in plain]


def _calculator() -> Any:
    """matgl's own forward pass as an ASE calculator."""
    import matgl
    from matgl.ext.ase import PESCalculator

    from oracles.aggregation import set_aggregation

    record = load(resolve("M3GNet")).record
    model = matgl.load_model(record.source)
    model.eval()
    set_aggregation(model, record.aggregation or "source")
    return PESCalculator(model, stress_unit="eV/A3")


def _by_fire(structure: Any, calculator: Any) -> dict[str, Any]:
    """One structure relaxed by ASE's FIRE."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    start = time.process_time()
    atoms = AseAtomsAdaptor.get_atoms(structure)
    atoms.calc = calculator
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy of the logarithms that the filter takes
        try:
            converged = bool(optimizer.run(fmax=0.05, steps=STEPS))
            energy = float(atoms.get_potential_energy()) / len(atoms)
        except Exception:  # the plain way stops on a cell that flew apart: not converged
            converged, energy = False, float("nan")
    cost = time.process_time() - start
    ended = {"lattice": atoms.cell.tolist(), "positions": atoms.get_scaled_positions().tolist(), "numbers": atoms.numbers.tolist()}
    return {"converged": converged, "energy": energy, "steps": optimizer.nsteps, "cpu_s": cost, **ended}


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


if __name__ == "__main__":
    typer.run(main)
