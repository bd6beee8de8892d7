"""Crystals per CPU second of the shipped ensemble, both properties, every member, on one core.

Usage: python benchmarks/surrogate_speed.py [--output FILE.json]

Random crystals of one to five of the 22 elements, as a sampler draws them, all in float32. Each figure is the best of several passes of at
least a quarter of a CPU second: other work on the machine only ever slows a pass down. Processors differ, so two yardsticks are timed in
the same run: the same networks in plain torch, and eight plain perceptrons (260 ready-made numbers, three layers of 384). The largest
difference between what compiled and plain networks say is printed beside.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from al_crystal.crystal import ATOMIC_NUMBER, CrystalBatch
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.inputs import Inputs
from surrogates.network import Output

ELEMENTS = "H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se".split()


def random_batch(number: int, generator: torch.Generator) -> CrystalBatch:
    """``number`` crystals of one to five elements, 1-16 atoms of each, in cells near the expected volume."""
    elements = tuple(sorted(ATOMIC_NUMBER[symbol] for symbol in ELEMENTS))
    order = torch.rand(number, len(elements), generator=generator).argsort(1)
    present = order < torch.randint(1, 6, (number, 1), generator=generator)
    counts = torch.randint(1, 17, (number, len(elements)), generator=generator) * present
    lengths = (counts.sum(1, keepdim=True) * 14.0) ** (1 / 3) * (1 + 0.2 * torch.rand(number, 3, generator=generator))
    lattice = torch.cat([lengths, torch.full((number, 3), 90.0)], dim=1).double()
    return CrystalBatch(elements, torch.randint(1, 231, (number,), generator=generator), counts, lattice)


def speed(predict: Callable[[], object], size: int, passes: int = 8) -> float:
    """Crystals per CPU second of a call that predicts ``size`` of them, best pass."""
    predict()
    best = 0.0
    for _ in range(passes):
        start, done = time.process_time(), 0
        while time.process_time() - start < 0.25:
            predict()
            done += size
        best = max(best, done / (time.process_time() - start))
    return best


def yardstick(size: int) -> float:
    """Crystals per CPU second of eight plain perceptrons on ready-made features."""
    layers = [nn.Linear(260, 384), nn.SiLU(), nn.Linear(384, 384), nn.SiLU(), nn.Linear(384, 384), nn.SiLU(), nn.Linear(384, 4)]
    members = [copy.deepcopy(nn.Sequential(*layers)) for _ in range(8)]
    features = torch.randn(size, 260, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return speed(lambda: [member(features) for member in members], size)


def plainly(ensemble: Ensemble, batch: CrystalBatch) -> list[Output]:
    """What the networks say as they are written, in torch."""
    with torch.inference_mode():
        inputs = Inputs.of(Rows.from_batch(batch))
        return [network(inputs, torch.zeros(len(batch), dtype=torch.int64)) for network in ensemble.networks]


def main(
    ensemble: Annotated[Path | None, typer.Option(help="folder; default: the one shipped")] = None,
    output: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    made = Ensemble.load(ensemble) if ensemble else Ensemble.pretrained()
    generator, rows = torch.Generator().manual_seed(0), []
    for size in (256, 1024, 4096):
        batch = random_batch(size, generator)
        rows.append({"batch": size, "crystals_per_cpu_second": round(speed(partial(made.predict, batch), size))})
        typer.echo(f"{made.members} members, batch {size:>5}: {rows[-1]['crystals_per_cpu_second']:>7,} crystals/s")
    batch = random_batch(256, generator)
    networks, exact = round(speed(lambda: plainly(made, batch), 256)), plainly(made, batch)
    typer.echo(f"yardstick, networks in plain torch, batch 256: {networks:>7,} crystals/s")
    perceptrons = round(yardstick(256))
    typer.echo(f"yardstick, eight perceptrons,       batch 256: {perceptrons:>7,} crystals/s")
    said = made.predict(batch).members
    members = torch.cat([torch.stack([one.energy + one.strain, one.gap.clamp(min=0)], dim=2) for one in exact])
    difference = ((said - members).abs() / members.abs().clamp(min=1)).flatten(0, 1).amax(0).tolist()
    typer.echo(
        f"compiled and plain networks differ by at most {difference[0]:.1e} and {difference[1]:.1e} (eV/atom, eV; relative beyond 1)"
    )
    if output:
        output.write_text(
            json.dumps({"speed": rows, "networks": networks, "perceptrons": perceptrons, "difference": difference}, indent=1) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
