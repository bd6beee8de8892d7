"""Choosing a batch: a BoTorch acquisition function over a pool of crystals, greedily, under rules of diversity.

The pool is finite, so a candidate's features are its row in the pool, and the model looks its posterior up. Predictions of two
crystals are correlated as the ensemble's members say; a pending pick therefore lowers the value of its look-alikes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.acquisition.monte_carlo import MCAcquisitionFunction, qSimpleRegret, qUpperConfidenceBound
from botorch.acquisition.objective import GenericMCObjective
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from linear_operator import to_linear_operator

from .crystal import Crystal

if TYPE_CHECKING:
    from .config import SelectionSettings
    from .objective import Objective


@dataclass(frozen=True)
class PoolPosterior:
    """Joint normal beliefs about every crystal of a pool.

    Attributes:
        properties: names of the k columns.
        mean: ``(n, k)``; standard_deviation: ``(n, k)``, calibrated; members: ``(s, n, k)``, the ensemble's members.
    """

    properties: tuple[str, ...]
    mean: torch.Tensor
    standard_deviation: torch.Tensor
    members: torch.Tensor

    def __getitem__(self, rows: Any) -> PoolPosterior:
        """Beliefs about these rows."""
        return PoolPosterior(self.properties, self.mean[rows], self.standard_deviation[rows], self.members[:, rows])


class PoolModel(Model):
    """A BoTorch model whose inputs are row numbers of a pool.

    The correlation of two rows is the members' sample correlation, shrunk towards zero by s / (s + 2) for s members: a convex
    combination with the identity, so that it stays positive definite although s is small.
    """

    def __init__(self, beliefs: PoolPosterior) -> None:
        super().__init__()
        self.beliefs = beliefs
        deviation = (beliefs.members - beliefs.members.mean(0)).double()
        norm = deviation.pow(2).sum(0).sqrt().clamp_min(1e-12)
        self._directions = (deviation / norm).permute(1, 2, 0)  # (n, k, s), unit vectors
        self._mean, self._deviation = beliefs.mean.double(), beliefs.standard_deviation.double()

    @property
    def num_outputs(self) -> int:
        """Number of properties."""
        return len(self.beliefs.properties)

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: one model."""
        return torch.Size()

    def posterior(
        self, X: torch.Tensor, output_indices: Any = None, observation_noise: Any = False, posterior_transform: Any = None
    ) -> Any:
        """Joint posterior of the rows ``X`` ``(..., q, 1)``: ``q`` crystals, ``k`` properties, properties independent."""
        rows = X[..., 0].long()
        unit = self._directions[rows].transpose(-3, -2)  # (..., k, q, s)
        members = unit.shape[-1]
        correlation = unit @ unit.transpose(-1, -2) * (members / (members + 2.0))
        correlation = (
            correlation - torch.diag_embed(torch.diagonal(correlation, dim1=-2, dim2=-1)) + torch.eye(rows.shape[-1], dtype=unit.dtype)
        )
        scale = self._deviation[rows].transpose(-1, -2)  # (..., k, q)
        covariance = correlation * scale.unsqueeze(-1) * scale.unsqueeze(-2) + 1e-10 * torch.eye(rows.shape[-1], dtype=unit.dtype)
        independent = MultivariateNormal(self._mean[rows].transpose(-1, -2), to_linear_operator(covariance))
        posterior = GPyTorchPosterior(MultitaskMultivariateNormal.from_batch_mvn(independent, task_dim=-1))
        return posterior_transform(posterior) if posterior_transform is not None else posterior


SHORTLIST = 256
"""Rows that are weighed jointly with the pending picks: the best ones alone, since a pending pick only lowers what a row adds."""


@dataclass(frozen=True)
class Pick:
    """A row of the pool that was picked, and the value of the acquisition function when it was."""

    row: int
    value: float


def acquisition_function(
    settings: SelectionSettings, objective: Objective, beliefs: PoolPosterior, best: float, seed: int
) -> MCAcquisitionFunction:
    """The acquisition function over the pool for maximising the desirability; ``best`` is the best desirability labelled so far.

    ``expected_improvement`` is qLogEI (Ament et al., NeurIPS 2023); ``greedy`` is the expected best desirability, BoTorch's simple regret.
    """
    model = PoolModel(beliefs)
    sampler = SobolQMCNormalSampler(torch.Size([128]), seed=seed)

    def desirability(values: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:
        return objective.desirability({name: values[..., index] for index, name in enumerate(beliefs.properties)})

    goal = GenericMCObjective(desirability)
    if settings.acquisition == "expected_improvement":
        return qLogExpectedImprovement(model, best_f=best, sampler=sampler, objective=goal)
    if settings.acquisition == "upper_confidence_bound":
        return qUpperConfidenceBound(model, beta=settings.exploration**2, sampler=sampler, objective=goal)
    return qSimpleRegret(model, sampler=sampler, objective=goal)


class _Shares:
    """What a batch holds already of each chemical system, space group and element, and whether a crystal still has room in it."""

    def __init__(self, settings: SelectionSettings, taken: Sequence[Crystal]) -> None:
        self.settings, self.times = settings, 1
        self.used: set[tuple[str, int]] = set()
        self.systems: Counter[str] = Counter()
        self.groups: Counter[int] = Counter()
        self.elements: Counter[str] = Counter()
        for crystal in taken:
            self.take(crystal)

    def take(self, crystal: Crystal) -> None:
        self.used.add((crystal.formula, crystal.space_group))
        self.systems[crystal.chemical_system] += 1
        self.groups[crystal.space_group] += 1
        self.elements.update(crystal.composition.keys())

    def is_new(self, crystal: Crystal) -> bool:
        return (crystal.formula, crystal.space_group) not in self.used

    def has_room(self, crystal: Crystal) -> bool:
        return (
            self.systems[crystal.chemical_system] < self.times * self.settings.per_chemical_system
            and self.groups[crystal.space_group] < self.times * self.settings.per_space_group
            and all(self.elements[symbol] < self.times * self.settings.per_element for symbol in crystal.composition)
        )


def shortlist(acquisition: MCAcquisitionFunction, crystals: Sequence[Crystal], size: int, settings: SelectionSettings) -> list[int]:
    """Up to ``size`` rows, the best by themselves under the same rules of diversity as :func:`choose`, each weighed alone."""
    X = torch.arange(len(crystals), dtype=torch.float64).reshape(-1, 1, 1)
    best_first = _evaluate(acquisition, X, []).argsort(descending=True, stable=True).tolist()
    shares = _Shares(settings, ())
    rows: list[int] = []
    while len(rows) < size:
        left = [row for row in best_first if shares.is_new(crystals[row])]
        if not left:
            break
        for row in left:
            if len(rows) < size and shares.is_new(crystals[row]) and shares.has_room(crystals[row]):
                shares.take(crystals[row])
                rows.append(row)
        shares.times += 1
    return rows


def choose(
    acquisition: MCAcquisitionFunction, crystals: Sequence[Crystal], size: int, settings: SelectionSettings, taken: Sequence[Crystal] = ()
) -> list[Pick]:
    """Pick up to ``size`` rows one after the other, each the best given those before it.

    A row is passed over when its reduced formula and space group were taken already, or when its chemical system, its space group
    or one of its elements has had its share of the batch. Where that leaves no row, each share is raised by itself once more, so that
    a large batch or a narrow space is filled as evenly as it can be. ``taken`` are crystals that are in the batch already. Fewer are
    returned only when every row was taken.
    """
    shares = _Shares(settings, taken)
    X = torch.arange(len(crystals), dtype=torch.float64).reshape(-1, 1, 1)
    alone = _evaluate(acquisition, X, [])
    best_first = alone.argsort(descending=True, stable=True).tolist()
    picks: list[Pick] = []
    while len(picks) < size:
        left = [row for row in best_first if shares.is_new(crystals[row])]
        if not left:
            break
        allowed = [row for row in left if shares.has_room(crystals[row])][:SHORTLIST]
        if not allowed:
            shares.times += 1
            continue
        values = _evaluate(acquisition, X[allowed], picks) if picks else alone[allowed]
        best = int(values.argmax())
        picks.append(Pick(allowed[best], float(values[best])))
        shares.take(crystals[allowed[best]])
    return picks


def _evaluate(acquisition: MCAcquisitionFunction, X: torch.Tensor, picks: Sequence[Pick]) -> torch.Tensor:
    """Values ``(n,)`` of the rows ``X`` ``(n, 1, 1)``, each jointly with the pending ``picks``."""
    if not len(X):  # no posterior of nothing: where no crystal of a shortlist has room, there is none to choose
        return torch.zeros(0, dtype=torch.float64)
    acquisition.set_X_pending(torch.tensor([[float(pick.row)] for pick in picks], dtype=torch.float64) if picks else None)
    with torch.no_grad():
        return torch.cat([acquisition(chunk) for chunk in X.split(512)])
