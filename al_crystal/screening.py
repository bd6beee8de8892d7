"""From a first look at a crystal to a belief about its energy: how far above a label a look lies is learned from the campaign's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .crystal import Look, Observation, Prediction, Screening, Value

if TYPE_CHECKING:
    from .acquisition import PoolPosterior
    from .experience import Experience
    from .history import State
    from .objective import Objective

Row = TypeVar("Row")

ENERGY = "formation_energy_per_atom"
FEWEST = 20
"""Labelled crystals that were screened; with fewer, beliefs stay as they are."""
EARLIER = 40
"""Labelled crystals of earlier campaigns that are learned beside a campaign's own: so many that the first rounds know what a look is
worth, so few that a campaign whose looks are others soon overrules them."""
NATURAL = 0.1
"""eV/atom; differences of energies are compared as asinh(difference / NATURAL): relative where large, absolute where small."""
HOPELESS = 0.1
"""Share of the best expected desirability below which a crystal that was looked at is not worth a label."""
DOUBTED = 0.2
"""eV/atom; a look that lies further above the surrogate's mean is repeated: it may have missed the room that there is."""
SMALLEST = 0.02
"""eV/atom, added to the excess of a look over the label before its logarithm is taken: a look is a little below the label at times."""


@dataclass(frozen=True)
class Correction:
    """The excess of a look x over the label y, learned from crystals that have both.

    ``log(x - y + SMALLEST)`` is normal around a Bayesian ridge regression (MacKay, Neural Comput. 4, 415 (1992); scikit-learn's) on how
    far the look lies above the surrogate's mean and on the logarithm of the surrogate's standard deviation.
    """

    regression: Any

    @classmethod
    def fit(cls, pairs: Sequence[tuple[Screening, Value]]) -> Correction | None:
        """Learn from crystals that were screened, and the energies that labels found in their cells; None for fewer than FEWEST."""
        from sklearn.linear_model import BayesianRidge

        if len(pairs) < FEWEST:
            return None
        features = np.array([_features(screening) for screening, _ in pairs])
        excess = np.array([screening.formation_energy_per_atom.value - label.value for screening, label in pairs])
        return cls(BayesianRidge().fit(features, np.log(np.maximum(excess, 0.0) + SMALLEST)))

    @classmethod
    def before(cls, state: State, round: int, earlier: Sequence[Experience] = ()) -> Correction | None:
        """What the rounds before this one have shown, and ``earlier`` campaigns, which count no more than EARLIER crystals."""
        known = [(one.look.screening, one.label) for one in earlier if one.label is not None]
        return cls.fit([*evenly(known, EARLIER), *screened_and_labelled(state, round)])

    def __call__(self, screenings: Sequence[Screening]) -> tuple[np.ndarray, np.ndarray]:
        """``(n,)`` mean and standard deviation of the formation energies in the proposed cells, eV/atom: those of the log-normal excess."""
        looks = np.array([one.formation_energy_per_atom.value for one in screenings])
        centre, width = self.regression.predict(np.array([_features(one) for one in screenings]), return_std=True)
        mean = np.exp(centre + width**2 / 2)
        return looks + SMALLEST - mean, mean * np.sqrt(np.expm1(width**2))


def screened_and_labelled(state: State, before_round: int | None = None) -> list[tuple[Screening, Value]]:
    """Crystals that were screened and whose label is ``ok``, with the energy in the proposed cell; of the rounds before one if given."""
    found = []
    for number, candidate, label in state.labelled():
        value = label.proposal_properties.get(ENERGY)
        early = before_round is None or number < before_round
        if early and candidate.screening is not None and label.status == "ok" and value is not None:
            found.append((candidate.screening, value))
    return found


def taught(state: State, before_round: int, earlier: Sequence[Experience], cells: int) -> tuple[list[Observation], list[Observation]]:
    """What a surrogate learns before a round: the campaign's own rows, and beside them what ``earlier`` campaigns measured.

    Of the latter so many, taken evenly, that there are no more than ``cells`` measured cells together.
    """
    correction = Correction.before(state, before_round, earlier)
    own = measured(state, before_round, correction)
    room = max(0, cells - sum(row.kind != "relaxed" for row in own))
    return own, remembered(evenly(earlier, room), correction)


def measured(state: State, before_round: int, correction: Correction | None) -> list[Observation]:
    """Training rows of everything that the rounds before this one have measured: labels, and looks at what was passed over."""
    looks = [look for entry in state.rounds[:before_round] for look in entry.passed_over]
    return state.observations(before_round) + observations_of_looks(looks, correction)


def remembered(earlier: Sequence[Experience], correction: Correction | None) -> list[Observation]:
    """Training rows of what earlier campaigns measured, as looks all of them: they teach where networks are wrong, and no network."""
    looks = observations_of_looks([one.look for one in earlier if one.label is None], correction)
    labelled = [(one.look.crystal, one.label) for one in earlier if one.label is not None]
    return looks + [Observation(crystal=crystal, properties={ENERGY: label}, group=crystal.id, kind="look") for crystal, label in labelled]


def evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """All rows, or ``most`` of them taken evenly."""
    return [rows[index * len(rows) // most] for index in range(most)] if len(rows) > most else list(rows)


def observations_of_looks(passed_over: Iterable[Look], correction: Correction | None) -> list[Observation]:
    """Training rows of crystals that were looked at and not picked: the energy that a label would find, as far as looks tell.

    Without a correction the energies are those of the looks.
    """
    looks = list(passed_over)
    if not looks:
        return []
    values = [one.screening.formation_energy_per_atom for one in looks]
    if correction is not None:
        means, deviations = correction([one.screening for one in looks])
        own = [value.standard_deviation or 0.0 for value in values]
        values = [
            value.model_copy(update={"value": float(mean), "standard_deviation": float(np.hypot(deviation, noise))})
            for value, mean, deviation, noise in zip(values, means, deviations, own, strict=True)
        ]
    return [
        Observation(crystal=one.crystal, properties={ENERGY: value}, group=one.crystal.id, kind="look")
        for one, value in zip(looks, values, strict=True)
    ]


def _features(screening: Screening) -> list[float]:
    surrogate = screening.surrogate
    above = screening.formation_energy_per_atom.value - surrogate.mean[ENERGY]
    return [float(np.arcsinh(above / NATURAL)), float(np.log(surrogate.standard_deviation[ENERGY]))]


def screenings(looks: Sequence[Value], predictions: Sequence[Prediction]) -> list[Screening]:
    """The looks beside what the surrogate said."""
    return [Screening(formation_energy_per_atom=look, surrogate=one) for look, one in zip(looks, predictions, strict=True)]


def doubted(looks: Sequence[Value], predictions: Sequence[Prediction]) -> list[int]:
    """Rows whose look lies so far above the surrogate that another one is worth its price."""
    return [
        row for row, (look, one) in enumerate(zip(looks, predictions, strict=True)) if look.value - one.mean.get(ENERGY, np.inf) > DOUBTED
    ]


def repeated(
    looks: Sequence[Value], predictions: Sequence[Prediction], again: Callable[[list[int], int], Sequence[Value | None]], most: int
) -> list[Value]:
    """The lowest look at each crystal, where those that are doubted are repeated until they are not, or until there are ``most``.

    ``again(rows, attempt)`` looks once more at these rows; None where no arrangement fits.
    """
    lowest = list(looks)
    for attempt in range(1, most):
        rows = doubted(lowest, predictions)
        for row, look in zip(rows, again(rows, attempt) if rows else [], strict=True):
            if look is not None and look.value < lowest[row].value:
                lowest[row] = look
    return lowest


def corrected(posterior: PoolPosterior, energies: tuple[np.ndarray, np.ndarray]) -> PoolPosterior:
    """The posterior of a pool with other means and standard deviations ``(n,)`` of the formation energies, if it has any."""
    if ENERGY not in posterior.properties:
        return posterior
    column = posterior.properties.index(ENERGY)
    mean, deviation = posterior.mean.clone(), posterior.standard_deviation.clone()
    mean[:, column], deviation[:, column] = (torch.as_tensor(values, dtype=mean.dtype) for values in energies)
    return replace(posterior, mean=mean, standard_deviation=deviation)


def hopeful(objective: Objective, posterior: PoolPosterior, fewest: int) -> list[int]:
    """Rows worth a label: with at least HOPELESS times the best row's expected desirability, and the ``fewest`` best in any case.

    Rules of diversity may leave a batch nothing but crystals that a look has shown to be worthless; then shares are raised instead.
    """
    columns = (dict(zip(posterior.properties, values.unbind(1), strict=True)) for values in (posterior.mean, posterior.standard_deviation))
    expected, _ = objective.expected(*columns)
    best_first = expected.argsort(descending=True, stable=True)
    enough = int((expected >= HOPELESS * expected.amax()).sum()) if len(expected) else 0
    return sorted(best_first[: max(fewest, enough)].tolist())


def roomy(overlaps: Sequence[float], most: float, fewest: int) -> list[int]:
    """Rows whose atoms overlap no more than ``most``, and the ``fewest`` least crowded ones in any case: a batch must have a choice."""
    least_first = sorted(range(len(overlaps)), key=lambda row: overlaps[row])
    enough = sum(overlap <= most for overlap in overlaps)
    return sorted(least_first[: max(fewest, enough)])


def corrected_prediction(prediction: Prediction, mean: float, deviation: float) -> Prediction:
    """The prediction with another belief about the formation energy."""
    return prediction.model_copy(
        update={
            "mean": prediction.mean | {ENERGY: float(mean)},
            "standard_deviation": prediction.standard_deviation | {ENERGY: float(deviation)},
        }
    )
