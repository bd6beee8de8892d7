"""What is believed of crystals: the surrogate's predictions beside what follows from a crystal alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .acquisition import PoolPosterior
from .crystal import Crystal, CrystalBatch, Prediction

if TYPE_CHECKING:
    from surrogates.ensemble import Ensemble, Predictions

    from .objective import Objective

CERTAIN = 1e-6
"""Standard deviation of a property that is computed, not predicted: small, positive."""


class Beliefs:
    """An ensemble and an objective: predictions, log-rewards and the posterior of a pool."""

    def __init__(self, ensemble: Ensemble, objective: Objective) -> None:
        self.ensemble, self.objective = ensemble, objective

    def log_reward(self, batch: CrystalBatch) -> torch.Tensor:
        """``(n,)`` the objective's pessimistic log-reward; what the sampler is trained on."""
        predicted = self.ensemble.predict(batch)
        names = self.objective.properties
        mean = {name: self._mean(predicted, batch, name) for name in names}
        deviation = {name: self._deviation(predicted, batch, name) for name in names}
        return self.objective.log_reward(mean, deviation)

    def posterior(self, batch: CrystalBatch) -> PoolPosterior:
        """Joint beliefs about the objective's properties of every crystal of the batch."""
        predicted = self.ensemble.predict(batch)
        names = self.objective.properties
        members = [self._members(predicted, batch, name) for name in names]
        return PoolPosterior(
            properties=names,
            mean=torch.stack([self._mean(predicted, batch, name) for name in names], dim=1),
            standard_deviation=torch.stack([self._deviation(predicted, batch, name) for name in names], dim=1),
            members=torch.stack(members, dim=2),
        )

    def predictions(self, crystals: list[Crystal]) -> list[Prediction]:
        """One frozen prediction a crystal, of every property that the surrogate or the objective knows."""
        if not crystals:
            return []
        batch = CrystalBatch.from_crystals(crystals)
        predicted = self.ensemble.predict(batch)
        names = tuple(dict.fromkeys((*self.ensemble.properties, *self.objective.properties)))
        mean = {name: self._mean(predicted, batch, name).tolist() for name in names}
        deviation = {name: self._deviation(predicted, batch, name).tolist() for name in names}
        return [
            Prediction(
                mean={name: values[row] for name, values in mean.items()},
                standard_deviation={name: values[row] for name, values in deviation.items()},
                distance=distance,
            )
            for row, distance in enumerate(predicted.distance.tolist())
        ]

    def _mean(self, predicted: Predictions, batch: CrystalBatch, name: str) -> torch.Tensor:
        if name in self.ensemble.properties:
            return predicted.mean[:, self.ensemble.properties.index(name)].double()
        return getattr(batch, name).double()

    def _deviation(self, predicted: Predictions, batch: CrystalBatch, name: str) -> torch.Tensor:
        if name in self.ensemble.properties:
            return predicted.standard_deviation[:, self.ensemble.properties.index(name)].double()
        return torch.full((len(batch),), CERTAIN, dtype=torch.float64)

    def _members(self, predicted: Predictions, batch: CrystalBatch, name: str) -> torch.Tensor:
        if name in self.ensemble.properties:
            return predicted.members[:, :, self.ensemble.properties.index(name)].double()
        return self._mean(predicted, batch, name).expand(predicted.members.shape[0], -1)
