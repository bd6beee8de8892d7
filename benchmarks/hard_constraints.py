"""Do sampled crystals keep every hard constraint, by checks that are not the sampler's own?

Usage: python benchmarks/hard_constraints.py FOLDER [-n 1000000] [--campaign FILE.yaml] [--checkpoint RUN/round-003/sampler]

Draws from two samplers in turn: the uniform control and a policy (an untrained one, or that of a checkpoint). The space is all 89 elements
and all 230 groups, or that of a campaign. SMACT judges neutrality and Pauling's rule; a plain search over orbits, and of every fifth
crystal PyXtal too, the Wyckoff positions; the symmetry of the metric tensor (International Tables A, 3.1.2) the lattice, and its
determinant must be positive. Counted besides: dead ends (states without an allowed action, which end the draw) and redraws (trajectories
begun beyond the crystals returned). Every 20,000 crystals a line is
appended to FOLDER/hard_constraints.jsonl; the same command goes on after the last one. Exit code 1 if anything is violated.
"""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
import typer

from al_crystal.config import load
from al_crystal.crystal import CrystalBatch
from al_crystal.seeds import rng, torch_rng
from gfn.constraints import Space
from gfn.environment import CrystalEnvironment
from gfn.evaluate import metric_checks, pyxtal_fits, smact_accepts
from gfn.policy import Policy
from gfn.settings import SamplerSettings
from gfn.symmetry import wyckoff
from gfn.trainer import Trainer
from gfn.trajectories import roll_out
from gfn.wyckoff import fits

CHUNK = 20_000
ROWS = 1000
EVERY = 5
"""PyXtal, the slowest judge, sees one crystal in so many."""


def draw(environment: CrystalEnvironment, policy: Policy | None, chunk: int, n: int) -> tuple[list[CrystalBatch], dict[str, int]]:
    """Crystals of one chunk, how many trajectories were begun beyond them, and how many ended in a dead end."""
    random, batches, begun, dead = rng(0, chunk, "benchmark/hard_constraints"), [], 0, 0
    for start in range(0, n, ROWS):
        begun += min(ROWS, n - start)
        try:
            drawn = roll_out(environment, policy, min(ROWS, n - start), random)
        except RuntimeError:
            dead += 1
            continue
        batches.append(environment.batch(drawn.groups, drawn.counts, drawn.cube))
    return batches, {"dead_ends": dead, "redraws": begun - sum(map(len, batches))}


def judge(batches: list[CrystalBatch]) -> dict[str, int]:
    """How many crystals fail each check."""
    crystals = [crystal for batch in batches for crystal in batch]
    lattice, real = metric_checks(crystals)
    return {
        "smact_neutrality_and_pauling": sum(not smact_accepts(crystal) for crystal in crystals),
        "wyckoff_positions": sum(not _fits(crystal.space_group, tuple(sorted(crystal.composition.values()))) for crystal in crystals),
        "wyckoff_positions_by_pyxtal": sum(not pyxtal_fits(crystal) for crystal in crystals[::EVERY]),
        "lattice_system": int((~lattice).sum()),
        "real_cell": int((~real).sum()),
    }


@cache
def _fits(space_group: int, counts: tuple[int, ...]) -> bool:
    return fits(wyckoff(space_group), counts)


def main(
    folder: Annotated[Path, typer.Argument(help="where the counts are kept")],
    n: Annotated[int, typer.Option("-n", help="crystals in all")] = 1_000_000,
    campaign: Annotated[Path | None, typer.Option(help="sample the space of this campaign")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="a sampler trained in that space")] = None,
    minutes: Annotated[float, typer.Option(help="stop after so many CPU-minutes; the same command goes on")] = 60.0,
) -> None:
    """Draw, judge, count."""
    torch.set_num_threads(1)
    space = load(campaign).space if campaign else Space(elements="all", space_groups="all")  # type: ignore[arg-type]
    environment = CrystalEnvironment(space)
    if checkpoint is not None:
        policy = Trainer.load(checkpoint, environment).policy
    else:
        policy = Policy(environment, SamplerSettings(), torch_rng(0, 0, "benchmark/hard_constraints"))
    path = folder / "hard_constraints.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for chunk in range(len(done), -(-n // CHUNK)):
        begin, size = time.process_time(), min(CHUNK, n - chunk * CHUNK)
        batches, counts = draw(environment, policy if chunk % 2 else None, chunk, size)
        groups = sorted({group for batch in batches for group in batch.space_group.tolist()})
        row = {
            "sampler": "policy" if chunk % 2 else "uniform",
            "crystals": size,
            "seen_by_pyxtal": -(-size // EVERY),
            **counts,
            **judge(batches),
        }
        done.append(row | {"space_groups": groups, "cpu_seconds": time.process_time() - begin})
        with path.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        if time.process_time() > 60 * minutes:
            break
    names = [name for name in done[0] if name not in ("sampler", "space_groups", "cpu_seconds")]
    total = {name: sum(row[name] for row in done) for name in names}
    for name, number in total.items():
        typer.echo(f"{name:32} {number:9d}")
    typer.echo(f"{'space groups drawn':32} {len({group for row in done for group in row['space_groups']}):9d}")
    typer.echo(f"{'CPU seconds':32} {sum(row['cpu_seconds'] for row in done):9.0f}")
    raise typer.Exit(1 if sum(total[name] for name in names if name not in ("crystals", "seen_by_pyxtal")) else 0)


if __name__ == "__main__":
    typer.run(main)
