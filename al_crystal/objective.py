"""What the campaign wants: targets on properties, their desirability in [0, 1], and the log-reward of a prediction.

Desirability functions after Derringer and Suich, J. Quality Technology 12, 214 (1980): each target maps its property to [0, 1], and
the whole is their weighted geometric mean, so that a crystal which misses one target entirely is not desirable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

if TYPE_CHECKING:
    import torch


class _Target(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    weight: float = Field(1.0, gt=0, description="exponent in the geometric mean of the desirabilities")
    trusted: float | None = Field(
        None,
        gt=0,
        description="standard deviation, in the property's unit, at which exp(-1/2) of the reward is left; null: all, at any",
    )


class Near(_Target):
    """exp(-(x - near)^2 / (2 width^2)); width 0.25 is the Crystal-GFN paper's exp(-8 (x - near)^2)."""

    near: float = Field(description="the wanted value, in the property's unit")
    width: float = Field(0.25, gt=0, description="distance from the wanted value at which desirability is 0.61")

    def desirability(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise in [0, 1]."""
        return (-0.5 * ((x - self.near) / self.width) ** 2).exp()

    def describe(self) -> str:
        """The target in words."""
        return f"near {self.near:g} ± {self.width:g}"


class Below(_Target):
    """Logistic step: 1 far below, 0.5 at the threshold, 0 far above; falls from 0.73 to 0.27 within ± width."""

    below: float = Field(description="the threshold, in the property's unit")
    width: float = Field(0.1, gt=0, description="softness of the threshold, in the property's unit")

    def desirability(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise in [0, 1]."""
        return ((self.below - x) / self.width).sigmoid()

    def describe(self) -> str:
        """The target in words."""
        return f"below {self.below:g} ± {self.width:g}"


class Above(_Target):
    """Logistic step: 0 far below, 0.5 at the threshold, 1 far above."""

    above: float = Field(description="the threshold, in the property's unit")
    width: float = Field(0.1, gt=0, description="softness of the threshold, in the property's unit")

    def desirability(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise in [0, 1]."""
        return ((x - self.above) / self.width).sigmoid()

    def describe(self) -> str:
        """The target in words."""
        return f"above {self.above:g} ± {self.width:g}"


class Maximise(_Target):
    """Linear from 0 at ``from`` to 1 at ``to``, constant outside; ``from`` > ``to`` minimises."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    worst: float = Field(alias="from", description="value of desirability 0, in the property's unit")
    best: float = Field(alias="to", description="value of desirability 1, in the property's unit")

    @model_validator(mode="after")
    def _not_flat(self) -> Maximise:
        if self.worst == self.best:
            raise ValueError(f"`from` and `to` must differ, both are {self.best:g}")
        return self

    def desirability(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise in [0, 1]."""
        return ((x - self.worst) / (self.best - self.worst)).clamp(0.0, 1.0)

    def describe(self) -> str:
        """The target in words."""
        return f"from {self.worst:g} towards {self.best:g}"


def _kind(value: Any) -> str | None:
    keys = value if isinstance(value, Mapping) else vars(value)
    for kind in ("near", "below", "above"):
        if kind in keys:
            return kind
    return "range" if {"from", "to", "worst", "best"} & set(keys) else None


Target = Annotated[
    Annotated[Near, Tag("near")] | Annotated[Below, Tag("below")] | Annotated[Above, Tag("above")] | Annotated[Maximise, Tag("range")],
    Discriminator(
        _kind,
        custom_error_type="target",
        custom_error_message="a target is one of {near, width}, {below, width}, {above, width} or {from, to}",
    ),
]


class Objective(BaseModel):
    """The YAML section ``objective``: targets by property, and how a prediction becomes a log-reward."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: dict[str, Target] = Field(min_length=1, description="target of each property: near, below, above, or from/to")
    pessimism: float = Field(1.0, ge=0, description="how strongly an uncertain prediction is marked down (0: not at all)")
    sharpness: float = Field(8.0, gt=0, description="inverse temperature: reward = desirability ** sharpness")

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the properties with a target."""
        return tuple(self.targets)

    def desirability(self, values: Mapping[str, Any]) -> torch.Tensor:
        """Weighted geometric mean of the targets' desirabilities, ``(n,)``; of arrays, tensors or lists of property values."""
        import torch

        result = torch.ones((), dtype=torch.float64)
        for name, weight in self._weights().items():
            x = torch.as_tensor(values[name], dtype=torch.float64)
            result = result * self.targets[name].desirability(x) ** weight
        return result

    def expected(
        self, mean: Mapping[str, torch.Tensor], standard_deviation: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second moment of the desirability of independent normal properties, ``(n,)`` each (Gauss-Hermite, 32 nodes)."""
        import torch

        nodes, weights = (torch.as_tensor(part, dtype=torch.float64) for part in _gauss_hermite())
        first = second = torch.ones((), dtype=torch.float64)
        for name, exponent in self._weights().items():
            x = mean[name].double()[:, None] + standard_deviation[name].double()[:, None] * nodes
            desirability = self.targets[name].desirability(x) ** exponent
            first, second = first * (desirability @ weights), second * (desirability**2 @ weights)
        return first, second

    def log_reward(self, mean: Mapping[str, torch.Tensor], standard_deviation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Log-reward ``(n,)`` of predictions: sharpness * (log E[d] - pessimism / 2 * log(E[d^2] / E[d]^2)) - trust.

        The second term is zero for a certain prediction and marks down one that is only desirable on average; since
        E[d^2] <= E[d] it is bounded, so an uncertain but promising crystal keeps a finite reward. The third is the sum of
        (standard deviation / trusted)^2 / 2 over the targets that state ``trusted``: a sampler goes where a
        surrogate errs in its favour, and that is where it is unsure.
        """
        first, second = self.expected(mean, standard_deviation)
        log_first = first.clamp_min(1e-30).log()
        log_ratio = (second.clamp_min(1e-30).log() - 2 * log_first).clamp_min(0.0)
        reward = self.sharpness * (log_first - 0.5 * self.pessimism * log_ratio)
        for name, target in self.targets.items():
            if target.trusted is not None:
                reward = reward - 0.5 * (standard_deviation[name].double() / target.trusted).square()
        return reward

    def _weights(self) -> dict[str, float]:
        total = sum(target.weight for target in self.targets.values())
        return {name: target.weight / total for name, target in self.targets.items()}


@cache
def _gauss_hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    return nodes, weights / weights.sum()
