"""From members and learned error scales to standard deviations that hold what they promise on chemical systems kept apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from surrogates import kernels
from surrogates.network import Output

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

    def __call__(self, said: Consensus, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(n, 2)`` standard deviations in eV/atom and eV of what members say at distances ``(n,)``; and ``(n, 2)`` how far the means
        of the beliefs lie above it. The strain's own error makes a belief less sure and leans nowhere."""
        parts = zip((self.energy, self.gap), said.scale.T, said.spread.T, strict=True)
        own = torch.stack([part.variance(scale, spread, distance) for part, scale, spread in parts], dim=1)
        total = own.clone()
        total[:, 0] += (self.strain * said.strain).square()
        return total.sqrt(), torch.tensor([self.energy.lean, self.gap.lean]) * own.sqrt()


CAUTION = 0.1
"""Per eV/atom: the best guess of an energy is put higher by this times the square of the learned scale, of which no more than 1 eV/atom
counts. Optimism is what a sampler feeds on, and it is largest where an ensemble knows least; what this costs and brings on fold 2 is in
docs/surrogates.md."""


class Consensus(NamedTuple):
    """What members say together of ``n`` crystals; columns are energy (eV/atom) and gap (eV).

    Attributes:
        guess: ``(n, 2)`` best guesses in the stated cells: plain averages, and of energies CAUTION and ``strain`` beside.
        scale: ``(n, 2)`` learned error scales, averaged in logarithms as they are learned.
        spread: ``(n, 2)`` the members' standard deviations. Gaps below zero count as they are: members that agree on a metal only
            because they are cut off there do not agree.
        strain: ``(n,)`` eV/atom, averaged as it is compared (:func:`surrogates.network.mean_strain`).
    """

    guess: torch.Tensor
    scale: torch.Tensor
    spread: torch.Tensor
    strain: torch.Tensor

    @classmethod
    def of(cls, output: Output) -> Consensus:
        """Of member outputs ``(s, n)``."""
        number = output.energy.shape[1]
        guess, scale, spread = torch.empty(3, number, 2, dtype=torch.float32)
        made = cls(guess, scale, spread, torch.empty(number, dtype=torch.float32))
        energy, gap, *scales, _, strain, _ = (values.detach().contiguous().numpy() for values in output)
        kernels.consensus(energy, gap, tuple(scales), strain, CAUTION, *(values.numpy() for values in made))
        return made


class Evidence(NamedTuple):
    """What an ensemble says of rows that it never learned, as served (source unknown), and what is true.

    Attributes:
        output: member outputs ``(s, n)``.
        distance: ``(n,)`` from what the ensemble learned.
        targets: ``(n, 2)`` labels, NaN where missing.
        noise: ``(n, 2)`` one standard deviation of each label's own error.
    """

    output: Output
    distance: torch.Tensor
    targets: torch.Tensor
    noise: torch.Tensor

    def columns(self) -> list[Errors]:
        """For energy and gap, the rows that count: for gaps non-metals, on metals the interval is easy and would hide the rest."""
        found = []
        said = Consensus.of(self.output)
        for column, (value, scale, spread) in enumerate(zip(said.guess.T, said.scale.T, said.spread.T, strict=True)):
            target = self.targets[:, column]
            counted = ~target.isnan() & ((target > 0) | (column == 0))
            found.append(Errors(*(part[counted] for part in (value - target, scale, spread, self.distance, self.noise[:, column]))))
        return found


class Errors(NamedTuple):
    """Prediction - label of ``n`` rows, what the standard deviation is made of, and the deviation of the labels; all ``(n,)``."""

    error: torch.Tensor
    scale: torch.Tensor
    spread: torch.Tensor
    distance: torch.Tensor
    noise: torch.Tensor

    def variance(self, calibration: PropertyCalibration) -> torch.Tensor:
        """``(n,)`` of the errors, without the labels' noise."""
        return calibration.variance(self.scale, self.spread, self.distance)


KNOWN = 0.925
"""Share of the ordinary held-out rows inside the energies' 90 % interval. Most are known compounds and what is served are inventions, about
which an ensemble errs more: the interval is as wide as known compounds allow without being called too wide (0.93 in the project's bar)."""


def powers(errors: Errors) -> PropertyCalibration:
    """Powers of scale and spread, and growth with the distance: maximum likelihood of a Student distribution.

    Four degrees of freedom, because errors have heavy tails.
    """
    from scipy.optimize import minimize

    def calibration(values: np.ndarray) -> PropertyCalibration:
        values = np.clip(values, *np.transpose(bounds))  # the search leaves them by rounding
        return PropertyCalibration(factor=float(np.exp(values[0])), scale=values[1], spread=values[2], far=values[3])

    def loss(values: np.ndarray) -> float:
        variance = errors.variance(calibration(values)) + errors.noise.square()
        likelihood = 0.5 * variance.log() + 2.5 * torch.log1p(errors.error.square() / (4 * variance))
        return float(likelihood.mean()) + 1e-3 * float(np.square(values - start).sum())

    start = np.array([0.2, 0.7, 0.3, 0.2])
    bounds = [(-3.0, 4.0), (0.0, 1.5), (0.0, 1.5), (0.02, 3.0)]
    return calibration(minimize(loss, start, method="Powell", bounds=bounds, options={"xtol": 1e-3, "ftol": 1e-6}).x)


def sized(calibration: PropertyCalibration, errors: Errors, coverage: float = 0.9, lopsided: bool = False) -> PropertyCalibration:
    """The calibration with the factor, and for ``lopsided`` errors the lean, at which the 90 % interval holds ``coverage`` of the rows.

    A lopsided interval is placed so that as many labels lie above it as below.
    """
    scores = errors.error / errors.variance(calibration).sqrt()
    if lopsided:
        low, high = scores.quantile((1 - coverage) / 2), scores.quantile((1 + coverage) / 2)
    else:
        high = scores.abs().quantile(coverage)
        low = -high
    factor = max(1e-4, calibration.factor * float(high - low) / (2 * NINETY))
    lean = -NINETY * float((high + low) / (high - low)) if high > low else 0.0
    values = calibration.model_dump() | {"factor": factor, "lean": lean}
    return PropertyCalibration(**{name: float(f"{value:.4g}") for name, value in values.items()})


def covered(calibration: PropertyCalibration, errors: Errors) -> float:
    """Share of the labels inside the 90 % interval, their noise taken into account."""
    deviation = errors.variance(calibration).sqrt()
    width = (deviation.square() + errors.noise.square()).sqrt()
    return float(((errors.error + calibration.lean * deviation).abs() <= NINETY * width).float().mean())


def fit(known: Evidence, inventions: Evidence) -> Calibration:
    """Calibrate on rows that no member was trained on (without the strain's error, see :func:`strain_error`).

    How the standard deviation of energies is made, out of learned scale, members' spread and distance, is learned from inventions
    (:mod:`surrogates.inventions`), how large it is and how it leans from known compounds, so that KNOWN of them lie inside. Of
    gaps no invention has a label; 90 % of the known non-metals lie inside.
    """
    energy, gap = known.columns()
    return Calibration(
        energy=sized(powers(inventions.columns()[0]), energy, KNOWN, lopsided=True),
        gap=sized(powers(gap), gap),
    )


def strain_error(strain: torch.Tensor, labels: torch.Tensor) -> float:
    """Relative standard deviation of predicted strain energies ``(cells,)`` above 0.1 eV/atom, from the potential's: 90 % lie inside."""
    large = strain > 0.1
    relative = ((strain - labels).abs() / strain)[large]
    return round(float(relative.quantile(0.9)) / NINETY, 4)
