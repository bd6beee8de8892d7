"""The temperature knob: energy against diversity of samplers trained on reward ** (1 / temperature).

Usage: python benchmarks/gfn_temperature.py CONFIG FOLDER [--temperatures 0.5 --temperatures 1 ...] [--iterations 600]

One sampler is trained from the start at each temperature, all with the same budget (--iterations batches of the configuration), and 10,000
crystals are drawn from it. Printed and appended to FOLDER/temperature.jsonl: quantiles of the predicted property, how many space groups,
elements and formulas occur, and the effective numbers of space groups and of chemical systems (the exponential of the entropy of their
frequencies). ``gap`` says how far training is from its end: log Z less the evidence bound of fresh trajectories, in nats; it bounds the
Kullback-Leibler divergence from the target only as far as log Z is right. Temperatures that are there already are passed over.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from al_crystal.crystal import CrystalBatch
from al_crystal.seeds import rng, torch_rng
from gfn.config import TrainConfig, load_config
from gfn.environment import CrystalEnvironment
from gfn.evaluate import diversity
from gfn.rewards import log_reward
from gfn.trainer import LogReward, Trainer
from gfn.trajectories import roll_out
from gfn.trajectory_balance import log_ratio


def effective_number(values: list[Any]) -> float:
    """The exponential of the entropy of the frequencies."""
    share = np.array(list(Counter(values).values())) / len(values)
    return float(np.exp(-(share * np.log(share)).sum()))


@torch.no_grad()
def evidence_bound(trainer: Trainer, reward: LogReward, n: int = 2000) -> float:
    """Mean of log R P_B / P_F over fresh trajectories: a lower bound of log Z, reached by the perfect policy."""
    drawn = roll_out(trainer.environment, trainer.policy, n, rng(0, 0, "benchmark/evidence"))
    batch = trainer.environment.batch(drawn.groups, drawn.counts, drawn.cube)
    log_r = reward(batch).float().clamp_min(trainer.settings.reward_floor) / trainer.settings.temperature
    return float((log_r - log_ratio(trainer.environment, trainer.policy, drawn)).mean())


def run(config: TrainConfig, temperature: float, iterations: int) -> dict[str, float]:
    """Train at one temperature, draw and count."""
    settings = config.sampler.model_copy(update={"temperature": temperature, "iterations": iterations})
    trainer, reward = Trainer(CrystalEnvironment(config.space), settings, config.seed), log_reward(config.reward)
    begin = time.process_time()
    trainer.train(reward, iterations)
    seconds = time.process_time() - begin
    batch: CrystalBatch = trainer.sampler().sample(10_000, torch_rng(0, 0, "benchmark/temperature"))
    with torch.no_grad():
        values = -reward(batch).double().numpy() / config.reward.strength
    crystals = batch.to_crystals()
    return {
        "temperature": temperature,
        "iterations": iterations,
        "training_cpu_seconds": seconds,
        "gap": float(trainer.policy.log_z.detach()) - evidence_bound(trainer, reward),
        **{f"value_quantile_{100 * q:.0f}": float(np.quantile(values, q)) for q in (0.05, 0.5, 0.95)},
        **diversity(crystals),
        "effective_space_groups": effective_number([crystal.space_group for crystal in crystals]),
        "effective_chemical_systems": effective_number([crystal.chemical_system for crystal in crystals]),
    }


def main(
    config: Annotated[Path, typer.Argument(help="training configuration with the reward formation_energy")],
    folder: Annotated[Path, typer.Argument(help="where the numbers are kept")],
    temperatures: Annotated[list[float] | None, typer.Option(help="in units of the configured reward's")] = None,
    iterations: Annotated[int, typer.Option(help="batches of training at each temperature")] = 600,
) -> None:
    """Train, draw, print."""
    torch.set_num_threads(1)
    settings, path = load_config(config), folder / "temperature.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for temperature in temperatures or [0.5, 1.0, 2.0, 4.0]:
        if temperature in [row["temperature"] for row in done]:
            continue
        done.append(run(settings, temperature, iterations))
        with path.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    for name in done[0]:
        typer.echo(f"{name:30}" + "".join(f"{row[name]:12.4g}" for row in done))


if __name__ == "__main__":
    typer.run(main)
