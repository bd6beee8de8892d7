"""The ensemble's beliefs as a BoTorch posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal

if TYPE_CHECKING:
    from surrogates.ensemble import Predictions


def gaussian_posterior(predictions: Predictions) -> GPyTorchPosterior:
    """The posterior of each crystal by itself: batch ``(n,)`` of one point with ``k`` properties, independent, the calibrated spread."""
    variance = predictions.standard_deviation.double().square().clamp(min=1e-12)
    marginals = MultivariateNormal(predictions.mean.double()[..., None], torch.diag_embed(variance[..., None]))  # (n, k) of one point
    return GPyTorchPosterior(MultitaskMultivariateNormal.from_batch_mvn(marginals, task_dim=-1))
