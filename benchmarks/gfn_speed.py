"""Trajectories per CPU-second of training and sampling, on one thread, beside the two dense networks alone timed in the same run.

Usage: python benchmarks/gfn_speed.py [--seconds 6] [--output FILE]

Rows: training in the paper's space (22 elements, 113 groups) at batch 10, 100 and 256; the same at 256 with all 89 elements, with all 230
groups and with both, beside what the larger output layer alone costs; 10,000 samples; start-up of training; peak memory. Every rate is the
median over pieces of a fifth of a second, so that a neighbour on the machine shows less; the mean over the whole time is printed too. The
reward is the density. The dense networks are two perceptrons of three hidden layers of 256 with all heads of the paper's policies, forward
and backward over the same number of rows (about 11.7 a trajectory), without any environment.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

from al_crystal.seeds import torch_rng
from gfn.config import RewardSettings
from gfn.constraints import Space
from gfn.environment import CrystalEnvironment
from gfn.rewards import log_reward
from gfn.settings import SamplerSettings
from gfn.trainer import Trainer

STEPS_PER_TRAJECTORY = 11.7


def rate(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Trajectories per CPU-second of a step that returns how many it made: median over pieces of 0.2 s, and mean."""
    pieces, begin = [], time.process_time()
    while time.process_time() - begin < seconds:
        start, done = time.process_time(), 0
        while time.process_time() - start < 0.2:
            done += step()
        pieces.append((done, time.process_time() - start))
    return float(np.median([done / spent for done, spent in pieces])), sum(p[0] for p in pieces) / sum(p[1] for p in pieces)


def training(space: Space, batch_size: int, seconds: float) -> tuple[float, float]:
    """Trajectories per CPU-second of training, median and mean."""
    trainer = Trainer(CrystalEnvironment(space), SamplerSettings(batch_size=batch_size), seed=0)
    reward = log_reward(RewardSettings(kind="density"))
    trainer.train(reward, 5)

    def step() -> int:
        trainer.train(reward, 1)
        return batch_size

    return rate(step, seconds)


def composition_network(elements: int, seconds: float) -> float:
    """Milliseconds of a composition step's network on 1,000 states, sampling and training: what a larger output layer costs by itself."""
    outputs, inputs = elements * 16 + 1, 2 * elements + 7
    layers: list[nn.Module] = [nn.Linear(inputs, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, 256)]
    network, rows = nn.Sequential(*layers, nn.LeakyReLU(), nn.Linear(256, outputs)), torch.randn(1000, inputs)

    def step() -> int:
        with torch.no_grad():
            torch.softmax(network(rows), dim=1)
        torch.log_softmax(network(rows), dim=1)[:, 0].sum().backward()
        return 1

    return 1000 / rate(step, seconds)[0]


def dense_networks(batch_size: int, seconds: float) -> float:
    """Trajectories per CPU-second that two dense networks alone would allow."""

    def network(outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Linear(271, 256), nn.LeakyReLU()]
        for _ in range(2):
            layers += [nn.Linear(256, 256), nn.LeakyReLU()]
        return nn.Sequential(*layers, nn.Linear(256, outputs))

    forward, backward = network(925), network(925)
    rows = torch.randn(round(batch_size * STEPS_PER_TRAJECTORY), 271)

    def step() -> int:
        with torch.no_grad():
            forward(rows)
        (forward(rows).mean() + backward(rows).mean()).backward()
        return batch_size

    return rate(step, seconds)[0]


def main(seconds: float = 6.0, output: Annotated[Path | None, typer.Option(help="JSON file")] = None) -> None:
    """Time, print, write."""
    torch.set_num_threads(1)
    paper = Space()
    Trainer(CrystalEnvironment(paper), SamplerSettings(), seed=0)  # imports and compiled kernels are not timed
    begin = time.process_time()
    trainer = Trainer(CrystalEnvironment(paper), SamplerSettings(), seed=0)
    numbers = {"start_up_seconds": time.process_time() - begin}
    for batch_size in (10, 100, 256):
        numbers[f"training_batch_{batch_size}"], numbers[f"training_batch_{batch_size}_mean"] = training(paper, batch_size, seconds)
        numbers[f"dense_networks_batch_{batch_size}"] = dense_networks(batch_size, seconds / 2)
        ratio = numbers[f"training_batch_{batch_size}"] / numbers[f"dense_networks_batch_{batch_size}"]
        numbers[f"multiple_of_dense_batch_{batch_size}"] = ratio
    for name, space in {
        "113_to_230_groups": Space(space_groups="all"),  # type: ignore[arg-type]
        "22_to_89_elements": Space(elements="all"),  # type: ignore[arg-type]
        "both": Space(elements="all", space_groups="all"),  # type: ignore[arg-type]
    }.items():
        before = training(paper, 256, seconds / 2)[0]
        numbers[f"training_batch_256_{name}"] = training(space, 256, seconds)[0]
        numbers[f"time_grows_by_{name}"] = (before + training(paper, 256, seconds / 2)[0]) / 2 / numbers[f"training_batch_256_{name}"]
    numbers["output_layer_alone_grows_by"] = composition_network(89, seconds / 2) / composition_network(22, seconds / 2)
    trainer.sampler().sample(100, torch_rng(0, 0, "warm"))
    begin = time.process_time()
    trainer.sampler().sample(10_000, torch_rng(0, 0, "benchmark"))
    numbers["sample_10000_seconds"] = time.process_time() - begin
    numbers["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for name, value in numbers.items():
        typer.echo(f"{name:45} {value:10.2f}")
    if output:
        output.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
