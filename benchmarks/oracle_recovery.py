"""Recovery: real structures, strained by up to 5 % and rattled by 0.1 Å, relaxed without symmetry: do they come back?

``python benchmarks/oracle_recovery.py`` takes 200 real structures of up to 20 atoms, relaxes each as it is (symmetry kept) and after a
random symmetric strain (components up to 5 %) and a random displacement of each atom (0.1 Å along each axis, normal), with nothing
known of the symmetry, and compares the two results with pymatgen's StructureMatcher (default tolerances: 0.2 in length, 0.3 in sites,
5 degrees).

A control says whose fault a loss is: the relaxed structure is stirred by at most 0.01 or 0.03 Å per axis (and 0.25 or 0.75 % of strain) and
relaxed again without symmetry, to a fifth of the usual limits. One that leaves even so is a saddle of the potential, held up by
its symmetry, and no minimiser can come back to it.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.seeds import rng
from oracles.fit_positions import conventional, read_rows
from oracles.potentials import load, resolve
from oracles.relaxation import Relaxed, relax_all, stirred
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

STRAIN, RATTLE, ATOMS = 0.05, 0.1, 20
STIRRED = (0.01, 0.03)  # Å
STRICT = RelaxationSettings(fmax=0.01, max_stress=0.02, max_steps=400)
RESULTS = Path("benchmarks/results/oracle_recovery.jsonl")


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    count: Annotated[int, typer.Option(help="structures")] = 200,
    seed: Annotated[int, typer.Option(help="which structures, strains and displacements")] = 0,
    output: Annotated[Path, typer.Option(help="one line per structure; an interrupted run goes on")] = RESULTS,
) -> None:
    """Measure how many structures find back to themselves."""
    import torch

    torch.set_num_threads(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    potential = load(resolve("M3GNet"))
    rows = [row for row in read_rows(data / "structures", frozenset(range(10))) if 2 <= len(row["sp"]) <= ATOMS]
    order = rng(seed, 0, "benchmark/recovery").permutation(len(rows))
    structures = (structure for index in order if (structure := conventional(rows[index])) is not None)
    number = len(done)
    chosen = list(islice((cell for cell in map(_cell, structures) if cell.number_of_atoms <= ATOMS), count))
    settings = RelaxationSettings()
    while number < count:
        batch = chosen[number : number + 10]
        start = time.process_time()
        kept = relax_all(batch, potential, settings)
        moved = [_disturbed(one.cell, rng(seed, 0, "benchmark/rattle", number + index)) for index, one in enumerate(kept)]
        back = relax_all(moved, potential, settings)
        cost = (time.process_time() - start) / len(batch)
        lines = [_compared(one, other) | {"cpu_s": cost} for one, other in zip(kept, back, strict=True)]
        for amplitude in STIRRED:
            starts = [stirred(one.cell, rng(seed, 0, "benchmark/stir", number + index), amplitude) for index, one in enumerate(kept)]
            for line, one, other in zip(lines, kept, relax_all(starts, potential, STRICT), strict=True):
                line[f"stays after {amplitude} Å"] = _compared(one, other)["same"]
        done += lines
        number += len(batch)
        with output.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    same = np.array([line["same"] for line in done[:count]])
    relaxed = np.array([line["kept"] == line["back"] == "converged" for line in done[:count]])
    atoms, cost = (np.mean([line[key] for line in done[:count]]) for key in ("atoms", "cpu_s"))
    typer.echo(f"{count} structures of {atoms:.1f} atoms on average, {cost:.2f} CPU-s each for both relaxations")
    typer.echo(f"back to the same structure: {same.mean():.3f} +- {np.sqrt(same.mean() * (1 - same.mean()) / count):.3f}")
    typer.echo(f"converged both times: {relaxed.mean():.3f}; same among these: {same[relaxed].mean():.3f}")
    stays = np.array([[line[f"stays after {amplitude} Å"] for amplitude in STIRRED] for line in done[:count]])
    typer.echo(f"control, stays where it is when stirred by {STIRRED} Å: {stays.mean(axis=0).round(3).tolist()}")
    minimum = stays.all(axis=1)
    typer.echo(f"back, of the {minimum.sum()} that stay (minima of the potential): {same[minimum].mean():.3f}")
    for line, one in zip(done[:count], minimum, strict=True):
        if not line["same"]:
            ends, higher = f"{line['kept']}/{line['back']}", 1e3 * line["difference"]
            own = "a minimum" if one else "no minimum of the potential"
            typer.echo(f"  {line['formula']} ({line['atoms']} atoms, {own}): {ends}, {higher:+.1f} meV/atom against it")


def _cell(structure: dict[str, Any]) -> SymmetricCell:
    return SymmetricCell.from_arrays(structure["lattice"], structure["positions"], structure["numbers"], symprec=0.01)


def _disturbed(cell: SymmetricCell, generator: np.random.Generator) -> SymmetricCell:
    free = cell.without_symmetry()
    strain = generator.uniform(-STRAIN, STRAIN, size=(3, 3))
    lattice = free.lattice @ (np.eye(3) + (strain + strain.T) / 2)
    moves = generator.normal(scale=RATTLE, size=free.positions.shape)
    return replace(free, lattice=lattice, positions=free.positions + moves @ np.linalg.inv(lattice))


def _compared(kept: Relaxed, back: Relaxed) -> dict[str, Any]:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    first, second = kept.cell.to_structure(), back.cell.to_structure()
    return {
        "formula": first.composition.reduced_formula,
        "atoms": len(first),
        "same": bool(StructureMatcher().fit(first, second)),
        "kept": kept.outcome,
        "back": back.outcome,
        "difference": back.energy_per_atom - kept.energy_per_atom,
    }


if __name__ == "__main__":
    typer.run(main)
