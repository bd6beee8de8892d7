"""Trajectory Balance: log-probabilities of trajectories under both policies, and the loss.

For a trajectory to a crystal x, Z P_F(trajectory) = R(x) P_B(trajectory | x) (Malkin et al. 2022). The probability of the space group is
the exact sum over the orders of its attributes, and a composition has one trajectory, so P_B concerns the lattice alone. Densities of the
lattice are with respect to the cube coordinates, including the Jacobians of the raises (Lahlou et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from gfn.policy import Policy, Prepared, log_mixture
from gfn.space_group import SYSTEM_OF
from gfn.trajectories import EDGE, Trajectories, uniform_raw

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment


def log_forward(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, prepared: Prepared) -> torch.Tensor:
    """``(n,)`` log P_F of complete trajectories, including the space group."""
    discrete = log_discrete(environment, policy, trajectories, prepared)
    return discrete + _log_lattice_forward(environment, policy, prepared.forward, trajectories)


def log_discrete(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, prepared: Prepared) -> torch.Tensor:
    """``(n,)`` exact log-probability of space group and composition."""
    space = environment.space_group
    log_group = space.log_probability(torch.log_softmax(prepared.symmetry, dim=1))
    place = torch.from_numpy(np.searchsorted(space.groups, trajectories.groups))
    return log_group[place] + _log_composition(policy, prepared.forward, trajectories)


def loss(
    environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, log_reward: torch.Tensor, prepared: Prepared
) -> torch.Tensor:
    """``(n,)`` squared residuals of Trajectory Balance."""
    forward = log_forward(environment, policy, trajectories, prepared)
    return (policy.log_z + forward - log_reward - log_backward(environment, policy, trajectories, prepared)).square()


def _log_composition(policy: Policy, table: torch.Tensor, trajectories: Trajectories) -> torch.Tensor:
    choices = trajectories.choices
    total = torch.zeros(len(trajectories))
    if not len(choices.action):
        return total
    trajectory = torch.from_numpy(choices.trajectory)
    groups = torch.from_numpy(trajectories.groups[choices.trajectory])
    logits = policy.composition_head(policy.trunk(table, groups, torch.from_numpy(choices.counts).float()))
    logits = logits.masked_fill(torch.from_numpy(choices.allowed) == 0, -torch.inf)
    chosen = logits.gather(1, torch.from_numpy(choices.action)[:, None])[:, 0] - torch.logsumexp(logits, dim=1)
    return total.index_add(0, trajectory, chosen)


def _log_lattice_forward(environment: CrystalEnvironment, policy: Policy, table: torch.Tensor, trajectories: Trajectories) -> torch.Tensor:
    """Every state from the source to the last one: the raise to the next point where there is one, and the choice to stop or not."""
    least = policy.settings.minimum_increment
    free = environment.lattice.free[SYSTEM_OF[trajectories.groups]]
    n, steps, _ = trajectories.path.shape
    before = np.concatenate([np.zeros((n, 1, 6)), trajectories.path], axis=1)  # states 0 (source) to steps
    state = np.arange(steps + 1)[None]
    raises = state < trajectories.length[:, None]
    forced = (before > 1 - least).any(axis=2)
    decides = (state > 0) & ~forced & (state <= trajectories.length[:, None])
    rows, places = np.nonzero(raises | decides)
    points = before[rows, places]
    cube = np.concatenate([points, (places > 0)[:, None]], axis=1)
    groups, counts = torch.from_numpy(trajectories.groups[rows]), torch.from_numpy(trajectories.counts[rows]).float()
    raw, logit = policy.lattice_head(policy.trunk(table, groups, counts, torch.from_numpy(cube).float()))
    total = torch.zeros(n).index_add(0, torch.from_numpy(rows), _bernoulli(logit, raises[rows, places], decides[rows, places]))
    up = np.nonzero(raises[rows, places])[0]
    target = trajectories.path[rows[up], places[up]]
    first = (places[up] == 0)[:, None]
    room = np.where(first, 1.0, 1 - points[up] - least)
    fraction = np.where(first, target, target - points[up] - least) / room
    return total.index_add(0, *_densities(raw, up, rows[up], free[rows[up]], fraction, room))


def log_backward(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, prepared: Prepared) -> torch.Tensor:
    """``(n,)`` log P_B of the lattice paths given their ends."""
    least = policy.settings.minimum_increment
    free = environment.lattice.free[SYSTEM_OF[trajectories.groups]]
    n, steps, _ = trajectories.path.shape
    place = np.arange(steps)[None]
    lowers = (place > 0) & (place < trajectories.length[:, None])
    forced = ((trajectories.path < least) & free[:, None]).any(axis=2)
    decides = ~forced & (place < trajectories.length[:, None])
    rows, places = np.nonzero(lowers | decides)
    if not len(rows):
        return torch.zeros(n)
    points = trajectories.path[rows, places]
    if policy.settings.backward == "uniform":
        raw = uniform_raw(torch.zeros(len(rows), 6, policy.settings.mixture_components, 3))
        logit = torch.zeros(len(rows))
    else:
        cube = np.concatenate([points, np.ones((len(rows), 1))], axis=1)
        groups, counts = torch.from_numpy(trajectories.groups[rows]), torch.from_numpy(trajectories.counts[rows]).float()
        raw, logit = policy.backward_head(policy.backward_trunk(prepared.backward, groups, counts, torch.from_numpy(cube).float()))
    total = torch.zeros(n).index_add(0, torch.from_numpy(rows), _bernoulli(logit, lowers[rows, places], decides[rows, places]))
    down = np.nonzero(lowers[rows, places])[0]
    target = trajectories.path[rows[down], places[down] - 1]
    room = points[down] - least
    fraction = (room - target) / np.where(free[rows[down]], room, 1.0)
    return total.index_add(0, *_densities(raw, down, rows[down], free[rows[down]], fraction, room))


def _bernoulli(logit: torch.Tensor, goes_on: np.ndarray, decides: np.ndarray) -> torch.Tensor:
    """Log-probability of going on (or not) where there was a choice; 0 elsewhere."""
    sign = torch.from_numpy(np.where(goes_on, -1.0, 1.0)).float()
    return functional.logsigmoid(sign * logit) * torch.from_numpy(decides)


def _densities(
    raw: torch.Tensor, states: np.ndarray, trajectory: np.ndarray, free: np.ndarray, fraction: np.ndarray, room: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Trajectory index and log-density of each moved coordinate: the mixture at its fraction, and the Jacobian -log(room)."""
    moves, dimensions = np.nonzero(free)
    values = torch.from_numpy(np.clip(fraction[moves, dimensions], EDGE, 1 - EDGE)).float()
    selected = raw[torch.from_numpy(states[moves]), torch.from_numpy(dimensions)]
    jacobian = torch.from_numpy(np.log(room[moves, dimensions])).float()
    return torch.from_numpy(trajectory[moves]), log_mixture(selected, values) - jacobian
