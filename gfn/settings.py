"""Settings of the sampler: the ``sampler:`` section of a campaign."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

from pydantic import Field, model_validator

from gfn.constraints import Settings

SMALLEST_FACTOR = 0.003
"""Where the cosine schedule ends, so that training may go on beyond it."""


class SamplerSettings(Settings):
    """Policy, optimiser and training of the Crystal-GFN; the defaults are the paper's where the paper has one."""

    hidden_units: int = Field(default=256, ge=8, description="width of the hidden layers of both policies")
    hidden_layers: int = Field(default=3, ge=1, description="hidden layers of each policy")
    mixture_components: int = Field(default=5, ge=1, description="Beta distributions per free lattice coordinate")
    minimum_increment: float = Field(default=0.1, gt=0, lt=0.5, description="smallest step of a cube coordinate")
    backward: Literal["learned", "uniform"] = Field(
        default="learned",
        description="backward policy of the lattice: a network, or uniform increments and an even choice to go back to the source",
    )
    iterations: int = Field(default=5000, ge=1, description="training iterations of a run (the paper: 50,000 of 10 trajectories)")
    batch_size: int = Field(default=100, ge=1, description="trajectories sampled from the policy in an iteration")
    replay_size: int = Field(default=0, ge=0, description="trajectories an iteration retraces from the replay buffer")
    replay_capacity: int = Field(default=1000, ge=1, description="crystals the replay buffer keeps")
    replay_distance: float = Field(
        default=0.1,
        ge=0,
        description="crystals of one group and composition closer than this in the cube count as one in the replay buffer",
    )
    dataset_size: int = Field(
        default=0,
        ge=0,
        description="trajectories an iteration retraces from known crystals: a data set, or what this campaign and earlier ones measured",
    )
    exploration: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="while training: share of trajectories that begin in a space group drawn evenly from all and then follow the policy; "
        "in the others, share of steps taken uniformly over the valid actions",
    )
    temperature: float = Field(default=1.0, gt=0, description="the sampler aims at reward ** (1 / temperature)")
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's step size for the policies (the paper: 1e-4 with batches of 10)")
    learning_rate_log_z: float = Field(default=0.1, gt=0, description="Adam's step size for the log-partition function")
    schedule: Literal["step", "cosine"] = Field(
        default="step",
        description="step: the step sizes shrink by `learning_rate_decay` every `decay_every` iterations; "
        "cosine: they fall to next to nothing over `iterations`, which is best for a run of known length",
    )
    learning_rate_decay: float = Field(default=0.5, gt=0, le=1, description="factor of the step sizes every `decay_every` iterations")
    decay_every: int = Field(default=2000, ge=1, description="iterations between decays")
    gradient_clipping: float = Field(default=10.0, gt=0, description="largest norm of the gradient of the policies")
    reward_floor: float = Field(default=-18.42068, description="smallest log-reward (natural logarithm of 1e-8), also given to NaN")

    def learning_rate_factor(self, iteration: int) -> float:
        """What the step sizes are multiplied by at an iteration."""
        if self.schedule == "step":
            return self.learning_rate_decay ** (iteration // self.decay_every)
        return max(SMALLEST_FACTOR, 0.5 * (1 + cos(pi * min(1.0, iteration / self.iterations))))

    @model_validator(mode="after")
    def _consistent(self) -> SamplerSettings:
        if self.replay_size > self.replay_capacity:
            raise ValueError(f"replay_size {self.replay_size} exceeds replay_capacity {self.replay_capacity}")
        return self
