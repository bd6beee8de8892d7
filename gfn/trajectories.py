"""Trajectories: sampled forwards from a policy, or retraced backwards from finished crystals.

All rows finish one subspace before the next begins, rows that stop leave the batch, and steps with a single allowed action never reach the
network. What is kept is what the loss needs: the states, the masks and the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import expit

from gfn.draws import EDGE, draw_actions, draw_components
from gfn.policy import LOG_RANGE, ROWS_OF_GROUP, SMALLEST, Policy, symmetry_rows
from gfn.space_group import SYSTEM_OF, log_probability

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment


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


@torch.inference_mode()
def roll_out(
    environment: CrystalEnvironment,
    policy: Policy | None,
    n: int,
    random: np.random.Generator,
    *,
    exploration: float = 0.0,
    temperature: float = 1.0,
) -> Trajectories:
    """Sample ``n`` trajectories of a policy; without a policy uniformly (group, valid actions, and the lattice uniform in the cube).

    ``exploration`` is the share of trajectories that begin in a space group drawn evenly from all and follow the policy from there, so
    that it learns what rare groups are worth; of the others it is the share of steps taken uniformly over the valid actions.
    ``temperature`` divides the logits of the discrete steps.

    Raises:
        RuntimeError: at a dead end, a state without any allowed action; the look-ahead excludes them.
    """
    if policy is None:
        groups = random.choice(environment.space_group.groups, n)
        counts, choices = _sample_compositions(environment, None, groups, random, np.zeros(n), temperature)
        free = environment.lattice.free[SYSTEM_OF[groups]]
        return Trajectories(groups, counts, choices, np.where(free, random.random((n, 6)), 0.0)[:, None], np.ones(n, dtype=np.int64))
    cumulative = np.cumsum(group_probabilities(environment, policy, temperature))
    groups = environment.space_group.groups[np.searchsorted(cumulative, random.random(n) * cumulative[-1], side="right")]
    begun_evenly = random.random(n) < exploration
    groups[begun_evenly] = random.choice(environment.space_group.groups, int(begun_evenly.sum()))
    uniform_steps = np.where(begun_evenly, 0.0, exploration)
    counts, choices = _sample_compositions(environment, policy, groups, random, uniform_steps, temperature)
    path, length = _sample_lattices(environment, policy, groups, counts, random, uniform_steps)
    return Trajectories(groups, counts, choices, path, length)


@torch.inference_mode()
def group_probabilities(environment: CrystalEnvironment, policy: Policy, temperature: float = 1.0) -> np.ndarray:
    """``(g,)`` exact probabilities of ``environment.space_group.groups``: the sum over the orders in which the attributes may be set."""
    space = environment.space_group
    rows = symmetry_rows(space.system, space.point)
    features = policy.trunk(policy.trunk.embed(rows), policy.trunk.describe(np.zeros((len(rows), len(environment.elements)))))
    log_policy = torch.log_softmax(policy.symmetry_logits(features, space.allowed) / temperature, dim=1)
    return log_probability(log_policy, space.reaching()[1]).exp().double().numpy()


def _sample_compositions(
    environment: CrystalEnvironment,
    policy: Policy | None,
    groups: np.ndarray,
    random: np.random.Generator,
    uniform_steps: np.ndarray,
    temperature: float,
) -> tuple[np.ndarray, Choices]:
    space = environment.composition
    partial, rows = space.initial(groups), np.arange(len(groups))
    finished = np.zeros_like(partial.counts)
    embedded = None if policy is None else policy.trunk.embed(ROWS_OF_GROUP[groups])
    steps: list[Choices] = []
    while len(rows):
        allowed = space.allowed(partial)
        options, actions = allowed.sum(axis=1, dtype=np.int64), allowed.argmax(axis=1)
        if not options.all():
            raise RuntimeError(
                f"dead end: no action is allowed after {partial.counts[options == 0][0]} in space group {groups[rows[options == 0]][0]}"
            )
        several = np.nonzero(options > 1)[0]
        if len(several):
            counts, mask = partial.counts[several], allowed[several]
            uniform = np.full(len(several), policy is None)
            logits = np.zeros(mask.shape, dtype=np.float32)
            if policy is not None and embedded is not None:
                features = policy.trunk(embedded[torch.from_numpy(rows[several])], policy.trunk.describe(counts))
                logits = policy.composition_logits(features).numpy()
                uniform = random.random(len(several)) < uniform_steps[rows[several]]
            actions[several] = draw_actions(logits, mask, temperature, random.random(len(several)), uniform)
            steps.append(Choices(rows[several], counts, mask, actions[several]))
        space.apply(partial, actions)
        stopped = actions == space.number_of_actions - 1
        finished[rows[stopped]] = partial.counts[stopped]
        going = np.nonzero(~stopped)[0]
        rows, partial = rows[going], partial.rows(going)
    if not steps:
        steps.append(Choices(np.zeros(0, np.int64), finished[:0], np.zeros((0, space.number_of_actions), np.uint8), np.zeros(0, np.int64)))
    return finished, Choices.join(steps, [0] * len(steps))


def _sample_lattices(
    environment: CrystalEnvironment,
    policy: Policy,
    groups: np.ndarray,
    counts: np.ndarray,
    random: np.random.Generator,
    uniform_steps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(groups)
    free = environment.lattice.free[SYSTEM_OF[groups]]
    least = policy.settings.minimum_increment
    embedded = policy.trunk.embed(ROWS_OF_GROUP[groups])
    point, length, rows = np.zeros((n, 6)), np.zeros(n, dtype=np.int64), np.arange(n)
    points: list[np.ndarray] = []
    while len(rows):
        began = bool(points)
        here = np.concatenate([point[rows], np.full((len(rows), 1), float(began))], axis=1)
        outputs = policy.lattice_head(policy.trunk(embedded[torch.from_numpy(rows)], policy.trunk.describe(counts[rows], here)))
        raw, logit = (out.numpy() for out in outputs)
        uniform = random.random(len(rows)) < uniform_steps[rows]
        if began:
            stop = random.random(len(rows)) < np.where(uniform, 0.5, expit(logit))
            going = np.nonzero(~stop)[0]
            rows, raw, uniform = rows[going], raw[going], uniform[going]
        if not len(rows):
            break
        draw = _draw_mixture(raw, free[rows], uniform, random)
        old = point[rows]
        point[rows] = np.where(free[rows], old + least + draw * (1 - old - least) if began else draw, 0.0)
        length[rows] += 1
        points.append(point.copy())
        rows = rows[~(point[rows] > 1 - least).any(axis=1)]  # a coordinate that cannot be raised any more: the stop is forced
    return np.stack(points, axis=1), length


def _draw_mixture(raw: np.ndarray, free: np.ndarray, uniform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws ``(n, 6)`` from the mixtures ``(n, 6, components, 3)`` of free coordinates: a component first, then one Beta."""
    draw = np.zeros(free.shape)
    moved = int(free.sum())
    shapes = draw_components(raw, free, random.random(moved), SMALLEST, LOG_RANGE)
    shapes[np.repeat(uniform, free.sum(axis=1))] = 1.0  # Beta(1, 1): uniform
    draw[free] = np.clip(random.beta(shapes[:, 0], shapes[:, 1]), EDGE, 1 - EDGE)
    return draw


@torch.inference_mode()
def retrace(
    environment: CrystalEnvironment, policy: Policy, groups: np.ndarray, counts: np.ndarray, cube: np.ndarray, random: np.random.Generator
) -> Trajectories:
    """Trajectories that end in given crystals: the lattice path is sampled from the backward policy, the composition has one path only.

    Raises:
        ValueError: when a crystal lies outside the space (some step of it is not allowed).
    """
    choices = replay_choices(environment, groups, counts)
    free = environment.lattice.free[SYSTEM_OF[groups]]
    point = np.where(free, np.clip(cube, EDGE, 1 - EDGE), 0.0)
    least, symmetry = policy.settings.minimum_increment, ROWS_OF_GROUP[groups]
    rows, backwards, length = np.arange(len(groups)), [point.copy()], np.ones(len(groups), dtype=np.int64)
    while True:
        rows = rows[(point[rows] >= least).all(axis=1, where=free[rows])]  # others can only go back to the source
        if len(rows):
            here = np.concatenate([point[rows], np.ones((len(rows), 1))], axis=1)
            outputs = policy.backward_outputs(symmetry[rows], policy.backward_trunk.describe(counts[rows], here))
            raw, logit = (out.numpy() for out in outputs)
            going = np.nonzero(random.random(len(rows)) >= expit(logit))[0]
            rows, raw = rows[going], raw[going]
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
