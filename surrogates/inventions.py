"""Crystals that nobody has made, with energies: known structures whose elements are exchanged for similar ones, and relaxed.

``python -m surrogates.inventions OUTPUT.jsonl --relax MODULE:FUNCTION`` draws a known structure, exchanges each of its elements for one
near to it on Pettifor's scale (J. Phys. C 19, 285 (1986)), keeps chemical systems of the fold that calibrates, scales the cell to the
new elements and relaxes it. Tables hold what was found to exist or worth computing; what a sampler proposes is not chosen like that, and
an ensemble errs more about it. The uncertainty is calibrated on these crystals (:mod:`surrogates.calibration`).

The function takes a list of pymatgen structures and returns for each the relaxed crystal and its formation energy (a
:class:`al_crystal.crystal.Value`), or None where it has none. Killed and started again the command goes on behind the last line.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from al_crystal.crystal import ATOMIC_NUMBER, LATTICE_PARAMETERS, Crystal, Value, element_volumes
from al_crystal.seeds import rng
from surrogates.features import Rows, element_facts
from surrogates.tables import CALIBRATION_FOLDS, KEPT_APART, PROPERTIES, TEST_FOLDS, Table, fold_of
from surrogates.wrong_cells import append, load_function, read, read_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

SIMILARITY = 8.0
"""An element is exchanged for one this far away on Pettifor's scale e times less often than for itself."""
LARGEST = 16
"""Most atoms in the primitive cell of a parent."""
BATCH = 24

Relax = Callable[[Sequence["Structure"]], Sequence[tuple[Crystal, Value] | None]]


def exchanged(structure: Structure, scale: dict[str, float], generator: np.random.Generator) -> Structure | None:
    """The structure with each element exchanged for another or itself, in a cell scaled to the new elements' volumes.

    ``scale`` holds the positions on Pettifor's scale of the elements to choose from. None where nothing changed.
    """
    from pymatgen.core import Lattice, Structure

    symbols = np.array(list(scale))
    positions = np.array(list(scale.values()))
    new: dict[str, str] = {}
    for element in sorted({site.specie.symbol for site in structure}):
        weight = np.exp(-np.abs(positions - scale[element]) / SIMILARITY) * ~np.isin(symbols, list(new.values()))
        new[element] = str(generator.choice(symbols, p=weight / weight.sum()))
    if all(before == after for before, after in new.items()):
        return None
    volumes, old = element_volumes(), [site.specie.symbol for site in structure]
    species = [new[symbol] for symbol in old]
    factor = sum(volumes[symbol] for symbol in species) / sum(volumes[symbol] for symbol in old)
    return Structure(Lattice(structure.lattice.matrix * factor ** (1 / 3)), species, structure.frac_coords)


def parents(data: Path) -> tuple[list[Structure], dict[str, float]]:
    """Known structures outside the test folds, and the positions on Pettifor's scale of the elements that occur in the data."""
    import json

    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    frame = frame[~frame["source"].isin(KEPT_APART)]
    present = sorted({symbol for text in frame["composition"] for symbol in json.loads(text)})
    frame = frame[frame["has_structure"] & (frame["n_atoms_prim"] <= LARGEST) & ~frame["fold"].isin(TEST_FOLDS)]
    frame = frame.drop_duplicates(["formula", "space_group_number"])
    keys = list(zip(frame["source"], frame["source_id"], strict=True))
    found = read_structures(data, set(keys))
    positions = {symbol: element_facts()[symbol]["pettifor_number"] for symbol in present}
    scale = {symbol: float(position) for symbol, position in positions.items() if position is not None}
    known = [found[key] for key in keys if all(element.symbol in scale for element in found[key].composition.elements)]
    return known, scale


def inventions(known: Sequence[Structure], scale: dict[str, float], first: int) -> Iterator[tuple[int, Structure]]:
    """Endless numbered inventions of the calibration fold, from draw ``first``; the same for the same number."""
    for number in itertools.count(first):
        generator = rng(0, number, "inventions")
        child = exchanged(known[int(generator.integers(len(known)))], scale, generator)
        if child is not None and fold_of({site.specie.symbol for site in child}) in CALIBRATION_FOLDS:
            yield number, child


def labelled(drawn: Iterator[tuple[int, Structure]], relax: Relax) -> Iterator[dict[str, Any] | None]:
    """A line for each invention that has an energy, None for the others; BATCH of them are relaxed together."""
    while batch := list(itertools.islice(drawn, BATCH)):
        for (number, _), found in zip(batch, relax([child for _, child in batch]), strict=True):
            yield None if found is None else line_of(number, *found)


def line_of(number: int, crystal: Crystal, energy: Value) -> dict[str, Any]:
    """What the output says of an invention."""
    return {
        "source": "invention",
        "source_id": str(number),
        "space_group_number": crystal.space_group,
        "composition": crystal.composition,
        **{name: round(value, 5) for name, value in zip(LATTICE_PARAMETERS, crystal.lattice_parameters, strict=True)},
        PROPERTIES[0]: round(energy.value, 5),
        "standard_deviation": round(energy.standard_deviation or 0.0, 4),
        "level_of_theory": energy.level_of_theory,
    }


def invention_table(file: Path) -> Table:
    """The output of the command as rows; the noise of a label is the deviation that the potential states.

    Raises:
        ValueError: where the file holds none.
    """
    lines = list(read(file))
    if not lines:
        raise ValueError(f"no inventions in {file}; make them with python -m surrogates.inventions {file} --relax MODULE:FUNCTION")
    compositions = [{ATOMIC_NUMBER[symbol]: count for symbol, count in line["composition"].items()} for line in lines]
    cells = np.array([[line[name] for name in LATTICE_PARAMETERS] for line in lines])
    rows = Rows.from_compositions(compositions, [line["space_group_number"] for line in lines], cells)
    energies = torch.tensor([line[PROPERTIES[0]] for line in lines])
    noise = torch.tensor([line["standard_deviation"] for line in lines])
    unknown = torch.full_like(energies, torch.nan)
    nothing = torch.zeros(len(lines), 2, dtype=torch.int64)
    columns = {"fold": np.array([fold_of(line["composition"]) for line in lines])}
    return Table(
        rows, torch.stack([energies, unknown], 1), torch.stack([noise, 0 * noise], 1), nothing[:, 0].clone(), nothing, columns=columns
    )


def main(
    output: Annotated[Path, typer.Argument(help="file to append to, one JSON line a crystal")],
    relax: Annotated[str, typer.Option(help="MODULE:FUNCTION, structures -> relaxed crystals with formation energies")],
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    number: Annotated[int, typer.Option(help="crystals in the end")] = 10_000,
    limit: Annotated[float, typer.Option(help="stop after so many CPU minutes (call again to go on)")] = float("inf"),
) -> None:
    """Invent and label crystals to calibrate uncertainty with."""
    function: Relax = load_function(relax)
    lines = list(read(output))
    last = max((int(line["source_id"]) for line in lines), default=-1)
    start, missing = time.process_time(), number - len(lines)

    def wanted(found: Iterator[dict[str, Any] | None]) -> Iterator[dict[str, Any] | None]:
        have = 0
        while have < missing and time.process_time() - start < 60 * limit:
            line = next(found)
            have += line is not None
            yield line

    refused = append(output, wanted(labelled(inventions(*parents(data), last + 1), function))) if missing > 0 else 0
    done = sum(1 for _ in read(output))
    typer.echo(f"{done} inventions in {output}, {refused} more came to no rest, {time.process_time() - start:.0f} CPU s")


if __name__ == "__main__":
    typer.run(main)
