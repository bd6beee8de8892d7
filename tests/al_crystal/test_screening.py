from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from al_crystal.acquisition import PoolPosterior
from al_crystal.crystal import Candidate, Label, Look, Prediction, Screening, Value
from al_crystal.history import Labelled, Picks, State
from al_crystal.objective import Objective
from al_crystal.screening import (
    DOUBTED,
    ENERGY,
    FEWEST,
    Correction,
    corrected,
    corrected_prediction,
    doubted,
    hopeful,
    observations_of_looks,
    repeated,
    roomy,
    screened_and_labelled,
)
from tests.al_crystal.examples import crystal


def _prediction(energy: float, deviation: float = 0.1) -> Prediction:
    return Prediction(mean={ENERGY: energy, "band_gap": 1.0}, standard_deviation={ENERGY: deviation, "band_gap": 0.3}, distance=0.0)


def screening(look: float, energy: float, deviation: float = 0.1) -> Screening:
    return Screening(formation_energy_per_atom=Value(value=look, level_of_theory="potential"), surrogate=_prediction(energy, deviation))


def pairs(number: int, seed: int) -> list[tuple[Screening, Value]]:
    """Looks that lie above the label by a log-normal excess; the surrogate misses what one cell in five costs."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        energy = generator.normal(-1.0, 0.5)
        cost = generator.exponential(2.0) if generator.random() < 0.2 else 0.0
        excess = float(np.exp(generator.normal(math.log(0.08), 0.5)))
        label = Value(value=energy + cost, level_of_theory="potential")
        found.append((screening(energy + cost + excess, energy + generator.normal(0, 0.1)), label))
    return found


def test_nothing_is_corrected_before_enough_was_seen():
    assert Correction.fit(pairs(FEWEST, 0)) is not None
    assert Correction.fit(pairs(FEWEST - 1, 0)) is None


def test_crystals_that_were_screened_and_have_a_good_label_teach():
    (look, value), item = pairs(1, 0)[0], crystal(0)
    candidate = Candidate(crystal=item, prediction=look.surrogate, acquisition=0.0, arm="gfn", reason="", screening=look)
    label = Label(crystal_id=item.id, status="ok", reason="", proposal_properties={ENERGY: value})

    def found(candidate: Candidate, label: Label) -> list[tuple[Screening, Value]]:
        state = State()
        state.add(Picks(round=0, candidates=[candidate]))
        state.add(Labelled(round=0, attempt=0, label=label))
        return screened_and_labelled(state)

    assert found(candidate, label) == [(look, value)]
    assert found(candidate.model_copy(update={"screening": None}), label) == []
    assert found(candidate, label.model_copy(update={"status": "rejected"})) == []
    assert found(candidate, label.model_copy(update={"proposal_properties": {}})) == []


def test_a_correction_finds_the_cost_that_the_surrogate_does_not_see():
    correction = Correction.fit(pairs(300, 1))
    assert correction is not None
    screenings, labels = zip(*pairs(2000, 2), strict=True)
    mean, deviation = correction(screenings)
    truth = np.array([label.value for label in labels])
    error = mean - truth
    alone = np.array([one.surrogate.mean[ENERGY] for one in screenings]) - truth
    assert abs(error.mean()) < 0.02
    assert np.abs(error).mean() < 0.06 < 0.3 < np.abs(alone).mean()
    assert (np.abs(error) < 1.645 * deviation).mean() == pytest.approx(0.9, abs=0.06)


def test_a_belief_follows_its_look():
    correction = Correction.fit(pairs(60, 1))
    assert correction is not None
    looks = np.linspace(-1.0, 6.0, 50)
    mean, deviation = correction([screening(look, -1.0) for look in looks])
    assert (np.diff(mean) > 0).all()
    assert (mean < looks + 0.021).all()
    assert (deviation > 0).all()


def test_only_the_formation_energy_is_corrected():
    pool = PoolPosterior(("band_gap", ENERGY), torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(4, 3, 2))
    made = corrected(pool, (np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])))
    assert made.mean.tolist() == [[0, 1], [0, 2], [0, 3]]
    assert torch.allclose(made.standard_deviation, torch.tensor([[1, 0.1], [1, 0.2], [1, 0.3]]))
    assert pool.mean.sum() == 0
    gaps = PoolPosterior(("band_gap",), torch.zeros(3, 1), torch.ones(3, 1), torch.zeros(4, 3, 1))
    assert corrected(gaps, (np.zeros(3), np.ones(3))) is gaps
    prediction = corrected_prediction(_prediction(-1.0), 0.5, 0.2)
    assert prediction.mean == {ENERGY: 0.5, "band_gap": 1.0}
    assert prediction.standard_deviation == {ENERGY: 0.2, "band_gap": 0.3}


def test_no_label_is_spent_on_what_a_look_has_shown_to_be_worthless():
    objective = Objective(targets={"band_gap": {"near": 1.34, "width": 0.25}, ENERGY: {"below": -0.5, "width": 0.2}})
    mean = torch.tensor([[1.3, -1.0], [1.3, 4.0], [1.3, 0.6], [3.0, -1.0], [1.2, -0.9]])
    deviation = torch.tensor([[0.3, 0.1], [0.3, 0.4], [0.3, 1.5], [0.3, 0.1], [0.3, 0.1]])
    posterior = PoolPosterior(("band_gap", ENERGY), mean, deviation, torch.zeros(3, 5, 2))
    assert hopeful(objective, posterior, fewest=1) == [0, 2, 4], "an energy that is not known well may still be low"
    assert hopeful(objective, posterior, fewest=4) == [0, 2, 3, 4], "a batch is filled, with the better ones"
    assert hopeful(objective, posterior, fewest=9) == [0, 1, 2, 3, 4]
    assert hopeful(objective, posterior[torch.tensor([], dtype=torch.long)], fewest=3) == []


def test_crowded_crystals_go_but_a_batch_keeps_a_choice():
    overlaps = [0.3, 0.0, math.inf, 0.01, 0.02]
    assert roomy(overlaps, 0.01, fewest=1) == [1, 3]
    assert roomy(overlaps, 0.01, fewest=4) == [0, 1, 3, 4], "the least crowded of the others"
    assert roomy(overlaps, 0.01, fewest=9) == [0, 1, 2, 3, 4]
    assert roomy([], 0.01, fewest=3) == []


def test_a_look_far_above_the_surrogate_is_doubted():
    screenings = [screening(-1.0 + above, -1.0) for above in (-3.0, 0.0, DOUBTED - 0.01, DOUBTED + 0.01, 4.0)]
    looks, predictions = [one.formation_energy_per_atom for one in screenings], [one.surrogate for one in screenings]
    assert doubted(looks, predictions) == [3, 4]
    silent = [one.model_copy(update={"mean": {}}) for one in predictions]
    assert doubted(looks, silent) == []  # a campaign whose surrogate says nothing of energies


def test_looks_are_repeated_while_they_are_doubted_and_the_lowest_counts():
    looks = [screening(-1.0 + above, -1.0).formation_energy_per_atom for above in (0.0, 1.0, 2.0, 3.0)]
    predictions = [screening(-1.0, -1.0).surrogate for _ in looks]
    finds = {(1, 1): -1.1, (2, 1): 5.0, (3, 1): None, (2, 2): 0.5, (3, 2): -0.2}  # by row and attempt
    asked = []

    def again(rows, attempt):
        asked.append((attempt, rows))
        return [None if finds[row, attempt] is None else looks[row].model_copy(update={"value": finds[row, attempt]}) for row in rows]

    found = repeated(looks, predictions, again, most=3)
    assert asked == [(1, [1, 2, 3]), (2, [2, 3])]
    assert [look.value for look in found] == [-1.0, -1.1, 0.5, -0.2]
    assert repeated(looks, predictions, again, most=1) == looks
    assert len(asked) == 2


def test_looks_that_were_passed_over_teach_what_a_label_would_have_found():
    passed_over = [Look(crystal=crystal(index), screening=screening(look, -1.0)) for index, look in enumerate((-1.0, 0.5, 4.0))]
    raw = observations_of_looks(passed_over, None)
    assert [row.properties[ENERGY].value for row in raw] == [-1.0, 0.5, 4.0]
    assert {row.kind for row in raw} == {"look"}
    assert [row.crystal.id for row in raw] == [look.crystal.id for look in passed_over] == [row.group for row in raw]
    correction = Correction.fit(pairs(300, 1))
    assert correction is not None
    means, deviations = correction([look.screening for look in passed_over])
    rows = observations_of_looks(passed_over, correction)
    assert [row.properties[ENERGY].value for row in rows] == pytest.approx(list(means))
    assert [row.properties[ENERGY].standard_deviation for row in rows] == pytest.approx(list(deviations))
    assert all(row.properties[ENERGY].level_of_theory == "potential" for row in rows)
    assert observations_of_looks([], correction) == []


def test_a_screening_survives_the_history():
    look, _ = pairs(1, 0)[0]
    candidate = Candidate(crystal=crystal(0), prediction=look.surrogate, acquisition=0.0, arm="gfn", reason="", screening=look)
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate
    old = candidate.model_dump(exclude={"screening"})  # a history that was begun before there was screening
    assert Candidate.model_validate(old).screening is None
