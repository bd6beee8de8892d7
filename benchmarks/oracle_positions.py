"""Structure prediction: known cells with their atoms forgotten, found again by the search that labels candidates.

``python benchmarks/oracle_positions.py`` draws 100 known crystals of 4 to 24 atoms in the conventional cell from folds 0 and 1 (the
search knows nothing of them), hands over space group, composition and lattice alone, and compares the energy found with that of the
real structure relaxed by the same potential. A hit is within 20 meV/atom, or lower. Efforts trace success against cost. Interrupted,
it goes on where it was: every crystal is a line of the output.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.crystal import Crystal
from al_crystal.seeds import rng
from oracles.fit_positions import conventional, read_rows
from oracles.labelling import crystal_of
from oracles.positions import NoPositions
from oracles.potentials import Potential, load, resolve
from oracles.relaxation import relax_all
from oracles.search import agreeing, search
from oracles.settings import Heat, PositionSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

RESULTS = Path("benchmarks/results/oracle_positions.jsonl")
HIT = 0.020  # eV/atom
SAME = 0.002  # eV/atom: taken to be the same arrangement
EFFORTS = {
    "quick": PositionSettings(candidates=100, ways=60, heats=(Heat(runners=16, steps=5), Heat(runners=6, steps=10)), relaxed=2),
    "default": PositionSettings(),
    "thorough": PositionSettings(candidates=2000, ways=600, heats=(Heat(runners=200, steps=6), Heat(runners=60, steps=10)), relaxed=12),
}


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    count: Annotated[int, typer.Option(help="crystals")] = 100,
    effort: Annotated[list[str], typer.Option(help=", ".join(EFFORTS))] = ["quick", "default"],  # noqa: B006
    seed: Annotated[int, typer.Option(help="which crystals, and the search's draws")] = 0,
    output: Annotated[Path, typer.Option(help="one line of JSON per crystal and effort")] = RESULTS,
) -> None:
    """Measure how often the search finds the real structure, or better, and what it costs."""
    import torch

    torch.set_num_threads(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    known = {(line["id"], line["effort"], line["seed"]) for line in done}
    potential = load(resolve("M3GNet"))
    for structure in _known_crystals(data, count, seed):
        missing = [name for name in effort if (structure["id"], name, seed) not in known]
        if not missing:
            continue
        cell = SymmetricCell.from_arrays(structure["lattice"], structure["positions"], structure["numbers"], symprec=0.01)
        crystal = crystal_of(cell.to_structure(), 0.01)
        real = relax_all([cell], potential, RelaxationSettings())[0].energy_per_atom
        for name in missing:
            line = {"id": structure["id"], "effort": name, "seed": seed, "formula": crystal.formula, "group": crystal.space_group}
            line |= {"atoms": crystal.number_of_atoms, "real": real, **_found(crystal, potential, EFFORTS[name], seed, real)}
            done.append(line)
            with output.open("a") as file:
                file.write(json.dumps(line) + "\n")
    _table([line for line in done if line["seed"] == seed], effort)


def _known_crystals(data: Path, count: int, seed: int) -> list[dict[str, Any]]:
    rows = [row for row in read_rows(data / "structures", frozenset({0, 1})) if len(row["sp"]) <= 24]
    chosen: list[dict[str, Any]] = []
    for index in rng(seed, 0, "benchmark/positions").permutation(len(rows)):
        structure = conventional(rows[index])
        if structure is not None and 4 <= len(structure["numbers"]) <= 24:
            chosen.append(structure)
        if len(chosen) == count:
            break
    return chosen


def _found(crystal: Crystal, potential: Potential, settings: PositionSettings, seed: int, real: float) -> dict[str, Any]:
    start = time.process_time()
    try:
        found = search(crystal, potential, settings, RelaxationSettings(), rng(seed, 0, "benchmark/search", int(crystal.id[:12], 16)))
    except NoPositions as refusal:
        return {"difference": None, "outcome": str(refusal), "cpu_s": time.process_time() - start}
    cost = time.process_time() - start
    best = found[0]
    line = {"difference": best.relaxed.energy_per_atom - real, "outcome": best.relaxed.outcome, "way": best.draft.assignment.label}
    exhausted = len(found) < settings.relaxed
    return line | {"agreeing": "fewer arrangements" if exhausted else str(min(agreeing(found), 3)), "cpu_s": cost}


def _table(lines: list[dict[str, Any]], efforts: list[str]) -> None:
    typer.echo("effort     n    hit (<= 20 meV/atom or lower)   same (within 2 meV)   lower   CPU-s mean / median / max")
    for name in efforts:
        own = [line for line in lines if line["effort"] == name]
        difference = np.array([line["difference"] if line["difference"] is not None else np.inf for line in own])
        cost = np.array([line["cpu_s"] for line in own])
        hit = difference <= HIT
        error = np.sqrt(hit.mean() * (1 - hit.mean()) / len(own))
        typer.echo(
            f"{name:9s} {len(own):4d}   {hit.mean():.3f} +- {error:.3f}                   {(abs(difference) <= SAME).mean():.3f}"
            f"                 {(difference < -SAME).mean():.3f}   {cost.mean():.2f} / {np.median(cost):.2f} / {cost.max():.2f}"
        )
        missed = Counter(f"{line['formula']} ({line['group']}, {line['atoms']} atoms)" for line, ok in zip(own, hit, strict=True) if not ok)
        typer.echo(f"          missed: {', '.join(missed) or 'none'}")
        above = np.clip(difference, 0, None)
        for agree in ("1", "2", "3", "fewer arrangements"):
            chosen = above[[line.get("agreeing") == agree for line in own] & np.isfinite(above)]
            if len(chosen):
                error = np.sqrt((chosen**2).mean())
                typer.echo(f"          agree on the lowest: {agree:18s} n {len(chosen):3d}, {error:.4f} eV/atom above the real one (rms)")


if __name__ == "__main__":
    typer.run(main)
