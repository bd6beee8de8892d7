"""Train on an enumerable space and compare the policy with the truth: total variation to R / Z, log Z, and the volume distribution.

Usage: python benchmarks/gfn_exact.py [--seeds 3] [--iterations 2400] [--backward learned|uniform] [--decoding volumetric|absolute]

The reward is a product of a rugged function of group and composition and of a Gaussian of one lattice quantity (the volume ratio, or the
first edge), so that Z is a finite sum times a one-dimensional integral. The policy's probability of every (group, composition) is exact, so
the total variation has no sampling error.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from al_crystal.crystal import CrystalBatch, element_volumes
from al_crystal.seeds import torch_rng
from gfn.constraints import Space
from gfn.environment import CrystalEnvironment
from gfn.settings import SamplerSettings
from gfn.trainer import Trainer

WIDTH = 0.25
"""Standard deviation of the Gaussian, in units of the cube coordinate."""


def small_space(decoding: str = "volumetric") -> Space:
    """A few thousand crystals over twelve groups of all lattice systems."""
    lattice = {"decoding": decoding, "lengths": (2.0, 60.0)} if decoding == "volumetric" else {"decoding": decoding, "lengths": (2.5, 10.0)}
    return Space(
        elements=["Li", "Mg", "Fe", "O", "F"],
        space_groups=[1, 2, 12, 62, 123, 136, 148, 166, 194, 216, 221, 225, 227],
        number_of_elements=(2, 3),
        atoms_per_element=(1, 6),
        lattice=lattice,
    )


def enumerate_space(environment: CrystalEnvironment) -> tuple[np.ndarray, np.ndarray]:
    """Every (group, counts) that the masks reach."""
    space = environment.composition
    groups, partial = environment.space_group.groups.copy(), space.initial(environment.space_group.groups)
    found_groups, found_counts = [], []
    while len(groups):
        rows, actions = np.nonzero(space.allowed(partial))
        stopped = actions == space.number_of_actions - 1
        found_groups.append(groups[rows[stopped]])
        found_counts.append(partial.counts[rows[stopped]])
        groups, partial = groups[rows[~stopped]], partial.rows(rows[~stopped])
        space.apply(partial, actions[~stopped])
    return np.concatenate(found_groups), np.concatenate(found_counts)


class Reward:
    """log R = a rugged function of group and composition - (t - 1/2)2 / (2 width2), t the place of the volume (or edge) in its window."""

    def __init__(self, environment: CrystalEnvironment) -> None:
        self.environment = environment
        self.volumes = torch.tensor([element_volumes()[symbol] for symbol in environment.space.elements], dtype=torch.float64)

    def discrete(self, groups: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The part of group and composition."""
        weights = torch.tensor([0.7, -0.4, 1.1, 0.5, -0.8], dtype=torch.float64)
        atoms = counts.sum(1)
        return 1.5 * torch.sin(0.9 * groups) + torch.cos(counts.double() @ weights) - 0.15 * (atoms - 7).abs() + 2.0 * (counts[:, 2] > 0)

    def __call__(self, batch: CrystalBatch) -> torch.Tensor:
        """The whole, of a batch of crystals."""
        return self.discrete(batch.space_group, batch.counts) - (self.place(batch) - 0.5) ** 2 / (2 * WIDTH**2)

    def place(self, batch: CrystalBatch) -> torch.Tensor:
        """Where the volume (on a logarithmic scale) or the first edge lies in its window."""
        windows = self.environment.space.lattice
        if windows.decoding == "absolute":
            low, high = windows.lengths
            return (batch.lattice_parameters[:, 0] - low) / (high - low)
        low, high = np.log(windows.volume_ratio)
        x, y, z = torch.cos(torch.deg2rad(batch.lattice_parameters[:, 3:])).T
        unit = torch.sqrt(1 - x * x - y * y - z * z + 2 * x * y * z)
        ratio = batch.lattice_parameters[:, :3].prod(1) * unit / (batch.counts.double() @ self.volumes)
        return (torch.log(ratio) - low) / (high - low)


def lattice_integral() -> float:
    """Logarithm of the integral of the Gaussian over the cube."""
    t = (np.arange(100_000) + 0.5) / 100_000
    return float(np.log(np.mean(np.exp(-((t - 0.5) ** 2) / (2 * WIDTH**2)))))


def evaluate(trainer: Trainer, reward: Reward) -> dict[str, float]:
    """Total variation over (group, composition), error of log Z, total variation of the lattice coordinate in ten bins."""
    environment = trainer.environment
    groups, counts = enumerate_space(environment)
    target = reward.discrete(torch.from_numpy(groups), torch.from_numpy(counts))
    log_z = float(torch.logsumexp(target, 0)) + lattice_integral()
    cells = environment.batch(groups, counts, np.where(environment.lattice.free[0], 0.5, 0.0) * np.ones((len(groups), 1)))
    log_p = trainer.sampler().log_probability_of_composition(cells).double()
    drawn = reward.place(trainer.sampler().sample(50_000, torch_rng(0, 0, "benchmark/exact")))
    edges = np.linspace(0, 1, 11)
    t = (np.arange(100_000) + 0.5) / 100_000
    expected = np.histogram(t, edges, weights=np.exp(-((t - 0.5) ** 2) / (2 * WIDTH**2)))[0]
    found = np.histogram(drawn.numpy(), edges)[0]
    return {
        "crystals": len(groups),
        "total_probability": float(log_p.exp().sum()),
        "total_variation": float((log_p.exp() - torch.softmax(target, 0)).abs().sum() / 2),
        "log_z_error": abs(float(trainer.policy.log_z.detach()) - log_z),
        "lattice_total_variation": float(np.abs(expected / expected.sum() - found / found.sum()).sum() / 2),
    }


def run(seed: int, iterations: int, batch: int, rate: float, backward: Literal["learned", "uniform"], decoding: str) -> dict[str, float]:
    """Train once and compare with the truth."""
    environment = CrystalEnvironment(small_space(decoding))
    settings = SamplerSettings(batch_size=batch, iterations=iterations, learning_rate=rate, schedule="cosine", backward=backward)
    trainer, reward = Trainer(environment, settings, seed), Reward(environment)
    begin = time.process_time()
    trainer.train(reward, iterations)
    return {"cpu_seconds": time.process_time() - begin, **evaluate(trainer, reward)}


def main(
    iterations: int = 2400,
    batch: Annotated[int, typer.Option(help="trajectories an iteration")] = 256,
    seeds: Annotated[int, typer.Option(help="how many runs, from seed 0")] = 3,
    rate: Annotated[float, typer.Option(help="Adam's step size at the start; it falls to nothing along a cosine")] = 3e-3,
    backward: Annotated[str, typer.Option(help="learned or uniform")] = "learned",
    decoding: Annotated[str, typer.Option(help="volumetric or absolute")] = "volumetric",
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Train, compare, print."""
    torch.set_num_threads(1)
    kind: Literal["learned", "uniform"] = "uniform" if backward == "uniform" else "learned"
    runs = []
    for seed in range(seeds):
        runs.append(run(seed, iterations, batch, rate, kind, decoding))
        typer.echo(f"seed {seed}: " + "  ".join(f"{name} {value:.4f}" for name, value in runs[-1].items()))
    for name in runs[0]:
        values = [numbers[name] for numbers in runs]
        typer.echo(f"{name:24} mean {np.mean(values):.4f}  smallest {min(values):.4f}  largest {max(values):.4f}")
    if output:
        settings = {"iterations": iterations, "batch": batch, "rate": rate, "backward": kind, "decoding": decoding}
        output.write_text(json.dumps(settings | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
