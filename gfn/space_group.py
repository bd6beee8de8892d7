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
        self.after_system = np.array([index[s, POINTS] for s in system])
        self.after_point = np.array([index[SYSTEMS, p] for p in point])
        self.after_both = np.array([index[s, p] for s, p in zip(system, point, strict=True)])
        self._system_action, self._point_action = system, SYSTEMS + point
        self._group_action = SYSTEMS + POINTS + self.groups - 1

    def log_probability(self, log_policy: torch.Tensor) -> torch.Tensor:
        """``(g,)`` log-probabilities of the feasible groups, from the log-policy ``(s, 243)`` of all states."""
        import torch

        def log(state: np.ndarray | int, action: np.ndarray) -> torch.Tensor:
            return log_policy[torch.as_tensor(state), torch.as_tensor(action)]

        system, point = log(0, self._system_action), log(0, self._point_action)
        both = torch.logaddexp(system + log(self.after_system, self._point_action), point + log(self.after_point, self._system_action))
        ways = [
            log(0, self._group_action),
            system + log(self.after_system, self._group_action),
            point + log(self.after_point, self._group_action),
            both + log(self.after_both, self._group_action),
        ]
        return torch.logsumexp(torch.stack(ways), dim=0)
