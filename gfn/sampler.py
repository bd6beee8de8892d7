"""Drawing crystals from a policy, inside a restriction if asked, and the probability of a given crystal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gfn.trajectories import retrace, roll_out
from gfn.trajectory_balance import log_discrete, log_ratio

if TYPE_CHECKING:
    from al_crystal.crystal import CrystalBatch
    from gfn.constraints import Restriction
    from gfn.environment import CrystalEnvironment
    from gfn.policy import Policy

CHUNK = 1024
"""Rows sampled together: large enough for the processor, small enough for its cache."""


class Sampler:
    """Draws crystals from a policy; without a policy, uniformly over valid actions (see :meth:`uniform`)."""

    def __init__(self, environment: CrystalEnvironment, policy: Policy | None) -> None:
        self.environment = environment
        self.policy = policy

    @classmethod
    def uniform(cls, environment: CrystalEnvironment) -> Sampler:
        """The control: a uniform feasible group, uniform valid composition actions, a uniform point of the lattice cube."""
        return cls(environment, None)

    def sample(self, n: int, generator: torch.Generator, restriction: Restriction | None = None, temperature: float = 1.0) -> CrystalBatch:
        """Draw ``n`` crystals; all satisfy every hard constraint, and nothing is drawn twice.

        Args:
            n: how many.
            generator: decides the draw.
            restriction: narrows the space. The discrete policy is renormalised over the actions from which a crystal inside the restriction
                can be reached; the lattice coordinates are read on the narrower windows.
            temperature: divides the logits of the discrete steps (above 1: more diverse).

        Raises:
            EmptySpace: when the restriction leaves nothing.
        """
        inside = self.environment.restricted(restriction)
        random = numpy_generator(generator)
        parts = []
        for start in range(0, n, CHUNK):
            drawn = roll_out(inside, self.policy, min(CHUNK, n - start), random, temperature=temperature)
            parts.append((drawn.groups, drawn.counts, drawn.cube))
        groups, counts, cube = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return inside.batch(groups, counts, cube)

    @torch.no_grad()
    def log_probability(self, batch: CrystalBatch, generator: torch.Generator, samples: int = 32) -> torch.Tensor:
        """``(n,)`` log p(x) of crystals inside the space, as a density over the lattice cube.

        Space group and composition are exact; the lattice is averaged over ``samples`` paths retraced by the backward policy and weighted
        by P_F / P_B, which is unbiased for p(x).

        Raises:
            ValueError: when a crystal is outside the space, or this sampler has no policy.
        """
        if self.policy is None:
            raise ValueError("a uniform sampler has no log-probability: it has no policy")
        random = numpy_generator(generator)
        groups, counts, cube = self.environment.states(batch)
        outside = np.nonzero((cube < -1e-3).any(axis=1) | (cube > 1 + 1e-3).any(axis=1))[0]
        if len(outside):
            raise ValueError(f"{len(outside)} crystals have a cell outside the windows of the space, the first is row {outside[0]}")
        ratios = []
        for _ in range(samples):
            trajectories = retrace(self.environment, self.policy, groups, counts, cube, random)
            ratios.append(log_ratio(self.environment, self.policy, trajectories))
        return torch.logsumexp(torch.stack(ratios), dim=0) - float(np.log(samples))

    @torch.no_grad()
    def log_probability_of_composition(self, batch: CrystalBatch) -> torch.Tensor:
        """``(n,)`` exact log-probability of space group and composition, whatever the lattice."""
        if self.policy is None:
            raise ValueError("a uniform sampler has no log-probability: it has no policy")
        groups, counts, cube = self.environment.states(batch)
        trajectories = retrace(self.environment, self.policy, groups, counts, cube, np.random.default_rng(0))
        return log_discrete(self.environment, self.policy, trajectories)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator seeded by one draw of a torch generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
