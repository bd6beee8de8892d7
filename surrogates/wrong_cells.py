"""Energies of wrong cells: what a potential says when a relaxed crystal is squeezed, stretched or sheared.

``python -m surrogates.wrong_cells OUTPUT.jsonl --energies MODULE:FUNCTION`` reads ``structures/*.jsonl.gz`` and
``seed_crystals.parquet`` of the development data, deforms each chosen crystal within its crystal system, and appends one line per
crystal: its atoms move along with the cell. A prediction means *atoms at rest in the stated cell*; in another shape atoms that move
along cost far too much, so ``--at-rest MODULE:FUNCTION`` goes over the crystals once more and appends a line in which the other
shapes have the energy of atoms that came to rest in them. Only such shapes are trained on. Killed and started again the
command goes on with the first crystal that is missing. Both functions take a list of pymatgen structures and return eV per atom.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from al_crystal.crystal import ELEMENTS, LATTICE_PARAMETERS
from al_crystal.seeds import rng

if TYPE_CHECKING:
    from pymatgen.core import Structure

TEST_VOLUMES = (0.5, 0.7, 0.85, 0.93, 1.0, 1.15, 1.4, 2.0)
"""Volumes of the test curves, relative to the relaxed volume."""
FREE_PARAMETERS = {
    "triclinic": ((0,), (1,), (2,), (3,), (4,), (5,)),
    "monoclinic": ((0,), (1,), (2,), (4,)),
    "orthorhombic": ((0,), (1,), (2,)),
    "tetragonal": ((0, 1), (2,)),
    "trigonal": ((0, 1), (2,)),
    "hexagonal": ((0, 1), (2,)),
    "cubic": ((0, 1, 2),),
}
"""Lattice parameters (by index) that may change, tied ones together; hexagonal axes for the trigonal system."""

EnergyFunction = Callable[[Sequence["Structure"]], np.ndarray]


def scaled(parameters: np.ndarray, volume: float) -> np.ndarray:
    """Lattice parameters (a, b, c in Å, angles in degrees) of the cell with ``volume`` times the volume and the same shape."""
    return np.concatenate([parameters[:3] * volume ** (1 / 3), parameters[3:]])


def sheared(parameters: np.ndarray, crystal_system: str, size: float, generator: np.random.Generator) -> np.ndarray | None:
    """The cell with another shape and the same volume: lengths changed by factors of about exp(size), angles by about 30 size degrees.

    Returns:
        ``(6,)`` lattice parameters, or None where the system has one shape only (cubic) or the angles close no cell.
    """
    from al_crystal.crystal import cell_volume

    free = FREE_PARAMETERS[crystal_system]
    if len(free) == 1:
        return None
    new = parameters.copy()
    for tied in free:
        change = generator.normal() * size
        for index in tied:
            new[index] = new[index] * np.exp(change) if index < 3 else new[index] + 30 * change
    before, after = cell_volume(parameters.tolist()), cell_volume(new.tolist())
    if after < 0.05 * np.prod(new[:3]) or not 30 < new[3:].min() <= new[3:].max() < 150:
        return None
    return scaled(new, before / after)


def wrong_cells(parameters: np.ndarray, crystal_system: str, test: bool, generator: np.random.Generator) -> list[np.ndarray]:
    """The cells to label for one crystal; the first is the relaxed cell itself.

    Test crystals get :data:`TEST_VOLUMES` and three shapes; the others random volumes (0.3 to 3 times, log-uniform), random shapes,
    and both at once.
    """
    shapes = [sheared(parameters, crystal_system, size, generator) for size in (0.08, 0.2, 0.4)]
    if test:
        cells = [scaled(parameters, volume) for volume in TEST_VOLUMES if volume != 1] + shapes
    else:
        near = [scaled(parameters, float(np.exp(generator.uniform(-0.35, 0.35)))) for _ in range(3)]
        far = [scaled(parameters, float(np.exp(generator.uniform(np.log(0.3), np.log(3.0))))) for _ in range(3)]
        mixed = [None if cell is None else scaled(cell, float(np.exp(generator.normal() * 0.3))) for cell in shapes]
        cells = near + far + shapes + mixed
    return [parameters, *(cell for cell in cells if cell is not None)]


def deformed(structure: Structure, cells: Sequence[np.ndarray]) -> tuple[list[Structure], int]:
    """The primitive cell of a crystal in each of the given conventional cells, fractional coordinates unchanged.

    Returns:
        the structures, and the space group that spglib finds.
    """
    import spglib
    from pymatgen.core import Lattice, Structure

    cell: Any = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    dataset: Any = spglib.get_symmetry_dataset(cell, symprec=0.01)
    standardised: Any = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=0.01)
    primitive, coordinates, numbers = standardised
    species = [ELEMENTS[number - 1] for number in numbers]
    inverse = np.linalg.inv(dataset.std_lattice)
    targets = [Lattice.from_parameters(*parameters).matrix for parameters in cells]
    return [Structure(primitive @ inverse @ target, species, coordinates) for target in targets], int(dataset.number)


def candidates(data: Path, train: int, calibration: int, test: int, largest: int) -> list[dict[str, Any]]:
    """Crystals to deform, among the seed rows with a structure.

    Folds 0-1 are test, drawn as they come, whatever their size. Fold 2 calibrates and the rest trains: of at most ``largest`` atoms, half
    of them within the 22 elements. WBM and JARVIS rows are left out (kept apart, another level of theory).
    """
    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    frame = frame[frame["has_structure"] & (frame["cell_setting"] == "spglib")]
    frame = frame[~frame["source"].isin(["wbm_val10k", "jarvis_dft_2500"])].drop_duplicates(["formula", "space_group_number"])
    chosen = [frame[frame["fold"] < 2].sample(frac=1.0, random_state=0)[:test]]
    frame = frame[frame["n_atoms_prim"] <= largest]
    for folds, number in (((2,), calibration), (tuple(range(3, 10)), train)):
        part = frame[frame["fold"].isin(folds)].sample(frac=1.0, random_state=np.random.default_rng(len(folds)))
        inside, outside = part[part["in_22el"]], part[~part["in_22el"]]
        chosen += [inside[: number // 2], outside[: number - min(number // 2, len(inside))]]
    return pd.concat(chosen).to_dict("records")


def read_structures(data: Path, keys: set[tuple[str, str]]) -> dict[tuple[str, str], Structure]:
    """The published structures of the given (source, source_id)."""
    from pymatgen.core import Lattice, Structure

    found = {}
    for file in sorted((data / "structures").glob("*.jsonl.gz")):
        with gzip.open(file, "rt") as lines:
            for line in lines:
                row = json.loads(line)
                if (key := (row["src"], row["id"])) in keys:
                    found[key] = Structure(Lattice.from_parameters(*row["lat"]), row["sp"], row["fc"])
    return found


def label(row: dict[str, Any], structure: Structure, energies: EnergyFunction, crystal_system: str) -> dict[str, Any] | None:
    """One line of the output: cells of one crystal and their energies above the relaxed one, eV/atom; None if spglib disagrees."""
    parameters = np.array([row[name] for name in LATTICE_PARAMETERS])
    number = int.from_bytes(str(row["source_id"]).encode(), "big") % 2**32
    cells = wrong_cells(parameters, crystal_system, row["fold"] < 2, rng(0, 0, "wrong cells", number))
    structures, space_group = deformed(structure, cells)
    if space_group != row["space_group_number"]:
        return None
    values = energies(structures)
    return {
        "source": row["source"],
        "source_id": row["source_id"],
        "fold": int(row["fold"]),
        "in_22el": bool(row["in_22el"]),
        "space_group_number": space_group,
        "composition": json.loads(row["composition"]),
        "cells": [[round(float(value), 5) for value in cell] for cell in cells],
        "strain_energy_per_atom": [round(float(value), 5) for value in values - values[0]],
        "at_rest": False,
    }


def other_shapes(cells: np.ndarray) -> np.ndarray:
    """``(n,)`` booleans: which cells are not merely the first one at another volume (relative lengths or angles changed)."""
    lengths = cells[:, :3] / cells[:, :3].prod(axis=1, keepdims=True) ** (1 / 3)
    shapes = np.concatenate([lengths, cells[:, 3:] / 90], axis=1)
    return np.abs(shapes - shapes[0]).max(axis=1) > 1e-4


def at_rest(line: dict[str, Any], structure: Structure, energies: EnergyFunction) -> dict[str, Any]:
    """The line with the energies of the other shapes replaced by those of atoms at rest; a cell without one (NaN) is left out."""
    cells = np.array(line["cells"])
    shapes = other_shapes(cells)
    values = np.array(line["strain_energy_per_atom"])
    if shapes.any():
        structures, _ = deformed(structure, [cells[0], *cells[shapes]])
        found = energies(structures)
        values[shapes] = found[1:] - found[0]
    kept = np.isfinite(values)
    return line | {
        "cells": [cell for cell, keep in zip(line["cells"], kept, strict=True) if keep],
        "strain_energy_per_atom": [round(float(value), 5) for value in values[kept]],
        "at_rest": True,
    }


def load_function(path: str) -> Callable[..., Any]:
    """The function at an import path ``module:function``.

    Raises:
        ValueError: when the path has no colon or names nothing.
    """
    module, _, name = path.partition(":")
    function = getattr(importlib.import_module(module), name, None) if name else None
    if function is None:
        raise ValueError(f"{path!r} names no function; give MODULE:FUNCTION")
    return function


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The finished lines of an output file, of each crystal the last; a torn last line (a kill in the middle of a write) is left out."""
    if not file.exists():
        return
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for text in file.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        lines[line["source"], line["source_id"]] = line
    yield from lines.values()


def append(output: Path, lines: Iterator[dict[str, Any] | None]) -> int:
    """Append each line as it comes, after what is whole in the file; returns how many were None (refused)."""
    output.write_text("".join(json.dumps(line) + "\n" for line in read(output)))
    refused = 0
    with output.open("a") as file:
        for line in lines:
            if line is None:
                refused += 1
                continue
            file.write(json.dumps(line) + "\n")
            file.flush()
    return refused


def main(
    output: Annotated[Path, typer.Argument(help="file to append to, one JSON line a crystal")],
    energies: Annotated[str, typer.Option(help="energy function MODULE:FUNCTION, structures -> eV/atom")],
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    rest: Annotated[str | None, typer.Option("--at-rest", help="MODULE:FUNCTION, the same with the atoms at rest in the cell")] = None,
    train: Annotated[int, typer.Option(help="crystals of folds 3-9")] = 2500,
    calibration: Annotated[int, typer.Option(help="crystals of fold 2")] = 300,
    test: Annotated[int, typer.Option(help="crystals of folds 0-1, drawn as they come; the default takes all")] = 10_000,
    largest: Annotated[int, typer.Option(help="most atoms in the primitive cell of crystals of the other folds")] = 16,
    limit: Annotated[float, typer.Option(help="stop after so many CPU minutes (call again to go on)")] = float("inf"),
) -> None:
    """Label wrong cells of relaxed crystals with a potential."""
    from surrogates.features import space_groups

    function, systems = load_function(energies), space_groups()
    done = {(line["source"], line["source_id"]) for line in read(output)}
    rows = [row for row in candidates(data, train, calibration, test, largest) if (row["source"], row["source_id"]) not in done]
    structures = read_structures(data, {(row["source"], row["source_id"]) for row in rows} | (done if rest else set()))
    start = time.process_time()

    def in_time(items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return itertools.takewhile(lambda _: time.process_time() - start < 60 * limit, items)

    def labelled(row: dict[str, Any]) -> dict[str, Any] | None:
        system = systems[int(row["space_group_number"])]["crystal_system"]
        return label(row, structures[row["source"], row["source_id"]], function, system)

    shuffled = np.random.default_rng(0).permutation(np.array(rows, dtype=object))
    refused = append(output, (labelled(row) for row in in_time(shuffled)))
    labelled_now = sum((line["source"], line["source_id"]) not in done for line in read(output))
    typer.echo(f"{labelled_now} crystals labelled, {refused} left out because spglib finds another space group, {len(done)} kept")
    if rest:
        second = load_function(rest)
        waiting = [line for line in read(output) if not line.get("at_rest")]
        append(output, (at_rest(line, structures[line["source"], line["source_id"]], second) for line in in_time(waiting)))
        typer.echo(f"{sum(bool(line.get('at_rest')) for line in read(output))} crystals have their other shapes with atoms at rest")


if __name__ == "__main__":
    typer.run(main)
