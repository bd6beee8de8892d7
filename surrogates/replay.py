"""Crystals of our own making on which a fine-tuned network is held to what it said before.

They are made, not copied: a space group and a pattern of counts are drawn, every place in the pattern gets an element like the one that
was there, and a random cell gets the volume that the element volumes suggest, strained. ``python -m surrogates.replay`` writes
``surrogates/pretrained/replay.parquet`` in al-crystal's columns; no label is shipped, each network supplies its own.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.crystal import ATOMIC_NUMBER, LATTICE_PARAMETERS, element_volumes, expected_volume_per_atom
from al_crystal.seeds import rng
from surrogates.features import Rows, space_groups

FILE = Path(__file__).parent / "pretrained" / "replay.parquet"


@cache
def replay_rows() -> Rows:
    """The shipped replay crystals.

    Raises:
        FileNotFoundError: when the file is missing.
    """
    import pandas as pd

    if not FILE.exists():
        raise FileNotFoundError(f"{FILE} is missing; make it with python -m surrogates.replay")
    frame = pd.read_parquet(FILE)
    compositions = [{ATOMIC_NUMBER[symbol]: count for symbol, count in json.loads(text).items()} for text in frame["composition"]]
    return Rows.from_compositions(compositions, frame["space_group_number"].to_numpy(), frame[list(LATTICE_PARAMETERS)].to_numpy(float))


def random_cell(crystal_system: str, volume: float, generator: np.random.Generator) -> np.ndarray:
    """Lattice parameters ``(6,)`` of a cell of that system and volume (Å3) with log-normal axial ratios and angles about 90 degrees."""
    from al_crystal.crystal import cell_volume

    ratios = np.exp(generator.normal(size=3) * 0.3)
    angles = np.array([90.0, 90.0, 90.0])
    if crystal_system == "cubic":
        ratios[:] = 1
    elif crystal_system in ("tetragonal", "trigonal", "hexagonal"):
        ratios[1] = ratios[0]
        angles[2] = 90.0 if crystal_system == "tetragonal" else 120.0
    elif crystal_system == "monoclinic":
        angles[1] = 90 + abs(generator.normal()) * 15
    elif crystal_system == "triclinic":
        angles = 90 + generator.normal(size=3).clip(-1.5, 1.5) * 12
    scale = (volume / cell_volume([*ratios.tolist(), *angles.tolist()])) ** (1 / 3)
    return np.concatenate([ratios * scale, angles])


def substitutes(width: int = 4) -> dict[str, list[str]]:
    """For each element the ``width`` on either side of it by Mendeleev number (chemically alike), itself among them."""
    from surrogates.features import element_facts

    facts = element_facts()
    order = sorted((symbol for symbol in element_volumes() if symbol in facts), key=lambda symbol: facts[symbol]["mendeleev_number"] or 0.0)
    return {symbol: order[max(0, place - width) : place + width + 1] for place, symbol in enumerate(order)}


def draw(pattern: tuple[int, dict[str, int]], alike: dict[str, list[str]], generator: np.random.Generator) -> dict[str, Any] | None:
    """One replay crystal: like a known (space group, composition), with other elements in every place, in a strained random cell.

    None where two places got the same element.
    """
    group, counts = pattern
    symbols = [str(generator.choice(alike[symbol])) for symbol in counts]
    if len(set(symbols)) < len(symbols):
        return None
    composition = dict(zip(symbols, counts.values(), strict=True))
    volume = expected_volume_per_atom(composition) * sum(counts.values()) * float(np.exp(generator.normal() * 0.25))
    cell = random_cell(space_groups()[group]["crystal_system"], volume, generator)
    return {
        "space_group_number": group,
        "composition": json.dumps(composition),
        **{name: np.float32(round(float(value), 3)) for name, value in zip(LATTICE_PARAMETERS, cell, strict=True)},
    }


def main(
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data: which patterns and elements occur")],
    number: Annotated[int, typer.Option(help="crystals to make")] = 12_000,
    seed: Annotated[int, typer.Option(help="seed")] = 0,
) -> None:
    """Write the replay sample: patterns are taken from the development data (folds 3-9), elements and cells are new."""
    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet", columns=["space_group_number", "composition", "fold"])
    frame = frame[frame["fold"] >= 3]
    alike, generator = substitutes(), rng(seed, 0, "replay")
    patterns = [(int(group), json.loads(text)) for group, text in zip(frame["space_group_number"], frame["composition"], strict=True)]
    patterns = [pattern for pattern in patterns if set(pattern[1]) <= set(alike)]
    rows: list[dict[str, Any]] = []
    while len(rows) < number:
        row = draw(patterns[generator.integers(len(patterns))], alike, generator)
        rows += [row] if row else []
    FILE.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(FILE, index=False, compression="zstd")
    typer.echo(f"{number} crystals, {FILE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
