"""From members and learned error scales to standard deviations that hold what they promise on chemical systems kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from surrogates.network import Output

NINETY = 1.6449
"""Half width of the central 90 % interval of a normal distribution, in standard deviations."""


class PropertyCalibration(BaseModel):
    """``variance = ((scale s)^2 + (spread d)^2) (1 + far distance)^2 inflation^2`` with s the learned scale and d the members' spread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(default=1.25, ge=0, description="factor of the learned error scale")
    spread: float = Field(default=1.0, ge=0, description="factor of the members' standard deviation")
    far: float = Field(default=0.2, ge=0, description="growth per unit of distance from the data")
    inflation: float = Field(default=1.0, gt=0, description="factor learned from labels of the campaign")

    def variance(self, scale: torch.Tensor, spread: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """``(n,)`` of three ``(n,)`` tensors."""
        return ((self.scale * scale).square() + (self.spread * spread).square()) * ((1 + self.far * distance) * self.inflation).square()


class Calibration(BaseModel):
    """How the standard deviations of both properties are made; fitted by :func:`fit`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: PropertyCalibration = PropertyCalibration()
    gap: PropertyCalibration = PropertyCalibration()
    strain: float = Field(default=0.3, ge=0, description="relative error of the strain energy")

    def __call__(self, output: Output, distance: torch.Tensor) -> torch.Tensor:
        """``(n, 2)`` standard deviations in eV/atom and eV, of member outputs ``(s, n)`` and distances ``(n,)``."""
        energy, gap = inputs(output)
        strain = self.strain * output.strain.mean(0)
        variances = [self.energy.variance(*energy, distance) + strain.square(), self.gap.variance(*gap, distance)]
        return torch.stack(variances, dim=1).sqrt()


def inputs(output: Output) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For energy and gap: the mean learned scale and the members' standard deviation, ``(n,)`` each."""
    return [
        (output.log_scale_energy.clamp(-7, 3).exp().mean(0), spread(output.energy + output.strain)),
        (output.log_scale_gap.clamp(-7, 3).exp().mean(0), spread(output.gap.clamp(min=0))),
    ]


def spread(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the first axis (torch's own is slow along it)."""
    return ((values - values.mean(0)).square().sum(0) / max(1, len(values) - 1)).sqrt()


def fit_property(
    error: torch.Tensor, scale: torch.Tensor, spread: torch.Tensor, distance: torch.Tensor, counted: torch.Tensor
) -> PropertyCalibration:
    """Maximum likelihood of a Student distribution (4 degrees of freedom: errors have heavy tails), then 90 % coverage on ``counted`` rows.

    All are ``(n,)``; ``counted`` is a mask (for gaps the non-metals: on metals the interval is easy and would hide the rest).
    """
    from scipy.optimize import minimize

    def loss(logs: np.ndarray) -> float:
        trial = PropertyCalibration(scale=np.exp(logs[0]), spread=np.exp(logs[1]), far=np.exp(logs[2]))
        variance = trial.variance(scale, spread, distance)
        likelihood = 0.5 * variance.log() + 2.5 * torch.log1p(error.square() / (4 * variance))
        return float(likelihood.mean()) + 1e-3 * float(np.square(logs - start).sum())

    start = np.log([1.0, 1.0, 0.2])
    logs = minimize(loss, start, method="Powell", bounds=[(-5.0, 3.0)] * 3, options={"xtol": 1e-3, "ftol": 1e-6}).x
    found = PropertyCalibration(scale=np.exp(logs[0]), spread=np.exp(logs[1]), far=np.exp(logs[2]))
    ratio = error.abs() / found.variance(scale, spread, distance).sqrt()
    factor = float(ratio[counted].quantile(0.9)) / NINETY
    return PropertyCalibration(scale=round(found.scale * factor, 4), spread=round(found.spread * factor, 4), far=round(found.far, 4))


def fit(
    output: Output,
    distance: torch.Tensor,
    targets: torch.Tensor,
    strain: torch.Tensor | None = None,
    strain_labels: torch.Tensor | None = None,
) -> Calibration:
    """Calibrate on rows that no member was trained on.

    Args:
        output: member outputs ``(s, n)`` as served (source unknown).
        distance: ``(n,)``.
        targets: ``(n, 2)`` labels, NaN where missing.
        strain: ``(cells,)`` predicted strain energies of wrong cells, with ``strain_labels`` the potential's.
    """
    found = []
    values = (output.energy + output.strain).mean(0), output.gap.clamp(min=0).mean(0)
    for column, (value, (scale, spread)) in enumerate(zip(values, inputs(output), strict=True)):
        known = ~targets[:, column].isnan()
        target = targets[known, column]
        counted = target > 0 if column == 1 else torch.ones_like(target, dtype=torch.bool)
        found.append(fit_property(value[known] - target, scale[known], spread[known], distance[known], counted))
    relative = Calibration().strain
    if strain is not None and strain_labels is not None:
        large = strain > 0.1
        relative = float(((strain - strain_labels).abs() / strain)[large].quantile(0.9)) / NINETY
    return Calibration(energy=found[0], gap=found[1], strain=round(relative, 4))
