"""Crystals per CPU second of the shipped ensemble, both properties, every member, on one core.

Usage: python benchmarks/surrogate_speed.py [--output FILE.json]

Random crystals of one to five of the 22 elements, as a sampler draws them. Each figure is the best of several passes of at least a
quarter of a CPU second: other work on the machine only ever slows a pass down. The largest change of a prediction from float32 to
bfloat16 is printed beside. Processors differ, and bfloat16 is only fast where it is native; so a yardstick is timed in the same run: eight
plain perceptrons (260 ready-made numbers, three layers of 384) in float32.
"""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from al_crystal.crystal import ATOMIC_NUMBER, CrystalBatch
from surrogates.ensemble import Ensemble, Numbers, runs_bfloat16

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


def main(
    ensemble: Annotated[Path | None, typer.Option(help="folder; default: the one shipped")] = None,
    output: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    formats: tuple[Numbers, ...] = ("float32", "bfloat16")
    made = {name: Ensemble.load(ensemble, name) if ensemble else Ensemble.pretrained(name) for name in formats}
    generator, rows = torch.Generator().manual_seed(0), []
    for size in (256, 1024, 4096):
        batch = random_batch(size, generator)
        for name in formats:
            rate = round(speed(functools.partial(made[name].predict, batch), size))
            rows.append({"precision": name, "batch": size, "crystals_per_cpu_second": rate})
            typer.echo(f"{made[name].members} members, {name:<9} batch {size:>5}: {rows[-1]['crystals_per_cpu_second']:>7,} crystals/s")
    plain = round(yardstick(256))
    typer.echo(f"yardstick, float32   batch   256: {plain:>7,} crystals/s; bfloat16 is {'' if runs_bfloat16() else 'not '}native here")
    exact, rounded = (made[name].predict(batch) for name in formats)
    change = (exact.mean - rounded.mean).abs()
    typer.echo(
        f"float32 to bfloat16: mean change {change.mean(0).tolist()}, 99 % below {change.quantile(0.99, dim=0).tolist()} (eV/atom, eV)"
    )
    if output:
        output.write_text(json.dumps({"speed": rows, "yardstick": plain, "mean_change": change.mean(0).tolist()}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
