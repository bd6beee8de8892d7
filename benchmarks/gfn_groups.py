"""How often each space group is drawn, and how often the reward asks for it.

Usage: python benchmarks/gfn_groups.py CONFIG CHECKPOINT [-n 10000] [--per-group 60] [--output FILE]

The reward's share of a group is the sum of R over its crystals, over Z. It is estimated by restricting the trained sampler to the group:
the mean of log (R P_B / P_F) over its trajectories is at most the log of that sum (Jensen), and near it where the policy is near R / Z;
the logarithm of the mean of R P_B / P_F has no bias but a large variance. Printed: the shares beside those of the policy (exact) and of
``n`` draws; how many different groups ``n`` draws from the reward's shares would show, and how many ``n`` draws of the policy show on
average, with the standard deviation from one draw to the next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from al_crystal.seeds import rng, torch_rng
from gfn.config import load_config
from gfn.constraints import Restriction
from gfn.environment import CrystalEnvironment
from gfn.rewards import log_reward
from gfn.trainer import LogReward, Trainer
from gfn.trajectories import group_probabilities, roll_out
from gfn.trajectory_balance import log_ratio


@torch.no_grad()
def log_weight(trainer: Trainer, reward: LogReward, group: int, n: int) -> tuple[float, float]:
    """Two estimates of the logarithm of the sum of R over a group: the lower bound, and the one without bias."""
    inside = trainer.environment.restricted(Restriction(space_groups=(group,)))
    drawn = roll_out(inside, trainer.policy, n, rng(0, group, "benchmark/groups"))
    log_r = reward(inside.batch(drawn.groups, drawn.counts, drawn.cube)).double().clamp_min(trainer.settings.reward_floor)
    weight = log_r - log_ratio(inside, trainer.policy, drawn).double()
    return float(weight.mean()), float(torch.logsumexp(weight, 0) - np.log(n))


def expected_groups(share: np.ndarray, n: int) -> float:
    """How many different groups ``n`` independent draws show on average."""
    return float((1 - (1 - share / share.sum()) ** n).sum())


def spread_of_groups(share: np.ndarray, n: int) -> float:
    """Standard deviation of that number over repeated draws, groups taken as independent."""
    missed = (1 - share / share.sum()) ** n
    return float(np.sqrt((missed * (1 - missed)).sum()))


def main(
    config: Annotated[Path, typer.Argument(help="training configuration")],
    checkpoint: Annotated[Path, typer.Argument(help="folder written by gfn.train")],
    n: Annotated[int, typer.Option("-n", help="draws")] = 10_000,
    per_group: Annotated[int, typer.Option(help="trajectories in each group")] = 60,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Draw, estimate, print."""
    torch.set_num_threads(1)
    settings = load_config(config)
    trainer, reward = Trainer.load(checkpoint, CrystalEnvironment(settings.space)), log_reward(settings.reward)
    groups = trainer.environment.space_group.groups
    drawn = trainer.sampler().sample(n, torch_rng(0, 0, "gfn/sample")).space_group.numpy()
    counts = np.array([(drawn == group).sum() for group in groups])
    estimates = np.array([log_weight(trainer, reward, int(group), per_group) for group in groups])
    bound, mean = np.exp(estimates - float(trainer.policy.log_z.detach())).T
    policy = group_probabilities(trainer.environment, trainer.policy)
    typer.echo("group   drawn    policy   asked for (lower bound / unbiased), per n")
    for place in np.argsort(-bound)[:30]:
        typer.echo(f"{groups[place]:5d} {counts[place]:7d} {n * policy[place]:9.1f} {n * bound[place]:9.1f} {n * mean[place]:9.1f}")
    numbers = {
        "groups_drawn": int((counts > 0).sum()),
        "groups_expected_from_the_policy": expected_groups(policy, n),
        "spread_of_groups_from_draw_to_draw": spread_of_groups(policy, n),
        "groups_expected_from_lower_bounds": expected_groups(bound, n),
        "groups_expected_from_unbiased_estimates": expected_groups(mean, n),
        "correlation_of_log_shares": float(np.corrcoef(np.log(policy), np.log(bound))[0, 1]),
    }
    for name, value in numbers.items():
        typer.echo(f"{name:42} {value:.2f}")
    if output:
        output.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
