"""From members and learned error scales to standard deviations that hold what they promise on chemical systems kept apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from surrogates.network import Output, mean_strain

NINETY = 1.6449
"""Half width of the central 90 % interval of a normal distribution, in standard deviations."""


FLOOR = 0.01
"""eV/atom or eV, added to the members' spread: members that agree by chance are not certain."""


class PropertyCalibration(BaseModel):
    """``deviation = factor s^scale (d + FLOOR)^spread (1 + far distance) inflation``, s the learned scale, d the members' spread.

    A product of powers ranks errors better than a sum of squares does: either alone says little, both together are convincing.
    The mean of the belief lies ``lean`` deviations above what the members say, which is nearer to the median: errors of energies
    are lopsided, a crystal may be far less stable than its like but hardly far more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(default=1.25, gt=0, description="overall factor")
    scale: float = Field(default=1.0, ge=0, description="power of the learned error scale")
    spread: float = Field(default=0.0, ge=0, description="power of the members' standard deviation")
    far: float = Field(default=0.2, ge=0, description="growth per unit of distance from the data")
    lean: float = Field(default=0.0, description="mean of the belief above the members' average, in these deviations")
    inflation: float = Field(default=1.0, gt=0, description="factor learned from labels of the campaign")

    def variance(self, scale: torch.Tensor, spread: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """``(n,)`` of three ``(n,)`` tensors."""
        product = self.factor * scale.pow(self.scale) * (spread + FLOOR).pow(self.spread)
        return (product * (1 + self.far * distance) * self.inflation).square()


class Calibration(BaseModel):
    """How the standard deviations of both properties are made; fitted by :func:`fit`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: PropertyCalibration = PropertyCalibration()
    gap: PropertyCalibration = PropertyCalibration()
    strain: float = Field(default=0.3, ge=0, description="relative error of the strain energy")

    def __call__(self, output: Output, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(n, 2)`` standard deviations in eV/atom and eV, of member outputs ``(s, n)`` and distances ``(n,)``; and ``(n, 2)`` how far
        the means of the beliefs lie above what the members say. The strain's own error makes a belief less sure and leans nowhere."""
        parts = zip((self.energy, self.gap), inputs(output), strict=True)
        own = torch.stack([part.variance(*values, distance) for part, values in parts], dim=1)
        strain = self.strain * mean_strain(output.strain)
        total = own + torch.stack([strain.square(), torch.zeros_like(strain)], dim=1)
        return total.sqrt(), torch.tensor([self.energy.lean, self.gap.lean]) * own.sqrt()


def inputs(output: Output) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For energy and gap: the learned scale, averaged in logarithms as it is learned, and the members' standard deviation, ``(n,)`` each.

    Gaps below zero count as they are: members that agree on a metal only because they are cut off there do not agree.
    """
    return [
        (output.log_scale_energy.clamp(-7, 3).mean(0).exp(), spread(output.energy + output.strain)),
        (output.log_scale_gap.clamp(-7, 3).mean(0).exp(), spread(output.gap)),
    ]


def spread(values: torch.Tensor) -> torch.Tensor:
    """Standard deviation over the first axis (torch's own is slow along it)."""
    return ((values - values.mean(0)).square().sum(0) / max(1, len(values) - 1)).sqrt()


class Evidence(NamedTuple):
    """What an ensemble says of rows that it never learned, as served (source unknown), and what is true.

    Attributes:
        output: member outputs ``(s, n)``.
        distance: ``(n,)`` from what the ensemble learned.
        targets: ``(n, 2)`` labels, NaN where missing.
    """

    output: Output
    distance: torch.Tensor
    targets: torch.Tensor

    def columns(self) -> list[Errors]:
        """For energy and gap, the rows that count: for gaps non-metals, on metals the interval is easy and would hide the rest."""
        values = self.output.energy.mean(0) + mean_strain(self.output.strain), self.output.gap.clamp(min=0).mean(0)
        found = []
        for column, (value, (scale, spread)) in enumerate(zip(values, inputs(self.output), strict=True)):
            target = self.targets[:, column]
            counted = ~target.isnan() & ((target > 0) | (column == 0))
            found.append(Errors(*(part[counted] for part in (value - target, scale, spread, self.distance))))
        return found


class Errors(NamedTuple):
    """Prediction - label of ``n`` rows, and what the standard deviation is made of; all ``(n,)``."""

    error: torch.Tensor
    scale: torch.Tensor
    spread: torch.Tensor
    distance: torch.Tensor


def fit_property(errors: Errors, coverage: float = 0.9, lopsided: bool = False) -> PropertyCalibration:
    """Maximum likelihood of a Student distribution for the powers and the distance, then ``coverage`` of the 90 % interval.

    Four degrees of freedom, because errors have heavy tails. Where errors are ``lopsided`` the interval is placed so that as many labels
    lie above it as below.
    """
    from scipy.optimize import minimize

    def calibration(values: np.ndarray) -> PropertyCalibration:
        return PropertyCalibration(factor=float(np.exp(values[0])), scale=values[1], spread=values[2], far=values[3])

    def loss(values: np.ndarray) -> float:
        variance = calibration(values).variance(*errors[1:])
        likelihood = 0.5 * variance.log() + 2.5 * torch.log1p(errors.error.square() / (4 * variance))
        return float(likelihood.mean()) + 1e-3 * float(np.square(values - start).sum())

    start = np.array([0.2, 0.7, 0.3, 0.2])
    bounds = [(-3.0, 4.0), (0.0, 1.5), (0.0, 1.5), (0.02, 3.0)]
    found = calibration(minimize(loss, start, method="Powell", bounds=bounds, options={"xtol": 1e-3, "ftol": 1e-6}).x)
    scores = errors.error / found.variance(*errors[1:]).sqrt()
    if lopsided:
        low, high = scores.quantile((1 - coverage) / 2), scores.quantile((1 + coverage) / 2)
    else:
        high = scores.abs().quantile(coverage)
        low = -high
    factor = max(1e-4, found.factor * float(high - low) / (2 * NINETY))
    lean = -NINETY * float((high + low) / (high - low)) if high > low else 0.0
    values = {"factor": factor, "scale": found.scale, "spread": found.spread, "far": found.far, "lean": lean}
    return PropertyCalibration(**{name: float(f"{value:.4g}") for name, value in values.items()})


def reach(calibration: PropertyCalibration, errors: Errors) -> torch.Tensor:
    """``(n,)`` by what factor the interval must grow or shrink until its end is at the label."""
    deviation = calibration.variance(*errors[1:]).sqrt()
    ends = torch.where(errors.error < 0, NINETY + calibration.lean, NINETY - calibration.lean)
    return errors.error.abs() / (deviation * ends)


def fit(uncharted: Evidence, charted: Evidence, own: Evidence) -> tuple[Calibration, dict[str, float]]:
    """Calibrate so that the interval holds for inventions, on rows that no member was trained on.

    How a standard deviation is made is learned from the scouts' errors on crystals of elements that they never saw together
    (:mod:`surrogates.uncharted`), so that 90 % of them lie inside. A larger share of the scouts' ordinary held-out rows lies inside that
    interval too, and the ensemble's own is made as wide: the same share of its own ordinary held-out rows lies inside.

    Args:
        uncharted: of the scouts, on rows of uncharted pairs.
        charted: of the scouts, on other rows kept apart.
        own: of the ensemble to calibrate, on rows kept apart.

    Returns:
        the calibration (without the strain's, see :func:`strain_error`) and, for energy and gap, the share of ordinary rows inside.
    """
    found, shares = {}, {}
    parts = zip(("energy", "gap"), uncharted.columns(), charted.columns(), own.columns(), strict=True)
    for name, far, near, mine in parts:
        shape = fit_property(far, lopsided=name == "energy")
        shares[name] = float((reach(shape, near) <= 1).float().mean())
        factor = max(1e-4, shape.factor * float(reach(shape, mine).quantile(shares[name])))
        found[name] = shape.model_copy(update={"factor": float(f"{factor:.4g}")})
    return Calibration(**found), shares


def strain_error(strain: torch.Tensor, labels: torch.Tensor) -> float:
    """Relative standard deviation of predicted strain energies ``(cells,)`` above 0.1 eV/atom, from the potential's: 90 % lie inside."""
    large = strain > 0.1
    relative = ((strain - labels).abs() / strain)[large]
    return round(float(relative.quantile(0.9)) / NINETY, 4)
