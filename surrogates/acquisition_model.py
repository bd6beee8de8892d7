"""The ensemble as a BoTorch model: acquisition functions over crystals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal

from al_crystal.crystal import CrystalBatch

if TYPE_CHECKING:
    from surrogates.ensemble import Ensemble, Predictions


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


class CrystalModel(Model):
    """A BoTorch model over crystals written as numbers (see :meth:`encode`); use with ``optimize_acqf_discrete``."""

    def __init__(self, ensemble: Ensemble, elements: tuple[int, ...], level_of_theory: str | None = None) -> None:
        """``elements`` are the atomic numbers of the columns, ascending, as in a :class:`~al_crystal.crystal.CrystalBatch`."""
        super().__init__()
        self.ensemble = ensemble
        self.elements = elements
        self.level_of_theory = level_of_theory

    @property
    def num_outputs(self) -> int:
        """Number of properties."""
        return len(self.ensemble.properties)

    @property
    def batch_shape(self) -> torch.Size:
        """Always empty."""
        return torch.Size()

    @staticmethod
    def encode(batch: CrystalBatch) -> torch.Tensor:
        """``(n, 1 + elements + 6)`` float64: space group, counts, lattice parameters."""
        return torch.cat([batch.space_group[:, None].double(), batch.counts.double(), batch.lattice_parameters.double()], dim=1)

    def decode(self, values: torch.Tensor) -> CrystalBatch:
        """The crystals of encoded rows ``(n, 1 + elements + 6)``."""
        group, counts, lattice = values.split([1, len(self.elements), 6], dim=1)
        return CrystalBatch(self.elements, group[:, 0].round().long(), counts.round().long(), lattice)

    def posterior(
        self,
        X: torch.Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | torch.Tensor = False,
        posterior_transform: Any = None,
    ) -> Any:
        """Joint posterior ``(..., q, k)`` of encoded crystals ``(..., q, d)``; no gradient with respect to X.

        Raises:
            NotImplementedError: for observation noise (the calibrated spread already is that of labels).
        """
        if observation_noise is not False:
            raise NotImplementedError("the calibrated spread already is that of labels; leave observation_noise=False")
        predictions = self.ensemble.predict(self.decode(X.detach().reshape(-1, X.shape[-1])), self.level_of_theory)
        chosen = list(range(self.num_outputs)) if output_indices is None else output_indices
        shape = (*X.shape[:-1], self.num_outputs)
        posterior = joint_posterior(
            predictions.members.reshape(-1, *shape)[..., chosen],
            predictions.mean.reshape(shape)[..., chosen],
            predictions.standard_deviation.reshape(shape)[..., chosen],
        )
        return posterior if posterior_transform is None else posterior_transform(posterior)
