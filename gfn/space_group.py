"""The space-group subspace: lattice system, point symmetry and space group, set in any order.

Setting the space group fixes the other two attributes and ends the subspace. Its states without a group (nothing set, one attribute set,
both set) are few: about forty. So the policy is evaluated on all of them at once, and the probability of a group is the exact sum over
the five ways of reaching it: directly, after either attribute, or after both in either order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gfn.symmetry import LATTICE_SYSTEMS, POINT_SYMMETRIES, lattice_system, point_symmetry

if TYPE_CHECKING:
    import torch

SYSTEMS, POINTS, GROUPS = len(LATTICE_SYSTEMS), len(POINT_SYMMETRIES), 230
NUMBER_OF_ACTIONS = SYSTEMS + POINTS + GROUPS
SYSTEM_OF = np.array([0] + [lattice_system(group) for group in range(1, 231)])
"""Lattice system by space-group number (index 0 is unused)."""
POINT_OF = np.array([0] + [point_symmetry(group) for group in range(1, 231)])
"""Point symmetry by space-group number (index 0 is unused)."""


class SpaceGroupSpace:
    """States and masks over the feasible groups.

    Attributes:
        groups: ``(g,)`` feasible space-group numbers, ascending.
        system, point: ``(s,)`` the attributes of each state, the number of systems / point symmetries where unset; state 0 has neither.
        allowed: ``(s, 243)`` bool; actions are the 8 systems, the 5 point symmetries and the 230 groups.
    """

    def __init__(self, feasible: np.ndarray) -> None:
        self.groups = np.nonzero(feasible)[0]
        system, point = SYSTEM_OF[self.groups], POINT_OF[self.groups]
        states = {(SYSTEMS, POINTS)} | {(s, POINTS) for s in system} | {(SYSTEMS, p) for p in point} | set(zip(system, point, strict=True))
        ordered = sorted(states, key=lambda state: (state[0] != SYSTEMS or state[1] != POINTS, state))
        index = {state: i for i, state in enumerate(ordered)}
        self.system, self.point = (np.array(values) for values in zip(*ordered, strict=True))
        self.allowed = np.zeros((len(ordered), NUMBER_OF_ACTIONS), dtype=bool)
        for i, (s, p) in enumerate(ordered):
            matching = ((system == s) | (s == SYSTEMS)) & ((point == p) | (p == POINTS))
            if s == SYSTEMS:
                self.allowed[i, system[matching]] = True
            if p == POINTS:
                self.allowed[i, SYSTEMS + point[matching]] = True
            self.allowed[i, SYSTEMS + POINTS + self.groups[matching] - 1] = True
        self._ways = self._five_ways(system, point, index)

    def _five_ways(self, system: np.ndarray, point: np.ndarray, index: dict[tuple[int, int], int]) -> np.ndarray:
        """``(5, 3, g)``: the steps of the five ways of reaching each group, as places in the flattened policy.

        The place after the last one stands for a step that is not taken.
        """

        def state(systems: np.ndarray, points: np.ndarray) -> np.ndarray:
            return NUMBER_OF_ACTIONS * np.array([index[key] for key in zip(systems, points, strict=True)])

        no_system, no_point = np.full_like(system, SYSTEMS), np.full_like(point, POINTS)
        with_system, with_point, with_both = state(system, no_point), state(no_system, point), state(system, point)
        to_system, to_point, to_group = system, SYSTEMS + point, SYSTEMS + POINTS + self.groups - 1
        none = np.full(len(self.groups), self.allowed.size)
        return np.array(
            [
                [to_group, none, none],
                [to_system, with_system + to_group, none],
                [to_point, with_point + to_group, none],
                [to_system, with_system + to_point, with_both + to_group],
                [to_point, with_point + to_system, with_both + to_group],
            ]
        )

    def reaching(self, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The states ``(k,)`` from which some groups are reached, and the ways to them ``(5, 3, g)`` as places in the policy of those.

        ``groups`` are feasible and ascending; without them all feasible groups.
        """
        if groups is None:
            return np.arange(len(self.system)), self._ways
        state, action = np.divmod(self._ways[:, :, np.searchsorted(self.groups, groups)], NUMBER_OF_ACTIONS)
        used = np.zeros(len(self.system) + 1, dtype=bool)
        used[state] = True
        place = np.cumsum(used) - 1
        return np.nonzero(used[:-1])[0], NUMBER_OF_ACTIONS * place[state] + action


def log_probability(log_policy: torch.Tensor, ways: np.ndarray) -> torch.Tensor:
    """``(g,)`` log-probabilities of groups from the log-policy ``(k, 243)`` of the states that reach them (see ``reaching``)."""
    import torch

    steps = torch.cat([log_policy.flatten(), log_policy.new_zeros(1)])[torch.from_numpy(ways)]
    return torch.logsumexp(steps.sum(1), dim=0)
