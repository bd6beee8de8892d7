"""Recovery: real structures, strained by up to 5 % and rattled by 0.1 Å, relaxed without symmetry: do they come back?

``python benchmarks/oracle_recovery.py --potential NAME`` takes 200 real structures of up to 20 atoms as published, gives each a random
symmetric strain (components up to 5 %) and a random displacement of each atom (0.1 Å along each axis, normal), relaxes it with nothing
known of its symmetry, and asks pymatgen's StructureMatcher (default tolerances: 0.2 in length, 0.3 in sites, 5 degrees) whether it is
the same structure again: once as the published one, once as the published one relaxed by this potential with its symmetry kept.

Both relaxations end at the limits of a label (0.05 eV/Å, 0.1 GPa). There a soft shear may be left where the strain put it, 6 degrees from
rest for 0.1 meV/atom; with ``--tight`` they end at 0.02 eV/Å and 0.02 GPa, in up to 1,000 evaluations, where a soft walk may also go on
into another valley. ``--gentle 60`` begins the way back with 60 evaluations of inertial descent, as one of the walks of ``symmetry: freed``
does; it keeps closer to the valley in which it starts.

StructureMatcher first reduces each structure to a primitive cell, within 0.25 Å and all or nothing, so that of two structures that are
the same to 0.03 Å one may be halved and the other not, which it calls different. They are therefore compared as they are, too, at the same
tolerances, and are the same if either comparison says so; what the first alone says is kept and printed beside.

``--control`` says whose fault a loss is: the structure relaxed with its symmetry is stirred by at most 0.01 or 0.03 Å per axis (and
0.25 or 0.75 % of strain) and relaxed again without symmetry, to a fifth of the usual limits. One that leaves even so is a saddle
of the potential, held up by its symmetry, and no minimiser can come back to it.
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

from al_crystal.crystal import ELEMENTS
from al_crystal.seeds import rng
from oracles.fit_positions import conventional, read_rows
from oracles.potentials import Potential, load, resolve
from oracles.relaxation import Relaxed, relax_all
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell, stirred

READINGS = ("as published", "as relaxed")
STRAIN, RATTLE, ATOMS = 0.05, 0.1, 20
STIRRED = (0.01, 0.03)  # Å
TIGHT = RelaxationSettings(fmax=0.02, max_stress=0.02, max_steps=1000)
STRICT = RelaxationSettings(fmax=0.01, max_stress=0.02, max_steps=400)
TOGETHER = 8  # structures relaxed in one batch; also what an interruption loses
UNKNOWN = {"kept": "unknown element", "back": "unknown element", "as relaxed": False, "as published": False, "difference": 0.0}
RESULTS = Path("benchmarks/results/recovery")


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="any that oracles.potentials.resolve knows")] = "M3GNet",
    count: Annotated[int, typer.Option(help="structures")] = 200,
    seed: Annotated[int, typer.Option(help="which structures, strains and displacements")] = 0,
    tight: Annotated[bool, typer.Option(help="relax to 0.02 eV/Å and 0.02 GPa")] = False,
    gentle: Annotated[int, typer.Option(help="evaluations of inertial descent that the way back begins with")] = 0,
    control: Annotated[bool, typer.Option(help="also ask whether each structure is a minimum of the potential")] = False,
    folder: Annotated[Path, typer.Option(help="one line per structure; an interrupted run goes on")] = RESULTS,
) -> None:
    """Measure how many structures find back to themselves."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    settings = TIGHT if tight else RelaxationSettings()
    variant = ("_tight" if tight else "") + (f"_gentle{gentle}" if gentle else "") + ("_control" if control else "")
    output = folder / f"oracle_recovery_{potential.replace(':', '_')}_{seed}{variant}.jsonl"
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    loaded = load(resolve(potential))
    rows = [row for row in read_rows(data / "structures", frozenset(range(10))) if 2 <= len(row["sp"]) <= ATOMS]
    order = rng(seed, 0, "benchmark/recovery").permutation(len(rows))
    structures = (structure for index in order if (structure := conventional(rows[index])) is not None)
    chosen = list(islice((cell for cell in map(_cell, structures) if cell.number_of_atoms <= ATOMS), count))
    while len(done) < count:
        start = time.process_time()
        numbers = range(len(done), min(len(done) + TOGETHER, count))
        lines = _measured(chosen[numbers.start : numbers.stop], numbers, loaded, settings, seed, gentle, control)
        cost = (time.process_time() - start) / len(lines)
        with output.open("a") as file:
            file.writelines(json.dumps(line | {"cpu_s": cost}) + "\n" for line in lines)
        done += [line | {"cpu_s": cost} for line in lines]
    _table(potential, done[:count])


def _measured(
    cells: list[SymmetricCell], numbers: range, potential: Potential, settings: RelaxationSettings, seed: int, gentle: int, control: bool
) -> list[dict[str, Any]]:
    """What became of each structure; a potential that does not know its elements cannot bring it back."""
    known = [index for index, cell in enumerate(cells) if potential.elements is None or not _symbols(cell) - potential.elements]
    published = [cell.to_structure() for cell in cells]
    lines: list[dict[str, Any]] = [
        {"number": number, "formula": structure.composition.reduced_formula, "atoms": len(structure)} | UNKNOWN
        for number, structure in zip(numbers, published, strict=True)
    ]
    starts = [_disturbed(cells[index], rng(seed, 0, "benchmark/rattle", numbers[index])) for index in known]
    ends = relax_all(starts, potential, settings, gentle_steps=gentle)
    for index, kept, back in zip(known, relax_all([cells[index] for index in known], potential, settings), ends, strict=True):
        relaxed, line = kept.cell.to_structure(), lines[index]
        line |= {"kept": kept.outcome, "back": back.outcome, "difference": back.energy_per_atom - kept.energy_per_atom}
        line |= {"evaluations": back.evaluations, "ended": back.reason, "kept as published": _same(kept, published[index])}
        for reading, other in zip(READINGS, (published[index], relaxed), strict=True):
            line |= {reading: _same(back, other), f"{reading}, reduced": _same(back, other, reduced=True)}
        for amplitude in STIRRED if control else ():
            start = stirred(kept.cell, rng(seed, 0, "benchmark/stir", numbers[index]), amplitude)
            line[f"stays after {amplitude} Å"] = _same(relax_all([start], potential, STRICT)[0], relaxed)
    return lines


def _symbols(cell: SymmetricCell) -> set[str]:
    return {ELEMENTS[number - 1] for number in cell.numbers}


def _cell(structure: dict[str, Any]) -> SymmetricCell:
    return SymmetricCell.from_arrays(structure["lattice"], structure["positions"], structure["numbers"], symprec=0.01)


def _disturbed(cell: SymmetricCell, generator: np.random.Generator) -> SymmetricCell:
    free = cell.without_symmetry()
    strain = generator.uniform(-STRAIN, STRAIN, size=(3, 3))
    lattice = free.lattice @ (np.eye(3) + (strain + strain.T) / 2)
    moves = generator.normal(scale=RATTLE, size=free.positions.shape)
    return replace(free, lattice=lattice, positions=free.positions + moves @ np.linalg.inv(lattice))


def _same(ended: Relaxed, other: Any, reduced: bool = False) -> bool:
    """Whether StructureMatcher fits them, reduced to primitive cells or (unless ``reduced``) as they are."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    end = ended.cell.to_structure()
    return bool(StructureMatcher().fit(end, other) or (not reduced and StructureMatcher(primitive_cell=False).fit(end, other)))


def _table(potential: str, lines: list[dict[str, Any]]) -> None:
    count = len(lines)
    atoms, cost = (np.mean([line[key] for line in lines]) for key in ("atoms", "cpu_s"))
    typer.echo(f"{potential}: {count} structures of {atoms:.1f} atoms on average, {cost:.2f} CPU-s each")
    relaxed = np.array([line["kept"] == line["back"] == "converged" for line in lines])
    for reading in READINGS:
        same = np.array([line[reading] for line in lines])
        alone = np.mean([line.get(f"{reading}, reduced", False) for line in lines])
        error = np.sqrt(same.mean() * (1 - same.mean()) / count)
        among = f"among those converged: {same[relaxed].mean():.3f}; by the comparison of reduced cells alone: {alone:.3f}"
        typer.echo(f"the same structure {reading}: {same.mean():.3f} +- {error:.3f}; {among}")
    typer.echo(f"converged both times: {relaxed.mean():.3f}")
    unmoved = np.mean([line.get("kept as published", False) for line in lines])
    typer.echo(f"relaxed with its symmetry the same as published: {unmoved:.3f}")
    keys = [f"stays after {amplitude} Å" for amplitude in STIRRED]
    minimum = np.array([all(line[key] for key in keys) if keys[0] in line else True for line in lines])
    if not minimum.all():
        same = np.array([line["as relaxed"] for line in lines])
        typer.echo(
            f"minima of the potential (stay when stirred by {STIRRED} Å): {minimum.mean():.3f}; of these back: {same[minimum].mean():.3f}"
        )
    for line, one in zip(lines, minimum, strict=True):
        if not (line["as published"] and line["as relaxed"]):
            lost = " and ".join(reading for reading in READINGS if not line[reading])
            own = "" if one else ", no minimum of the potential"
            ends = f"{line['kept']}/{line['back']}, {1e3 * line['difference']:+.1f} meV/atom"
            typer.echo(f"  {line['formula']} ({line['atoms']} atoms{own}): not {lost}; {ends}")


if __name__ == "__main__":
    typer.run(main)
