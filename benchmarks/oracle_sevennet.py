"""SevenNet: our evaluation against its own ASE calculator, in agreement and CPU time.

``python benchmarks/oracle_sevennet.py --potential SevenNet-l3i5`` takes 16 real structures of up to 20 atoms, stirred by 0.1 Å, and
evaluates energies, forces and stresses three times: by the calculator, one structure at a time, as it must;
by ours, one at a time; and by ours, all in one call. Needs ``pip install 'al-crystal[sevennet]'``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.seeds import rng
from oracles.fit_positions import conventional, read_rows
from oracles.potentials import load, resolve
from oracles.symmetric_cell import SymmetricCell, stirred

ATOMS = 20


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="SevenNet-0 or SevenNet-l3i5")] = "SevenNet-l3i5",
    count: Annotated[int, typer.Option(help="structures")] = 16,
    repeats: Annotated[int, typer.Option(help="the least time of so many counts")] = 2,
) -> None:
    """Measure agreement and speed."""
    import torch
    from pymatgen.io.ase import AseAtomsAdaptor
    from sevenn.calculator import SevenNetCalculator

    torch.set_num_threads(1)
    ours = load(resolve(potential))
    calculator = SevenNetCalculator(ours.record.source, device="cpu")
    structures = [stirred(cell, rng(0, 0, "benchmark/stir", index), 0.1).to_structure() for index, cell in enumerate(_cells(data, count))]

    def theirs() -> list[tuple[Any, ...]]:
        results = []
        for structure in structures:
            atoms = AseAtomsAdaptor.get_atoms(structure)
            atoms.calc = calculator
            results.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)))
        return results

    expected, plain = _timed(theirs, repeats)
    _, alone = _timed(lambda: [ours.evaluate([structure]) for structure in structures], repeats)
    found, together = _timed(lambda: ours.evaluate(structures), repeats)
    sizes = [len(structure) for structure in structures]
    typer.echo(f"{potential}: {count} structures of {np.mean(sizes):.1f} atoms, up to {max(sizes)}; CPU-ms each")
    typer.echo(f"  its calculator {1e3 * plain / count:.0f}; ours alone {1e3 * alone / count:.0f} (x {plain / alone:.2f})")
    typer.echo(f"  ours together {1e3 * together / count:.0f} (x {plain / together:.2f})")
    energies, forces, stresses = zip(*expected, strict=True)
    typer.echo(
        f"  largest differences: energy {np.abs((found.energies - np.array(energies)) / sizes).max():.1e} eV/atom, "
        f"force {max(np.abs(one - other).max() for one, other in zip(found.forces, forces, strict=True)):.1e} eV/Å, "
        f"stress {np.abs(found.stresses - np.array(stresses)).max():.1e} eV/Å3"
    )


def _cells(data: Path, count: int) -> list[SymmetricCell]:
    rows = [row for row in read_rows(data / "structures", frozenset(range(10))) if 2 <= len(row["sp"]) <= ATOMS]
    drawn = (conventional(rows[index]) for index in rng(0, 0, "benchmark/recovery").permutation(len(rows)))
    cells = (SymmetricCell.from_arrays(one["lattice"], one["positions"], one["numbers"], symprec=0.01) for one in drawn if one is not None)
    return list(islice((cell for cell in cells if cell.number_of_atoms <= ATOMS), count))


def _timed(task: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    times = []
    for _ in range(repeats + 1):  # the first one compiles
        start = time.process_time()
        result = task()
        times.append(time.process_time() - start)
    return result, min(times[1:])


if __name__ == "__main__":
    typer.run(main)
