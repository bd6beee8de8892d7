"""The ensemble's beliefs as BoTorch posteriors, of each crystal by itself or of several together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal

if TYPE_CHECKING:
    from surrogates.ensemble import Predictions


def gaussian_posterior(predictions: Predictions) -> GPyTorchPosterior:
    """The posterior of each crystal by itself: ``(n, 1, k)``, the calibrated spread, properties independent."""
    return joint_posterior(predictions.members[:, :, None], predictions.mean[:, None], predictions.standard_deviation[:, None])


def joint_posterior(members: torch.Tensor, mean: torch.Tensor, standard_deviation: torch.Tensor) -> GPyTorchPosterior:
    """Gaussian whose variances are the calibrated ones and whose correlations between crystals are the members'.

    The members' covariance is kept where it fits into the calibrated variance and shrunk to it where it does not; what is left of the
    variance is independent from crystal to crystal.

    Args:
        members: ``(s, ..., q, k)``.
        mean, standard_deviation: ``(..., q, k)``.
    """
    marginals = []
    for output in range(mean.shape[-1]):
        centred = (members[..., output] - mean[..., output]) / max(1, len(members) - 1) ** 0.5
        variance = standard_deviation[..., output].double().square().clamp(min=1e-12)
        own = centred.double().square().sum(0)
        centred = centred.double() * (0.999 * variance / own.clamp(min=1e-30)).clamp(max=1.0).sqrt()
        covariance = torch.einsum("s...i,s...j->...ij", centred, centred)
        rest = variance - covariance.diagonal(dim1=-2, dim2=-1)
        marginals.append(MultivariateNormal(mean[..., output].double(), covariance + torch.diag_embed(rest)))
    if len(marginals) == 1:
        return GPyTorchPosterior(marginals[0])
    return GPyTorchPosterior(MultitaskMultivariateNormal.from_independent_mvns(marginals))
