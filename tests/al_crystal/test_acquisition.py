from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from al_crystal.acquisition import PoolModel, PoolPosterior, acquisition_function, choose, shortlist
from al_crystal.crystal import Crystal
from al_crystal.objective import Objective

OBJECTIVE = Objective.model_validate({"targets": {"band_gap": {"near": 1.34}, "formation_energy_per_atom": {"below": -0.5}}})
SYMBOLS = ["Na", "K", "Cl", "O", "S", "Ga", "As", "Ti"]


def _settings(**changes):
    defaults = {"acquisition": "expected_improvement", "exploration": 1.0}
    shares = {"per_chemical_system": 2, "per_space_group": 3, "per_element": 6}
    return SimpleNamespace(**(defaults | shares | changes))


def _pool(n: int, members: int = 8, seed: int = 0) -> tuple[PoolPosterior, list[Crystal]]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(n, 2, generator=generator) * 0.6 + torch.tensor([1.2, -0.6])
    values = centre + 0.2 * torch.randn(members, n, 2, generator=generator)
    crystals = []
    for _ in range(n):
        chosen = torch.randperm(len(SYMBOLS), generator=generator)[:2].tolist()
        counts = torch.randint(1, 9, (2,), generator=generator).tolist()
        group = int(torch.randint(195, 231, (), generator=generator))
        composition = {SYMBOLS[i]: count for i, count in zip(chosen, counts, strict=True)}
        crystals.append(Crystal(space_group=group, composition=composition, lattice_parameters=(5, 5, 5, 90, 90, 90)))
    return PoolPosterior(("band_gap", "formation_energy_per_atom"), values.mean(0), values.std(0) * 1.3, values), crystals


def test_posterior_states_the_calibrated_moments_and_the_members_correlation():
    beliefs, _ = _pool(40)
    posterior = PoolModel(beliefs).posterior(torch.tensor([[3.0], [7.0]], dtype=torch.float64))
    assert torch.allclose(posterior.mean, beliefs.mean[[3, 7]].double())
    assert torch.allclose(posterior.variance.sqrt(), beliefs.standard_deviation[[3, 7]].double(), atol=1e-6)
    generator_samples = posterior.rsample(torch.Size([200_000]))[..., 0]
    sampled = torch.corrcoef(generator_samples.T)[0, 1]
    expected = torch.corrcoef(beliefs.members[:, [3, 7], 0].T.double())[0, 1] * 8 / 10
    assert sampled.item() == pytest.approx(expected.item(), abs=0.02)


def test_the_first_pick_has_the_largest_expected_improvement():
    beliefs, crystals = _pool(60)
    best = 0.4
    acquisition = acquisition_function(_settings(), OBJECTIVE, beliefs, best, seed=1)
    first = choose(acquisition, crystals, 1, _settings())[0]
    generator = torch.Generator().manual_seed(5)
    draws = beliefs.mean.double() + beliefs.standard_deviation.double() * torch.randn(
        20_000, 60, 2, generator=generator, dtype=torch.float64
    )
    desirability = OBJECTIVE.desirability({name: draws[..., i] for i, name in enumerate(beliefs.properties)})
    improvement = (desirability - best).clamp_min(0).mean(0)
    assert improvement[first.row] >= 0.95 * improvement.max()


@pytest.mark.parametrize("kind", ["expected_improvement", "upper_confidence_bound", "greedy"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_keeps_the_rules_of_diversity(kind, seed):
    beliefs, crystals = _pool(200, seed=seed)
    settings = _settings(acquisition=kind)
    taken = crystals[:2]
    picks = choose(acquisition_function(settings, OBJECTIVE, beliefs, 0.3, seed), crystals, 10, settings, taken)
    batch = [*taken, *(crystals[pick.row] for pick in picks)]
    assert len(picks) == 10
    assert len({(item.formula, item.space_group) for item in batch}) == len(batch)
    assert max(Counter(item.chemical_system for item in batch).values()) <= 2
    assert max(Counter(item.space_group for item in batch).values()) <= 3
    assert max(Counter(symbol for item in batch for symbol in item.composition).values()) <= 6


def test_a_batch_is_filled_evenly_when_the_shares_leave_no_more():
    beliefs, crystals = _pool(60)
    settings = _settings(per_space_group=1, per_chemical_system=60, per_element=60)
    cubic = [crystal.model_copy(update={"space_group": 221 + index % 3}) for index, crystal in enumerate(crystals)]
    picks = choose(acquisition_function(settings, OBJECTIVE, beliefs, 0.0, 0), cubic, 9, settings)
    assert set(Counter(cubic[pick.row].space_group for pick in picks).values()) == {3}


def test_fewer_are_picked_only_when_every_crystal_was_taken():
    beliefs, crystals = _pool(5)
    different = len({(crystal.formula, crystal.space_group) for crystal in crystals})
    assert len(choose(acquisition_function(_settings(), OBJECTIVE, beliefs, 0.0, 0), crystals, 9, _settings())) == different


def test_a_twin_of_a_pending_pick_is_worth_less_than_an_independent_crystal():
    generator = torch.Generator().manual_seed(0)
    deviation = torch.randn(8, 3, 2, generator=generator) * 0.3
    deviation -= deviation.mean(0)
    deviation[:, 1] = deviation[:, 0]
    centre = torch.tensor([1.0, -0.6])
    beliefs = PoolPosterior(("band_gap", "formation_energy_per_atom"), centre.expand(3, 2), torch.full((3, 2), 0.3), centre + deviation)
    acquisition = acquisition_function(_settings(), OBJECTIVE, beliefs, 0.5, seed=0)
    acquisition.set_X_pending(torch.tensor([[0.0]], dtype=torch.float64))
    twin, stranger = acquisition(torch.tensor([[[1.0]], [[2.0]]], dtype=torch.float64))
    assert twin < stranger


def test_the_same_seed_picks_the_same_batch():
    beliefs, crystals = _pool(100)
    batches = [choose(acquisition_function(_settings(), OBJECTIVE, beliefs, 0.2, 3), crystals, 6, _settings()) for _ in range(2)]
    assert batches[0] == batches[1]


def test_a_shortlist_holds_the_best_by_themselves_under_the_same_rules():
    beliefs, crystals = _pool(200)
    settings = _settings()
    acquisition = acquisition_function(settings, OBJECTIVE, beliefs, 0.3, 0)
    rows = shortlist(acquisition, crystals, 40, settings)
    assert len(set(rows)) == 40
    assert len({(crystals[row].formula, crystals[row].space_group) for row in rows}) == 40
    assert rows[0] == choose(acquisition, crystals, 1, settings)[0].row
    first = Counter(crystals[row].space_group for row in rows[:10])
    assert max(first.values()) <= settings.per_space_group
    different = len({(crystal.formula, crystal.space_group) for crystal in crystals})
    assert len(shortlist(acquisition, crystals, 500, settings)) == different
    part = beliefs[rows]
    assert torch.equal(part.mean, beliefs.mean[rows])
    assert torch.equal(part.members, beliefs.members[:, rows])


def test_of_no_crystals_none_is_picked():
    beliefs, _ = _pool(5)
    acquisition = acquisition_function(_settings(), OBJECTIVE, beliefs[[]], 0.0, 0)
    assert choose(acquisition, [], 3, _settings()) == []
    assert shortlist(acquisition, [], 3, _settings()) == []
