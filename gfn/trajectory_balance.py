"""Trajectory Balance: log-probabilities of trajectories under both policies, and the loss.

For a trajectory to a crystal x, Z P_F(trajectory) = R(x) P_B(trajectory | x) (Malkin et al. 2022). The probability of the space group is
the exact sum over the orders of its attributes, and a composition has one trajectory, so P_B concerns the lattice alone. Densities of the
lattice are with respect to the cube coordinates, including the Jacobians of the raises (Lahlou et al. 2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from gfn.draws import backward_steps, forward_steps
from gfn.policy import ROWS_OF_GROUP, Policy, log_mixture, symmetry_rows
from gfn.space_group import SYSTEM_OF, log_probability
from gfn.trajectories import Trajectories

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment


def loss(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, log_reward: torch.Tensor) -> torch.Tensor:
    """``(n,)`` squared residuals of Trajectory Balance."""
    return (policy.log_z + log_ratio(environment, policy, trajectories) - log_reward).square()


def log_discrete(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories) -> torch.Tensor:
    """``(n,)`` exact log-probability of space group and composition."""
    states = _discrete_states(environment, trajectories)
    return _log_discrete(
        environment, policy, trajectories, states, policy.trunk(policy.trunk.embed(states.symmetry), policy.trunk.describe(states.counts))
    )


def log_ratio(environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories) -> torch.Tensor:
    """``(n,)`` log P_F of complete trajectories minus log P_B of their lattice paths given the crystals.

    Each trunk is evaluated once, on the states of all subspaces together: at small batches the number of operations is what costs.
    """
    groups, counts = trajectories.groups, trajectories.counts
    free, least = environment.lattice.free[SYSTEM_OF[groups]], policy.settings.minimum_increment
    up = forward_steps(trajectories.path, trajectories.length, free, least)
    down = backward_steps(trajectories.path, trajectories.length, free, least)
    discrete = _discrete_states(environment, trajectories)
    before = len(discrete.counts)
    symmetry = np.concatenate([discrete.symmetry, ROWS_OF_GROUP[groups[up.trajectory]]])
    points = np.concatenate([np.zeros((before, up.point.shape[1]), dtype=np.float32), up.point])
    numbers = policy.trunk.describe(np.concatenate([discrete.counts, counts[up.trajectory]]), points)
    features = policy.trunk(policy.trunk.embed(symmetry), numbers)
    total = _log_discrete(environment, policy, trajectories, discrete, features[:before])
    raw, logit = policy.lattice_head(features[before:])
    numbers = policy.backward_trunk.describe(counts[down.trajectory], down.point)
    raw_back, logit_back = policy.backward_outputs(ROWS_OF_GROUP[groups[down.trajectory]], numbers)
    # Both directions in one go: the ends, then the moves; what the backward policy says counts negatively.
    end = np.concatenate([up.sign, down.sign])
    ends = functional.logsigmoid(torch.from_numpy(end) * torch.cat([logit, logit_back])) * torch.from_numpy(end * end)
    selected = [
        out.reshape(-1, *out.shape[2:]).index_select(0, torch.from_numpy(steps.mixture)) for out, steps in ((raw, up), (raw_back, down))
    ]
    fraction = torch.from_numpy(np.concatenate([up.fraction, down.fraction]))
    moves = log_mixture(torch.cat(selected), fraction) - torch.from_numpy(np.concatenate([up.log_room, down.log_room]))
    sizes = [len(up.trajectory), len(down.trajectory), len(up.mover), len(down.mover)]
    sign = torch.from_numpy(np.repeat(np.array([1, -1, 1, -1], dtype=np.float32), sizes))
    where = np.concatenate([up.trajectory, down.trajectory, up.mover, down.mover])
    return total.index_add(0, torch.from_numpy(where), sign * torch.cat([ends, moves]))


class DiscreteStates(NamedTuple):
    """The states of the discrete subspaces that a batch needs: those that reach its space groups, then those of its composition steps."""

    symmetry: np.ndarray  # (n, 3) rows of the embedding table
    counts: np.ndarray  # (n, elements)
    reaching: np.ndarray  # (k,) states of the space-group subspace
    ways: np.ndarray  # (5, 3, g) see SpaceGroupSpace.reaching
    group: np.ndarray  # (trajectories,) which of the g groups each trajectory has


def _discrete_states(environment: CrystalEnvironment, trajectories: Trajectories) -> DiscreteStates:
    space, choices = environment.space_group, trajectories.choices
    different, group = np.unique(trajectories.groups, return_inverse=True)
    reaching, ways = space.reaching(different)
    steps = ROWS_OF_GROUP[trajectories.groups[choices.trajectory]]
    empty = np.zeros((len(reaching), trajectories.counts.shape[1]), dtype=np.int64)
    symmetry = np.concatenate([symmetry_rows(space.system[reaching], space.point[reaching]), steps])
    return DiscreteStates(symmetry, np.concatenate([empty, choices.counts]), reaching, ways, group)


def _log_discrete(
    environment: CrystalEnvironment, policy: Policy, trajectories: Trajectories, states: DiscreteStates, features: torch.Tensor
) -> torch.Tensor:
    """``(n,)`` log-probability of space group and composition from the features of the states."""
    choices, number = trajectories.choices, len(states.reaching)
    allowed = environment.space_group.allowed[states.reaching]
    log_policy = torch.log_softmax(policy.symmetry_logits(features[:number], allowed), dim=1)
    total = log_probability(log_policy, states.ways).index_select(0, torch.from_numpy(states.group))
    logits = policy.composition_logits(features[number:])
    logits = logits.masked_fill(torch.from_numpy(choices.allowed == 0), -torch.inf)
    chosen = torch.log_softmax(logits, dim=1).gather(1, torch.from_numpy(choices.action)[:, None])
    return total.index_add(0, torch.from_numpy(choices.trajectory), chosen[:, 0])
