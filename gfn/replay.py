"""The replay buffer: the best crystals found so far, kept apart from each other."""

from __future__ import annotations

import numpy as np


class ReplayBuffer:
    """Keeps at most ``capacity`` crystals of high reward.

    The diversity rule: a crystal that is as close as ``distance`` in the cube to one of the same group and composition is the same one, and
    only the better of the two stays. Crystals are drawn with probability proportional to their reward.
    """

    def __init__(self, capacity: int, distance: float, elements: int) -> None:
        self.capacity, self.distance = capacity, distance
        self.groups = np.zeros(0, dtype=np.int64)
        self.counts = np.zeros((0, elements), dtype=np.int64)
        self.cube = np.zeros((0, 6))
        self.log_reward = np.zeros(0)

    def __len__(self) -> int:
        return len(self.groups)

    def add(self, groups: np.ndarray, counts: np.ndarray, cube: np.ndarray, log_reward: np.ndarray) -> None:
        """Offer crystals; those worse than everything in a full buffer are passed over."""
        worst = self.log_reward.min() if len(self) >= self.capacity else -np.inf
        better = np.nonzero(log_reward > worst)[0]
        if not len(better):
            return
        groups = np.concatenate([self.groups, groups[better]])
        counts = np.concatenate([self.counts, counts[better]])
        cube = np.concatenate([self.cube, cube[better]])
        log_reward = np.concatenate([self.log_reward, log_reward[better]])
        order = np.argsort(-log_reward, kind="stable")
        kept = order[self._apart(groups[order], counts[order], cube[order])][: self.capacity]
        self.groups, self.counts, self.cube, self.log_reward = groups[kept], counts[kept], cube[kept], log_reward[kept]

    def _apart(self, groups: np.ndarray, counts: np.ndarray, cube: np.ndarray) -> np.ndarray:
        """Mask of the rows that no earlier kept row of the same group and composition is close to."""
        keys: dict[bytes, list[np.ndarray]] = {}
        keep = np.zeros(len(groups), dtype=bool)
        for row in range(len(groups)):
            same = keys.setdefault(groups[row].tobytes() + counts[row].tobytes(), [])
            if all(np.abs(cube[row] - other).max() > self.distance for other in same):
                same.append(cube[row])
                keep[row] = True
        return keep

    def draw(self, n: int, random: np.random.Generator) -> np.ndarray:
        """Indices of ``n`` crystals, with repetition, in proportion to the reward."""
        weight = np.exp(self.log_reward - self.log_reward.max())
        return random.choice(len(self), size=n, p=weight / weight.sum())

    def state(self) -> dict[str, np.ndarray]:
        """Arrays to save."""
        return {"groups": self.groups, "counts": self.counts, "cube": self.cube, "log_reward": self.log_reward}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.groups, self.counts, self.cube, self.log_reward = (state[name] for name in ("groups", "counts", "cube", "log_reward"))
