"""Structures with their DFT labels, and a resumable cache of what a potential says of each.

``python -m oracles.training.structures --potential M3GNet --cache FOLDER`` fills the cache (about half an hour of one core for
M3GNet); started again, it goes on where it stopped.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from oracles.potentials import Potential

TEST_FOLDS = (0, 1)
OTHER_FUNCTIONAL = "jarvis_dft_2500"  # OptB88vdW: another level of theory, neither trained nor tested on
MP2018_SOURCES = ("wbm_val10k",)  # sources whose own formation energies are on the scale of 2018, besides all joined from MatBench
LARGEST = 60  # atoms; the few hundred larger cells would take a fifth of the time
CHUNK = 256


def labelled_crystals(data_folder: Path) -> pd.DataFrame:
    """The rows of ``seed_crystals.parquet`` at PBE(+U), with ``id``, a ``composition`` of counts and the ``scale`` of the energies."""
    import pandas as pd

    from oracles.materials_project import MP2018, MP2020

    table = pd.read_parquet(data_folder / "seed_crystals.parquet")
    table = table[table["source"] != OTHER_FUNCTIONAL].reset_index(drop=True)
    table["id"] = table["source"].astype(str) + "|" + table["source_id"]
    table["composition"] = [json.loads(counts) for counts in table["composition"]]
    older = table["source"].isin(MP2018_SOURCES) | (table["ef_src"] == "matbench_join")
    table["scale"] = np.where(older, MP2018, MP2020)
    table["held_out"] = table["fold"].isin(TEST_FOLDS)
    return table


def structure_rows(data_folder: Path, largest: int = LARGEST) -> list[dict[str, Any]]:
    """The published structures of up to ``largest`` atoms, sorted by size: ``src, id, lat, sp, fc``."""
    rows = []
    for file in sorted((data_folder / "structures").glob("*.jsonl.gz")):
        if file.name.startswith(OTHER_FUNCTIONAL):
            continue
        with gzip.open(file, "rt") as lines:
            rows += [row for row in map(json.loads, lines) if len(row["sp"]) <= largest]
    return sorted(rows, key=lambda row: len(row["sp"]))


def to_structure(row: dict[str, Any]) -> Structure:
    """The pymatgen structure of a row."""
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice.from_parameters(*row["lat"]), row["sp"], row["fc"])


def fill_cache(potential: Potential, rows: list[dict[str, Any]], cache: Path, features: bool = True) -> Iterator[int]:
    """Write one file per :data:`CHUNK` structures with energies and, if asked, atom features; yields how many structures are done."""
    from oracles.symmetric_cell import SymmetricCell

    cache.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(rows), CHUNK):
        file = cache / f"{start // CHUNK:04d}.npz"
        if not file.exists():
            chunk = rows[start : start + CHUNK]
            structures = [to_structure(row) for row in chunk]
            cells = [SymmetricCell.from_structure(structure, symprec=None) for structure in structures]
            content = {
                "ids": np.array([f"{row['src']}|{row['id']}" for row in chunk]),
                "energy": potential.evaluate_cells(cells, derivatives=False).energies,
                "atoms": np.array([len(structure) for structure in structures]),
            }
            if features:
                content["features"] = np.concatenate(potential.atom_features(structures)).astype(np.float16)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, **content)  # type: ignore[arg-type]
            partial.rename(file)
        yield min(start + CHUNK, len(rows))


def read_energies(cache: Path) -> pd.DataFrame:
    """The cached energies: ``id`` and ``energy_per_atom`` (eV/atom, raw)."""
    import pandas as pd

    parts = []
    for file in sorted(cache.glob("[0-9][0-9][0-9][0-9].npz")):
        with np.load(file) as chunk:
            parts.append(pd.DataFrame({"id": chunk["ids"], "energy_per_atom": chunk["energy"] / chunk["atoms"]}))
    if not parts:
        raise FileNotFoundError(f"{cache} holds no cached energies; fill it: python -m oracles.training.structures --cache {cache}")
    return pd.concat(parts, ignore_index=True)


def read_features(cache: Path) -> Iterator[tuple[str, np.ndarray]]:
    """``id`` and ``(atoms, width)`` float32 features of each cached structure."""
    for file in sorted(cache.glob("[0-9][0-9][0-9][0-9].npz")):
        with np.load(file) as chunk:
            features = np.split(chunk["features"].astype(np.float32), np.cumsum(chunk["atoms"])[:-1])
            yield from zip(chunk["ids"].tolist(), features, strict=True)


def main(
    cache: Annotated[Path, typer.Option(help="folder to fill")],
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="any that oracles.potentials.resolve knows")] = "M3GNet",
    share: Annotated[float, typer.Option(help="part of the structures, drawn at random", min=0.01, max=1.0)] = 1.0,
    largest: Annotated[int, typer.Option(help="atoms of the largest structure", min=1)] = LARGEST,
    features: Annotated[bool, typer.Option(help="atom features, which a band-gap head reads")] = True,
) -> None:
    """Cache a potential's energies and atom features of the labelled structures."""
    import torch

    from al_crystal.seeds import rng
    from oracles.potentials import load, resolve

    torch.set_num_threads(1)
    rows = structure_rows(data, largest)
    chosen = rng(0, 0, "training/structures").random(len(rows)) < share
    rows = [row for row, taken in zip(rows, chosen, strict=True) if taken]
    for done in fill_cache(load(resolve(potential)), rows, cache, features):
        typer.echo(f"{done} of {len(rows)} structures")


if __name__ == "__main__":
    typer.run(main)
