"""Compiled kernels for what happens between two evaluations of a network: draws, and the steps of lattice paths as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from gfn.lattice import DIMENSIONS

EDGE = 1e-6
"""Draws stay this far from 0 and 1, where densities may be infinite."""


@njit(cache=True)
def draw_actions(logits, allowed, temperature, threshold, uniform):
    """An allowed action a row: in proportion to exp(logits / temperature), or evenly where ``uniform``.

    ``logits`` and ``allowed`` ``(n, actions)``, ``threshold`` ``(n,)`` uniform numbers in [0, 1) that decide the draws.
    """
    n, actions = allowed.shape
    places, weights = np.empty(actions, np.int64), np.empty(actions)
    chosen = np.empty(n, np.int64)
    for row in range(n):
        number, highest = 0, -np.inf
        for action in range(actions):
            if allowed[row, action]:
                places[number] = action
                weights[number] = 0.0 if uniform[row] else logits[row, action] / temperature
                highest = max(highest, weights[number])
                number += 1
        total = 0.0
        for i in range(number):
            total += np.exp(weights[i] - highest)
            weights[i] = total
        i = 0
        while i < number - 1 and weights[i] <= threshold[row] * total:
            i += 1
        chosen[row] = places[i]
    return chosen


@njit(cache=True)
def draw_components(raw, free, threshold, smallest, log_range):
    """The two parameters of one Beta of each free coordinate's mixture, drawn by its weight.

    ``raw`` ``(n, 6, components, 3)`` as a lattice head gives it, ``free`` ``(n, 6)``, ``threshold`` a uniform number for each free
    coordinate, row by row. Returns ``(free coordinates, 2)``.
    """
    n, dimensions, components, _ = raw.shape
    shapes = np.empty((threshold.shape[0], 2))
    weights = np.empty(components)
    place = 0
    for row in range(n):
        for dimension in range(dimensions):
            if not free[row, dimension]:
                continue
            highest, total, component = -np.inf, 0.0, 0
            for i in range(components):
                highest = max(highest, raw[row, dimension, i, 2])
            for i in range(components):
                total += np.exp(raw[row, dimension, i, 2] - highest)
                weights[i] = total
            while component < components - 1 and weights[component] <= threshold[place] * total:
                component += 1
            for i in range(2):
                shapes[place, i] = smallest * np.exp(log_range / (1.0 + np.exp(-raw[row, dimension, component, i])))
            place += 1
    return shapes


class Steps(NamedTuple):
    """The lattice steps of a batch of trajectories in one direction: ``r`` states that a policy decides in, ``m`` moved coordinates.

    Attributes:
        trajectory: ``(r,)`` which trajectory each state belongs to.
        point: ``(r, 7)`` its cube coordinates, and 1 once the lattice has begun.
        sign: ``(r,)`` -1 where it chose to go on, 1 where to end (to stop, or to go back to the source), 0 where there was no choice.
        mixture: ``(m,)`` ``6 x state + coordinate`` of each moved coordinate.
        mover: ``(m,)`` the trajectory of each moved coordinate.
        fraction: ``(m,)`` how far it moved, in units of the room it had.
        log_room: ``(m,)`` the logarithm of that room.
    """

    trajectory: np.ndarray
    point: np.ndarray
    sign: np.ndarray
    mixture: np.ndarray
    mover: np.ndarray
    fraction: np.ndarray
    log_room: np.ndarray


def forward_steps(path: np.ndarray, length: np.ndarray, free: np.ndarray, least: float) -> Steps:
    """The steps from the source to the end of paths ``(n, steps, 6)``: raises by at least ``least``, and choices to stop."""
    states = int((length + 1).sum())
    steps = _empty(states, int((length * free.sum(axis=1)).sum()))
    return _trimmed(steps, *_fill_forward(path, length, free, least, *steps))


def backward_steps(path: np.ndarray, length: np.ndarray, free: np.ndarray, least: float) -> Steps:
    """The steps from the end of paths back to the source: the raises undone, and choices to go back to the source."""
    states = int(length.sum())
    steps = _empty(states, int(((length - 1) * free.sum(axis=1)).sum()))
    return _trimmed(steps, *_fill_backward(path, length, free, least, *steps))


def _empty(states: int, moves: int) -> Steps:
    whole = (np.empty(moves, dtype=np.int64) for _ in range(2))
    real = (np.empty(moves, dtype=np.float32) for _ in range(2))
    return Steps(np.empty(states, np.int64), np.empty((states, DIMENSIONS + 1), np.float32), np.empty(states, np.float32), *whole, *real)


def _trimmed(steps: Steps, states: int, moves: int) -> Steps:
    return Steps(*(array[:states] for array in steps[:3]), *(array[:moves] for array in steps[3:]))


@njit(cache=True)
def _fill_forward(path, length, free, least, trajectory, point, sign, mixture, mover, fraction, log_room):
    state, move = 0, 0
    for row in range(path.shape[0]):
        for step in range(length[row] + 1):  # state 0 is the source, state `step` the point after that many raises
            raises, forced = step < length[row], False
            for d in range(path.shape[2]):
                forced = forced or (step > 0 and path[row, step - 1, d] > 1 - least)
            if forced and not raises:
                continue
            trajectory[state] = row
            point[state] = 0.0
            if step > 0:
                point[state, :-1] = path[row, step - 1]
                point[state, -1] = 1.0
            sign[state] = 0.0 if step == 0 else (-1.0 if raises else 1.0)
            for d in range(path.shape[2]):
                if raises and free[row, d]:
                    low = path[row, step - 1, d] + least if step > 0 else 0.0
                    mixture[move], mover[move] = path.shape[2] * state + d, row
                    fraction[move] = min(max((path[row, step, d] - low) / (1 - low), EDGE), 1 - EDGE)
                    log_room[move] = np.log(1 - low)
                    move += 1
            state += 1
    return state, move


@njit(cache=True)
def _fill_backward(path, length, free, least, trajectory, point, sign, mixture, mover, fraction, log_room):
    state, move = 0, 0
    for row in range(path.shape[0]):
        for step in range(length[row]):  # the point after `step + 1` raises
            lowers, forced = step > 0, False
            for d in range(path.shape[2]):
                forced = forced or (free[row, d] and path[row, step, d] < least)
            if forced and not lowers:
                continue
            trajectory[state] = row
            point[state, :-1] = path[row, step]
            point[state, -1] = 1.0
            sign[state] = -1.0 if lowers else 1.0
            for d in range(path.shape[2]):
                if lowers and free[row, d]:
                    room = path[row, step, d] - least
                    mixture[move], mover[move] = path.shape[2] * state + d, row
                    fraction[move] = min(max(1 - path[row, step - 1, d] / room, EDGE), 1 - EDGE)
                    log_room[move] = np.log(room)
                    move += 1
            state += 1
    return state, move
