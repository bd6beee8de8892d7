from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from al_crystal.objective import Objective

SOLAR = Objective.model_validate(
    {"targets": {"band_gap": {"near": 1.34}, "formation_energy_per_atom": {"below": -0.5, "width": 0.2}}, "sharpness": 4.0}
)


def test_near_is_the_formula_of_the_paper():
    gap = Objective.model_validate({"targets": {"band_gap": {"near": 1.34}}})
    values = np.linspace(0, 3, 7)
    assert gap.desirability({"band_gap": values}).numpy() == pytest.approx(np.exp(-8 * (values - 1.34) ** 2))


def test_desirability_is_the_weighted_geometric_mean():
    weighted = Objective.model_validate({"targets": {"a": {"from": 0, "to": 1, "weight": 3}, "b": {"from": 2, "to": 1}}})
    assert float(weighted.desirability({"a": 0.5, "b": 1.75})) == pytest.approx((0.5**3 * 0.25) ** 0.25)
    assert float(weighted.desirability({"a": 7.0, "b": 3.0})) == 0.0


@given(st.floats(-3, 3), st.floats(0, 8))
def test_desirability_is_between_nothing_and_everything(energy, gap):
    assert 0.0 <= float(SOLAR.desirability({"band_gap": gap, "formation_energy_per_atom": energy})) <= 1.0


def _moments(gap, gap_deviation, energy, energy_deviation):
    mean = {"band_gap": torch.tensor([gap]), "formation_energy_per_atom": torch.tensor([energy])}
    deviation = {"band_gap": torch.tensor([gap_deviation]), "formation_energy_per_atom": torch.tensor([energy_deviation])}
    return mean, deviation


@pytest.mark.parametrize("state", [(1.2, 0.1, -0.6, 0.05), (0.8, 0.4, -0.2, 0.3), (2.0, 0.6, -1.0, 0.1)])
def test_expected_desirability_agrees_with_sampling(state):
    mean, deviation = _moments(*state)
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    draws = {name: mean[name] + deviation[name] * torch.randn(n, generator=generator) for name in mean}
    sampled = SOLAR.desirability(draws)
    first, second = SOLAR.expected(mean, deviation)
    assert first.item() == pytest.approx(sampled.mean().item(), rel=0.02)
    assert second.item() == pytest.approx((sampled**2).mean().item(), rel=0.02)


def test_a_certain_prediction_has_the_log_reward_of_its_values():
    mean, deviation = _moments(1.3, 1e-9, -0.9, 1e-9)
    expected = 4.0 * math.log(float(SOLAR.desirability({"band_gap": 1.3, "formation_energy_per_atom": -0.9})))
    assert SOLAR.log_reward(mean, deviation).item() == pytest.approx(expected, rel=1e-4)


def test_uncertainty_lowers_the_reward_and_pessimism_lowers_it_further():
    certain = SOLAR.log_reward(*_moments(1.34, 0.01, -0.9, 0.01)).item()
    spread = SOLAR.log_reward(*_moments(1.34, 0.5, -0.9, 0.3)).item()
    bold = SOLAR.model_copy(update={"pessimism": 0.0}).log_reward(*_moments(1.34, 0.5, -0.9, 0.3)).item()
    assert spread < bold < certain


@pytest.mark.parametrize("deviation", [0.01, 0.05, 0.2])
def test_beyond_what_is_trusted_the_reward_falls_with_the_square_of_the_deviation(deviation):
    targets = {"band_gap": {"near": 1.34}, "formation_energy_per_atom": {"below": -0.5, "width": 0.2, "trusted": 0.05}}
    cautious = Objective.model_validate({"targets": targets, "sharpness": 4.0})
    moments = _moments(1.3, 0.4, -0.9, deviation)
    lost = SOLAR.log_reward(*moments) - cautious.log_reward(*moments)
    assert lost.item() == pytest.approx(0.5 * (deviation / 0.05) ** 2, rel=1e-6)


def test_the_log_reward_of_what_is_worthless_is_finite_and_still_says_what_is_worse():
    """Where all rewards are equal a sampler learns nothing; where to cut them off is the sampler's setting alone."""
    worse, worst = (SOLAR.log_reward(*_moments(gap, 0.1, 5.0, 0.1)).item() for gap in (3.0, 3.5))
    assert math.log(1e-8) > worse > worst
    assert math.isfinite(SOLAR.log_reward(*_moments(50.0, 1e-6, 50.0, 1e-6)).item())


@pytest.mark.parametrize(
    "target", [{"neer": 1.0}, {"near": 1.0, "wdth": 1}, {"near": 1.0, "width": 0}, {"near": 1.0, "trusted": 0}, {"from": 1, "to": 1}, {}]
)
def test_targets_that_mean_nothing_are_refused(target):
    with pytest.raises(ValidationError):
        Objective.model_validate({"targets": {"band_gap": target}})
