"""What the networks leave unexplained in crystals that a sampler proposes: a Gaussian process on their residuals.

The networks learned from crystals whose atoms have room. A proposal may ask for a space group, a composition and a cell that leave the
atoms none, and then its energy lies electronvolts above what networks without atoms believe. A campaign measures energies of proposed
cells, labels and first looks; from them the process learns where the networks are wrong. It learns the residual in units of the ensemble's
own standard deviation, in logarithms where it is large, and of very large ones only that they are::

    z = asinh((label - median) / standard deviation),    z ~ GP(cell) + GP(cell, composition)

with a prior mean of zero, so that far from everything measured, on real crystals above all, best guesses stay what they were. A cell is
how the composition fits the Wyckoff positions, sizes, shape and volume, and what the networks say: whether there is room. The second
process, in which cells are alike only where the fractions of their elements are too, is for what the networks get wrong about a
chemistry. Proposals alone would teach that every crystal costs more than the networks say; known compounds, in which the atoms have
their room, are learned beside them (:mod:`surrogates.known`). Of a crystal whose cell is unknown nothing is said.

The model is BoTorch's ``SingleTaskGP``; lengthscales of cells have its priors (Hvarfner et al., Vanilla Bayesian Optimization
Performs Great in High Dimensions, ICML 2024).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from surrogates.features import FRACTION_FEATURES, Rows, cell_features, element_fractions, global_features, occupation_features

if TYPE_CHECKING:
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import Kernel

    from surrogates.ensemble import Predictions

FEWEST = 30
"""Measured cells; with fewer there is no residual."""
MOST = 2400
"""No more measured cells are learned, taken evenly from all: the price of a prediction grows with their square."""
SEARCHED = 1600
"""No more cells, taken evenly from all that are learned, are used in the search for the hyperparameters, whose price grows with the third
power and which depend little on single cells."""
LARGEST_SCORE = 3.0
"""A z beyond this, ten standard deviations, counts as this: how hopeless a hopeless cell is would only widen all intervals."""
ITERATIONS = 60
"""Of the search for the hyperparameters; their values hardly move beyond."""
LARGEST = 4.0
"""A feature counts as no further from its mean than this many standard deviations."""
SCORES = "known.safetensors"
"""Where an ensemble keeps what known compounds look like to it."""
COMPOSITION_LENGTH = 0.4
"""Between compositions, vectors of fractions, over which errors are expected to be alike: of the prior, the median."""
SMALLEST_STRAIN = 0.05
"""eV/atom, added before the logarithm of a strain energy is taken."""


class Scores(NamedTuple):
    """How far off the networks were about ``n`` cells: ``described`` (n, d) float64, and their ``z`` (n,)."""

    described: torch.Tensor
    z: torch.Tensor

    @classmethod
    def of(cls, rows: Rows, predicted: Predictions, residuals: torch.Tensor) -> Scores:
        """Of the rows whose residual (label - median, eV/atom) is a number; ``predicted`` is what an ensemble without a residual says."""
        known = ~residuals.isnan()
        z = torch.asinh(residuals.double() / predicted.standard_deviation[:, 0].double()).clamp(-LARGEST_SCORE, LARGEST_SCORE)
        return cls(description(rows, predicted)[known], z[known])

    def save(self, folder: Path) -> None:
        """Write SCORES into the folder of an ensemble, in single precision."""
        from safetensors.torch import save_file

        save_file({name: values.float().contiguous() for name, values in self._asdict().items()}, folder / SCORES)

    @classmethod
    def load(cls, folder: Path) -> Scores | None:
        """Read what :meth:`save` wrote; None where the folder has none."""
        from safetensors.torch import load_file

        return cls(**{name: values.double() for name, values in load_file(folder / SCORES).items()}) if (folder / SCORES).exists() else None


@dataclass(frozen=True)
class Residual:
    """A fitted process; ``n`` cells, ``d`` features.

    Attributes:
        offset, scale: ``(d,)`` mean and standard deviation of the features.
        features: ``(n, d)`` standardised features of the cells that were learned. scores: ``(n,)`` their z.
        hyperparameters: the model's state: lengthscales and noise.
    """

    offset: torch.Tensor
    scale: torch.Tensor
    features: torch.Tensor
    scores: torch.Tensor
    hyperparameters: dict[str, torch.Tensor]

    @classmethod
    def fit(cls, measured: Scores, known: Scores | None = None) -> Residual | None:
        """Learn measured cells, and ``known`` compounds beside them; None where fewer than FEWEST were measured.

        Of more than MOST measured cells some are taken, evenly; hyperparameters are searched with no more than SEARCHED cells.
        """
        if len(measured.z) < FEWEST:
            return None
        measured = Scores(*(values[_evenly(len(values), MOST)] for values in measured))
        learned = measured if known is None else Scores(*(torch.cat(both) for both in zip(measured, known, strict=True)))
        offset, scale = learned.described.mean(0), learned.described.std(0).clamp(min=1e-6)
        offset[-FRACTION_FEATURES:], scale[-FRACTION_FEATURES:] = 0.0, 1.0  # fractions are compared as they are
        made = cls(offset, scale, _standardised(learned.described, offset, scale), learned.z, {})
        some = _evenly(len(learned.z), SEARCHED)
        return replace(made, hyperparameters=replace(made, features=made.features[some], scores=made.scores[some])._fitted())

    def _fitted(self) -> dict[str, torch.Tensor]:
        """The hyperparameters of largest posterior probability."""
        from botorch.fit import fit_gpytorch_mll
        from botorch.optim.fit import fit_gpytorch_mll_scipy
        from gpytorch.mlls import ExactMarginalLogLikelihood

        model = self._untrained()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the search ends at ITERATIONS is meant
            likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
            fit_gpytorch_mll(likelihood, optimizer=fit_gpytorch_mll_scipy, optimizer_kwargs={"options": {"maxiter": ITERATIONS}})
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def _untrained(self) -> SingleTaskGP:
        from botorch.exceptions import InputDataWarning
        from botorch.models import SingleTaskGP
        from gpytorch.means import ZeroMean

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputDataWarning)  # standardised and cut off, not in a unit cube that outliers would set
            return SingleTaskGP(
                self.features,
                self.scores[:, None],
                covar_module=_kernel(self.features.shape[1]),
                mean_module=ZeroMean(),
                outcome_transform=None,
            )

    @cached_property
    def _model(self) -> SingleTaskGP:
        model = self._untrained()
        model.load_state_dict(self.hyperparameters)
        return model.eval()

    def __call__(self, rows: Rows, predicted: Predictions) -> Predictions:
        """The predictions with the residual taken into account: the median, the mean and the standard deviation of ``median + sd sinh(z)``.

        Members move with the median. Gaps, distances and strains stay, and so does everything about a crystal whose cell is unknown.
        """
        described = _standardised(description(rows, predicted), self.offset, self.scale)
        with torch.no_grad():
            z = self._model.posterior(described)
            middle = z.mean[:, 0]
            variance = z.variance[:, 0] + self._model.likelihood.noise
        unit = predicted.standard_deviation[:, 0].double()
        shift = unit * middle.sinh()
        mean = predicted.median[:, 0] + shift * (variance / 2).exp()  # moments of the hyperbolic sine of a normal variable
        deviation = unit * (0.5 * variance.expm1() * (variance.exp() * (2 * middle).cosh() + 1)).sqrt()
        stated = ~rows.lattice_parameters.isnan().any(1)

        def where_stated(energy: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.where(stated, energy.float(), before[:, 0]), before[:, 1]], dim=1)

        median = where_stated(predicted.median[:, 0] + shift, predicted.median)
        return replace(
            predicted,
            members=predicted.members + (median - predicted.median),
            median=median,
            mean=where_stated(mean, predicted.mean),
            standard_deviation=where_stated(deviation, predicted.standard_deviation),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything, by name; :meth:`of` makes the same process from it."""
        own = {name: getattr(self, name).contiguous() for name in ("offset", "scale", "features", "scores")}
        return own | {f"hyperparameters.{name}": value.contiguous() for name, value in self.hyperparameters.items()}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Residual:
        """The process that :meth:`tensors` was asked of."""
        prefix = "hyperparameters."
        own: dict[str, Any] = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        return cls(**own, hyperparameters={name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)})


def description(rows: Rows, predicted: Predictions) -> torch.Tensor:
    """``(n, d)`` float64: how the composition fits the Wyckoff positions, sizes, the cell, the networks' word; last the fractions."""
    log_volume, shape = cell_features(rows)
    said = [
        predicted.median,
        predicted.standard_deviation.log(),
        (predicted.strain[:, None] + SMALLEST_STRAIN).log(),
        predicted.distance[:, None],
    ]
    features = [occupation_features(rows), global_features(rows), log_volume[:, None], shape, *said, element_fractions(rows)]
    return torch.cat(features, dim=1).double()


def _kernel(features: int) -> Kernel:
    """Errors are alike in cells that are alike, and more so where compositions are; the last FRACTION_FEATURES are fractions."""
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from gpytorch.kernels import RBFKernel, ScaleKernel
    from gpytorch.priors import GammaPrior, LogNormalPrior

    others = features - FRACTION_FEATURES
    cell = get_covar_module_with_dim_scaled_prior(ard_num_dims=others, active_dims=tuple(range(others)))
    prior = LogNormalPrior(math.log(COMPOSITION_LENGTH), 0.5)
    composition = RBFKernel(active_dims=tuple(range(others, features)), lengthscale_prior=prior)
    composition.lengthscale = COMPOSITION_LENGTH
    return ScaleKernel(cell, outputscale_prior=GammaPrior(2.0, 2.0)) + ScaleKernel(
        cell * composition, outputscale_prior=GammaPrior(2.0, 2.0)
    )


def _evenly(number: int, most: int) -> torch.Tensor:
    """All of ``number`` rows, or ``most`` of them taken evenly: their indices."""
    return torch.arange(min(number, most)) * number // min(number, most)


def _standardised(described: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return ((described - offset) / scale).clamp(-LARGEST, LARGEST)
