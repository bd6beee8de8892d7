"""Trajectories: sampled forwards from a policy, or retraced backwards from finished crystals.

All rows finish one subspace before the next begins, rows that stop leave the batch, and steps with a single allowed action never reach the
network. What is kept is what the loss needs: the states, the masks and the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gfn.policy import Policy, Prepared, beta_parameters
from gfn.space_group import SYSTEM_OF

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment

EDGE = 1e-6
"""Draws stay this far from 0 and 1, where densities may be infinite."""


@dataclass(frozen=True)
class Choices:
    """Steps of the composition subspace with more than one allowed action, of all trajectories of a batch.

    Attributes:
        trajectory: ``(s,)`` which trajectory each step belongs to.
        counts: ``(s, elements)`` atoms before the step.
        allowed: ``(s, actions)`` uint8 mask.
        action: ``(s,)`` what was chosen.
    """

    trajectory: np.ndarray
    counts: np.ndarray
    allowed: np.ndarray
    action: np.ndarray

    @classmethod
    def join(cls, parts: list[Choices], offsets: list[int]) -> Choices:
        """One after another; each part's trajectories are renumbered by its offset."""
        return cls(
            np.concatenate([part.trajectory + offset for part, offset in zip(parts, offsets, strict=True)]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "allowed", "action")),
        )


@dataclass(frozen=True)
class Trajectories:
    """Complete trajectories.

    Attributes:
        groups: ``(n,)`` space-group numbers.
        counts: ``(n, elements)`` atoms of each element.
        choices: the composition steps.
        path: ``(n, steps, 6)`` cube coordinates after each lattice step; rows beyond ``length`` repeat the last point.
        length: ``(n,)`` lattice steps, at least 1.
    """

    groups: np.ndarray
    counts: np.ndarray
    choices: Choices
    path: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def cube(self) -> np.ndarray:
        """``(n, 6)`` the final cube coordinates."""
        return self.path[:, -1]

    @classmethod
    def join(cls, parts: list[Trajectories]) -> Trajectories:
        """One after another."""
        steps = max(part.path.shape[1] for part in parts)
        offsets = np.cumsum([0] + [len(part) for part in parts[:-1]]).tolist()
        paths = [np.concatenate([part.path, np.repeat(part.path[:, -1:], steps - part.path.shape[1], axis=1)], axis=1) for part in parts]
        return cls(
            np.concatenate([part.groups for part in parts]),
            np.concatenate([part.counts for part in parts]),
            Choices.join([part.choices for part in parts], offsets),
            np.concatenate(paths),
            np.concatenate([part.length for part in parts]),
        )


@torch.no_grad()
def roll_out(
    environment: CrystalEnvironment,
    policy: Policy | None,
    n: int,
    random: np.random.Generator,
    *,
    exploration: float = 0.0,
    temperature: float = 1.0,
    prepared: Prepared | None = None,
) -> Trajectories:
    """Sample ``n`` trajectories of a policy; without a policy uniformly (group, valid actions, and the lattice uniform in the cube).

    ``exploration`` is the share of steps taken uniformly over the valid actions, ``temperature`` divides the logits of the discrete steps.
    """
    if policy is None:
        groups = random.choice(environment.space_group.groups, n)
        counts, choices = _sample_compositions(environment, None, None, groups, random, exploration, temperature)
        free = environment.lattice.free[SYSTEM_OF[groups]]
        return Trajectories(groups, counts, choices, np.where(free, random.random((n, 6)), 0.0)[:, None], np.ones(n, dtype=np.int64))
    prepared = prepared or policy.prepare(environment)
    groups = _sample_groups(environment, prepared, n, random, exploration, temperature)
    counts, choices = _sample_compositions(environment, policy, prepared, groups, random, exploration, temperature)
    path, length = _sample_lattices(environment, policy, prepared, groups, counts, random, exploration)
    return Trajectories(groups, counts, choices, path, length)


def _draw(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An index per row ``(n, k)`` with probability proportional to the weights, by the inverse of the cumulative sum."""
    cumulative = np.cumsum(weights, axis=1)
    threshold = random.random(len(weights)) * cumulative[:, -1]
    return (cumulative <= threshold[:, None]).sum(axis=1)


def _sample_groups(
    environment: CrystalEnvironment, prepared: Prepared, n: int, random: np.random.Generator, exploration: float, temperature: float
) -> np.ndarray:
    space = environment.space_group
    policy = torch.softmax(prepared.symmetry / temperature, dim=1)
    if exploration:
        allowed = torch.from_numpy(space.allowed)
        policy = (1 - exploration) * policy + exploration * allowed / allowed.sum(dim=1, keepdim=True)
    probability = space.log_probability(torch.log(policy)).exp().double().numpy()
    return space.groups[_draw(np.broadcast_to(probability, (n, len(probability))), random)]


def _sample_compositions(
    environment: CrystalEnvironment,
    policy: Policy | None,
    prepared: Prepared | None,
    groups: np.ndarray,
    random: np.random.Generator,
    exploration: float,
    temperature: float,
) -> tuple[np.ndarray, Choices]:
    space = environment.composition
    partial, rows = space.initial(groups), np.arange(len(groups))
    finished = np.zeros_like(partial.counts)
    steps: list[Choices] = []
    while len(rows):
        allowed = space.allowed(partial)
        options = allowed.sum(axis=1, dtype=np.int64)
        actions = allowed.argmax(axis=1)
        several = np.nonzero(options > 1)[0]
        if len(several):
            mask = allowed[several]
            if policy is None or prepared is None:
                weights = mask
            else:
                weights = _composition_weights(policy, prepared, groups[rows[several]], partial.counts[several], mask, temperature)
                if exploration:
                    uniform = random.random(len(several)) < exploration
                    weights[uniform] = mask[uniform]
            actions[several] = _draw(weights, random)
            steps.append(Choices(rows[several], partial.counts[several], mask, actions[several]))
        space.apply(partial, actions)
        stopped = actions == space.number_of_actions - 1
        finished[rows[stopped]] = partial.counts[stopped]
        going = np.nonzero(~stopped)[0]
        rows, partial = rows[going], partial.rows(going)
    if not steps:
        steps.append(Choices(np.zeros(0, np.int64), finished[:0], np.zeros((0, space.number_of_actions), np.uint8), np.zeros(0, np.int64)))
    return finished, Choices.join(steps, [0] * len(steps))


def _composition_weights(
    policy: Policy, prepared: Prepared, groups: np.ndarray, counts: np.ndarray, mask: np.ndarray, temperature: float
) -> np.ndarray:
    features = policy.trunk(prepared.forward, torch.from_numpy(groups), torch.from_numpy(counts).float())
    logits = policy.composition_head(features) / temperature
    return torch.softmax(logits.masked_fill_(torch.from_numpy(mask) == 0, -torch.inf), dim=1).numpy()


def _sample_lattices(
    environment: CrystalEnvironment,
    policy: Policy,
    prepared: Prepared,
    groups: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
    exploration: float,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(groups)
    free = environment.lattice.free[SYSTEM_OF[groups]]
    least = policy.settings.minimum_increment
    base = torch.from_numpy(counts).float()
    group_index = torch.from_numpy(groups)
    point, length, rows = np.zeros((n, 6)), np.zeros(n, dtype=np.int64), np.arange(n)
    points: list[np.ndarray] = []
    while len(rows):
        began = bool(points)
        cube = np.concatenate([point[rows], np.full((len(rows), 1), float(began))], axis=1)
        index = torch.from_numpy(rows)
        raw, logit = policy.lattice_head(policy.trunk(prepared.forward, group_index[index], base[index], torch.from_numpy(cube).float()))
        uniform = random.random(len(rows)) < exploration
        if began:
            stop = random.random(len(rows)) < np.where(uniform, 0.5, torch.sigmoid(logit).numpy())
            going = np.nonzero(~stop)[0]
            rows, raw, uniform = rows[going], raw[torch.from_numpy(going)], uniform[going]
        if not len(rows):
            break
        draw = _draw_mixture(raw, free[rows], uniform, random)
        old = point[rows]
        point[rows] = np.where(free[rows], old + least + draw * (1 - old - least) if began else draw, 0.0)
        length[rows] += 1
        points.append(point.copy())
        rows = rows[~(point[rows] > 1 - least).any(axis=1)]  # a coordinate that cannot be raised any more: the stop is forced
    return np.stack(points, axis=1), length


def _draw_mixture(raw: torch.Tensor, free: np.ndarray, uniform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws ``(n, 6)`` from the mixtures ``(n, 6, components, 3)`` of free coordinates: a component first, then one Beta."""
    draw = np.zeros(free.shape)
    rows, dimensions = np.nonzero(free)
    alpha, beta, log_weight = (t.double().numpy() for t in beta_parameters(raw[torch.from_numpy(rows), torch.from_numpy(dimensions)]))
    component = np.minimum(_draw(np.exp(log_weight), random), alpha.shape[1] - 1)
    places = np.arange(len(rows))
    values = random.beta(alpha[places, component], beta[places, component])
    values = np.where(uniform[rows], random.random(len(rows)), values)
    draw[rows, dimensions] = np.clip(values, EDGE, 1 - EDGE)
    return draw


@torch.no_grad()
def retrace(
    environment: CrystalEnvironment,
    policy: Policy,
    groups: np.ndarray,
    counts: np.ndarray,
    cube: np.ndarray,
    random: np.random.Generator,
    prepared: Prepared | None = None,
) -> Trajectories:
    """Trajectories that end in given crystals: the lattice path is sampled from the backward policy, the composition has one path only.

    Raises:
        ValueError: when a crystal lies outside the space (some step of it is not allowed).
    """
    choices = replay_choices(environment, groups, counts)
    free = environment.lattice.free[SYSTEM_OF[groups]]
    point = np.where(free, np.clip(cube, EDGE, 1 - EDGE), 0.0)
    least = policy.settings.minimum_increment
    table = (prepared or policy.prepare(environment)).backward
    base, group_index = torch.from_numpy(counts).float(), torch.from_numpy(groups)
    rows, backwards, length = np.arange(len(groups)), [point.copy()], np.ones(len(groups), dtype=np.int64)
    while True:
        rows = rows[(point[rows] >= least).all(axis=1, where=free[rows])]  # others can only go back to the source
        if len(rows):
            raw, logit = _backward_outputs(policy, table, group_index, base, point, rows)
            back = random.random(len(rows)) < torch.sigmoid(logit).numpy()
            going = np.nonzero(~back)[0]
            rows, raw = rows[going], raw[torch.from_numpy(going)]
        if not len(rows):
            break
        draw = _draw_mixture(raw, free[rows], np.zeros(len(rows), dtype=bool), random)
        old = point[rows]
        point[rows] = np.where(free[rows], old - least - draw * (old - least), 0.0)
        length[rows] += 1
        backwards.append(point.copy())
    steps = len(backwards)
    stacked = np.stack(backwards, axis=1)  # (n, steps, 6), the final point first
    order = np.maximum(length[:, None] - 1 - np.arange(steps)[None], 0)
    return Trajectories(groups, counts, choices, np.take_along_axis(stacked, order[:, :, None], axis=1), length)


def _backward_outputs(
    policy: Policy, table: torch.Tensor, groups: torch.Tensor, counts: torch.Tensor, point: np.ndarray, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.from_numpy(rows)
    cube = torch.from_numpy(np.concatenate([point[rows], np.ones((len(rows), 1))], axis=1)).float()
    raw, logit = policy.backward_head(policy.backward_trunk(table, groups[index], counts[index], cube))
    if policy.settings.backward == "uniform":
        raw, logit = uniform_raw(raw), torch.zeros_like(logit)
    return raw, logit


def uniform_raw(raw: torch.Tensor) -> torch.Tensor:
    """Raw parameters of Beta(1, 1) mixtures in the shape of ``raw``."""
    uniform = torch.zeros_like(raw)
    uniform[..., 0:2] = float(np.log(0.5))
    return uniform


def replay_choices(environment: CrystalEnvironment, groups: np.ndarray, counts: np.ndarray) -> Choices:
    """The composition steps of given compositions.

    Raises:
        ValueError: when a step is not allowed, which means that the crystal is outside the space.
    """
    space = environment.composition
    actions, number = space.actions_of(counts)
    rows, partial = np.arange(len(groups)), space.initial(groups)
    steps = []
    for step in range(actions.shape[1]):
        going = np.nonzero(number[rows] > step)[0]
        rows, partial = rows[going], partial.rows(going)
        if not len(rows):
            break
        allowed, action = space.allowed(partial), actions[rows, step]
        refused = np.nonzero(allowed[np.arange(len(rows)), action] == 0)[0]
        if len(refused):
            raise ValueError(f"{len(refused)} compositions are outside the space, the first in space group {groups[rows[refused[0]]]}")
        several = np.nonzero(allowed.sum(axis=1, dtype=np.int64) > 1)[0]
        steps.append(Choices(rows[several], partial.counts[several], allowed[several], action[several]))
        space.apply(partial, action)
    return Choices.join(steps, [0] * len(steps))
