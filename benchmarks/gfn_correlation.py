"""Correlation of log p(x) and log R(x) on fresh crystals, half from a trained sampler and half from the untrained one.

Usage: python benchmarks/gfn_correlation.py CONFIG CHECKPOINT [-n 1000] [--paths 64] [--output FILE]

If p is proportional to R, log p and log R lie on a line of slope 1. Half of the crystals come from the trained policy, half from the policy
before training (same space, seed and settings), so that both good and ordinary crystals are asked for. R is the reward as it is trained
on, floored at 1e-8; the correlation without the floor is printed too. log p(x) averages P_F / P_B over lattice paths retraced from x; it is
computed twice with other paths, and the difference tells how exact it is. The intervals are of the correlation under resampling of the
crystals (2.5 to 97.5 %).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from al_crystal.crystal import CrystalBatch
from al_crystal.seeds import rng, torch_rng
from gfn.config import load_config
from gfn.environment import CrystalEnvironment
from gfn.rewards import log_reward
from gfn.trainer import Trainer


def join(first: CrystalBatch, second: CrystalBatch) -> CrystalBatch:
    """Two batches of the same elements as one."""
    names = ("space_group", "counts", "lattice_parameters")
    return CrystalBatch(first.elements, *(torch.cat([getattr(first, name), getattr(second, name)]) for name in names))


def interval(log_p: np.ndarray, log_r: np.ndarray) -> list[float]:
    """2.5 and 97.5 % quantiles of the correlation over 1,000 resamplings."""
    random, values = rng(0, 0, "benchmark/bootstrap"), []
    for _ in range(1000):
        rows = random.integers(len(log_p), size=len(log_p))
        values.append(np.corrcoef(log_p[rows], log_r[rows])[0, 1])
    return np.quantile(values, [0.025, 0.975]).tolist()


def main(
    config: Annotated[Path, typer.Argument(help="training configuration: space and reward")],
    checkpoint: Annotated[Path, typer.Argument(help="folder written by gfn.train")],
    n: Annotated[int, typer.Option("-n", help="crystals, half from each sampler")] = 1000,
    paths: Annotated[int, typer.Option(help="lattice paths retraced from each crystal")] = 64,
    output: Annotated[Path | None, typer.Option(help="write the numbers and all points as JSON")] = None,
) -> None:
    """Draw, compute log p and log R, correlate."""
    torch.set_num_threads(1)
    settings = load_config(config)
    environment = CrystalEnvironment(settings.space)
    trained = Trainer.load(checkpoint, environment)
    untrained = Trainer(environment, trained.settings, trained.seed)
    batch = join(
        trained.sampler().sample(n // 2, torch_rng(1, 0, "benchmark/trained")),
        untrained.sampler().sample(n - n // 2, torch_rng(1, 0, "benchmark/untrained")),
    )
    with torch.no_grad():
        unfloored = log_reward(settings.reward)(batch).double().numpy()
    log_r = np.maximum(unfloored, trained.settings.reward_floor)
    repeats = [trained.sampler().log_probability(batch, torch_rng(1, i, "benchmark/paths"), paths).double().numpy() for i in range(2)]
    log_p = repeats[0]
    halves = {"all": slice(None), "trained": slice(0, n // 2), "untrained": slice(n // 2, n)}
    numbers: dict[str, float | list[float]] = {
        "paths": paths,
        "spread_of_log_p_between_repeats": float(np.std(repeats[0] - repeats[1]) / np.sqrt(2)),
        "log_z": float(trained.policy.log_z.detach()),
        "crystals_at_the_floor": float((unfloored < trained.settings.reward_floor).sum()),
        "correlation_all_without_the_floor": float(np.corrcoef(log_p, unfloored)[0, 1]),
    }
    for name, rows in halves.items():
        residual = log_r[rows] - log_p[rows]
        numbers[f"correlation_{name}"] = float(np.corrcoef(log_p[rows], log_r[rows])[0, 1])
        numbers[f"correlation_{name}_repeat"] = float(np.corrcoef(repeats[1][rows], log_r[rows])[0, 1])
        numbers[f"interval_{name}"] = interval(log_p[rows], log_r[rows])
        numbers[f"slope_{name}"] = float(np.polyfit(log_r[rows], log_p[rows], 1)[0])
        numbers[f"mean_and_spread_of_log_r_minus_log_p_{name}"] = [float(residual.mean()), float(residual.std())]
        numbers[f"mean_and_spread_of_log_r_{name}"] = [float(log_r[rows].mean()), float(log_r[rows].std())]
    for key, value in numbers.items():
        shown = "  ".join(f"{x:.4f}" for x in value) if isinstance(value, list) else f"{value:.4f}"
        typer.echo(f"{key:50} {shown}")
    if output:
        output.write_text(json.dumps(numbers | {"log_p": log_p.tolist(), "log_r": log_r.tolist()}) + "\n")


if __name__ == "__main__":
    typer.run(main)
