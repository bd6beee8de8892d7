"""The process on the networks' residuals, on crystals whose true cost is known because the tests make it up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from al_crystal.crystal import Crystal, CrystalBatch
from surrogates.ensemble import Ensemble
from surrogates.features import Rows, occupation_features
from surrogates.residual import FEWEST, Residual, Scores, description
from tests.surrogates.helpers import batch, small_ensemble

GROUPS = (1, 2, 14, 62, 114, 150)


COMMON = ("Li", "Na", "K", "Mg", "Ca", "Zn", "Ga", "Si", "S", "Se", "Cl", "Br", "O")
OTHERS = ("Rb", "Ba", "Cd", "In", "Sn", "Te", "I", "F", "Sb")


def proposals(number: int, seed: int, among: tuple[str, ...] = COMMON) -> Rows:
    """Random ternary crystals in a few groups, their counts as they come."""
    generator = np.random.default_rng(seed)
    crystals = []
    for _ in range(number):
        symbols = generator.choice(among, 3, replace=False)
        composition = {str(symbol): int(generator.integers(1, 9)) for symbol in symbols}
        edge = (20.0 * sum(composition.values())) ** (1 / 3)
        group = int(generator.choice(GROUPS))
        gamma = 120 if group == 150 else 90
        crystals.append(Crystal(space_group=group, composition=composition, lattice_parameters=(edge, edge, edge, 90, 90, gamma)))
    return Rows.from_batch(CrystalBatch.from_crystals(crystals))


def cost(rows: Rows) -> torch.Tensor:
    """eV/atom: a whole one for every element that does not fill general positions."""
    return occupation_features(rows)[:, -3].clamp(max=3)


@pytest.fixture(scope="module")
def learned() -> tuple[Ensemble, Ensemble]:
    """An ensemble, and the same with what two hundred measured cells have taught."""
    start, rows = small_ensemble(), proposals(200, 0)
    noise = 0.05 * torch.randn(len(rows), generator=torch.Generator().manual_seed(0))
    return start, replace(start, residual=Residual.fit(Scores.of(rows, start.predict_rows(rows), cost(rows) + noise)))


def test_a_cost_that_depends_on_the_occupation_is_found_in_other_compositions(learned):
    start, tuned = learned
    rows = proposals(300, 1)
    before, after = start.predict_rows(rows), tuned.predict_rows(rows)
    truth = before.median[:, 0] + cost(rows)
    error = (after.median[:, 0] - truth).abs()
    assert error.mean() < 0.3 * cost(rows).mean()
    assert ((after.mean[:, 0] - truth).abs() <= 1.645 * after.standard_deviation[:, 0]).float().mean() > 0.85


def test_mean_and_deviation_are_those_of_the_belief(learned):
    start, tuned = learned
    rows = proposals(8, 2)
    before, after = start.predict_rows(rows), tuned.predict_rows(rows)
    residual = tuned.residual
    described = ((description(rows, before) - residual.offset) / residual.scale).clamp(-4, 4)
    z, noisy = (residual._model.posterior(described, observation_noise=noise) for noise in (False, True))
    middle = z.mean[:, 0].detach()
    width = noisy.variance[:, 0].detach().sqrt()
    drawn = middle + width * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energies = before.median[:, 0] + before.standard_deviation[:, 0] * drawn.sinh()
    assert torch.allclose(energies.median(0).values.float(), after.median[:, 0], atol=0.02)
    assert torch.allclose(energies.mean(0).float(), after.mean[:, 0], rtol=0.02, atol=0.02)
    assert torch.allclose(energies.std(0).float(), after.standard_deviation[:, 0], rtol=0.05)


def test_what_is_measured_below_the_networks_moves_others_down():
    start, rows, others = small_ensemble(), proposals(100, 10), proposals(50, 11)
    unit = start.predict_rows(rows).standard_deviation[:, 0]
    tuned = replace(start, residual=Residual.fit(Scores.of(rows, start.predict_rows(rows), -unit * cost(rows))))
    before, after = start.predict_rows(others), tuned.predict_rows(others)
    moved = (after.median - before.median)[:, 0] / before.standard_deviation[:, 0]
    assert moved[cost(others) > 1].mean() < -0.5
    assert moved[cost(others) == 0].abs().mean() < 0.5
    assert (after.standard_deviation[:, 0] > 0).all()


def test_a_chemistry_that_the_networks_get_wrong_is_found_in_any_group_and_cell():
    """Whatever holds selenium costs two standard deviations; nothing else of the crystal says so."""
    start, rows, others = small_ensemble(), proposals(200, 18), proposals(100, 19)
    selenium = [(batch.elements == 34).any(1) for batch in (rows, others)]
    unit = start.predict_rows(rows).standard_deviation[:, 0]
    tuned = replace(start, residual=Residual.fit(Scores.of(rows, start.predict_rows(rows), 2 * unit * selenium[0])))
    before, after = start.predict_rows(others), tuned.predict_rows(others)
    moved = (after.median - before.median)[:, 0] / before.standard_deviation[:, 0]
    assert moved[selenium[1]].mean() > 1
    assert moved[~selenium[1]].abs().mean() < 0.3


def test_gaps_distances_and_strains_stay_and_members_move_with_the_median(learned):
    start, tuned = learned
    rows = proposals(20, 3)
    before, after = start.predict_rows(rows), tuned.predict_rows(rows)
    for name in ("mean", "median", "standard_deviation"):
        assert torch.equal(getattr(before, name)[:, 1], getattr(after, name)[:, 1])
    assert torch.equal(before.distance, after.distance)
    assert torch.equal(before.strain, after.strain)
    moved = after.members - before.members
    assert torch.allclose(moved[:, :, 0], (after.median - before.median)[:, 0].expand(len(moved), -1), atol=1e-5)
    assert not moved[:, :, 1].any()


def test_further_from_everything_measured_best_guesses_move_less(learned):
    """Cells seven hundred times too large, of other elements; and far in every feature not at all."""
    start, tuned = learned
    near, far = proposals(50, 4), proposals(50, 4, OTHERS)
    far = replace(far, lattice_parameters=far.lattice_parameters * torch.tensor([9.0, 9, 9, 1, 1, 1]))
    shifts = []
    for rows in (near, far):
        before = start.predict_rows(rows)
        shifts.append(((tuned.predict_rows(rows).median - before.median)[:, 0] / before.standard_deviation[:, 0]).mean())
    assert shifts[1] < 0.6 * shifts[0]
    residual = tuned.residual
    nowhere = residual._model.posterior(residual.features[:5] + 100)
    assert torch.allclose(nowhere.mean.detach(), torch.zeros(5, 1, dtype=torch.float64), atol=1e-6)


def test_of_a_crystal_without_a_cell_nothing_is_said(learned):
    start, tuned = learned
    rows = proposals(20, 14)
    without = replace(rows, lattice_parameters=torch.full_like(rows.lattice_parameters, torch.nan))
    before, after = start.predict_rows(without), tuned.predict_rows(without)
    for name in ("members", "mean", "median", "standard_deviation"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_known_compounds_stay_where_they_were():
    """Proposals all cost something; compounds of other sizes and elements, which the networks know, are learned beside them."""
    start, rows, others = small_ensemble(), proposals(100, 15), proposals(100, 16, OTHERS)
    known, held_out = (replace(batch, counts=4 * batch.counts) for batch in (others, proposals(50, 17, OTHERS)))

    def scores(batch: Rows, residuals: torch.Tensor) -> Scores:
        return Scores.of(batch, start.predict_rows(batch), residuals)

    costly = scores(rows, 2 * start.predict_rows(rows).standard_deviation[:, 0])
    moved = [
        (replace(start, residual=residual).predict_rows(held_out).median - start.predict_rows(held_out).median)[:, 0].mean()
        for residual in (Residual.fit(costly), Residual.fit(costly, scores(known, torch.zeros(len(known)))))
    ]
    assert moved[1] < 0.2 * moved[0]


def test_a_few_hopeless_cells_widen_no_interval():
    start, rows, others = small_ensemble(), proposals(100, 8), proposals(50, 9)
    predicted = start.predict_rows(rows)
    usual = 0.3 * predicted.standard_deviation[:, 0] * torch.randn(len(rows), generator=torch.Generator().manual_seed(1))
    wild = usual.clone()
    wild[7:12] = 5000.0
    calm, shaken = (
        replace(start, residual=Residual.fit(Scores.of(rows, predicted, residuals))).predict_rows(others).standard_deviation[:, 0].median()
        for residuals in (usual, wild)
    )
    assert shaken < 3 * calm


def test_few_measured_cells_teach_nothing():
    start, rows = small_ensemble(), proposals(FEWEST, 5)
    predicted = start.predict_rows(rows)
    assert Residual.fit(Scores.of(rows, predicted, torch.zeros(FEWEST))) is not None
    assert Residual.fit(Scores.of(rows, predicted, torch.tensor([0.0] * (FEWEST - 1) + [torch.nan]))) is None


def test_of_too_many_cells_some_of_all_are_learned(monkeypatch):
    """Labels come before looks: to keep the last ones would forget every label."""
    monkeypatch.setattr("surrogates.residual.MOST", 40)
    start, rows = small_ensemble(), proposals(100, 13)
    predicted = start.predict_rows(rows)
    residuals = predicted.standard_deviation[:, 0] * torch.linspace(0.1, 1.0, 100)
    made = Residual.fit(Scores.of(rows, predicted, residuals))
    assert made is not None
    learned = made.scores.sinh()
    assert len(learned) == 40
    assert torch.equal(learned, learned.sort().values)
    assert (float(learned[0]), float(learned[-1])) == (pytest.approx(0.1, abs=0.03), pytest.approx(1.0, abs=0.03))


def test_all_cells_are_learned_where_some_are_searched_with(monkeypatch):
    monkeypatch.setattr("surrogates.residual.SEARCHED", 40)
    start, rows = small_ensemble(), proposals(100, 13)
    predicted = start.predict_rows(rows)
    scores = Scores.of(rows, predicted, predicted.standard_deviation[:, 0] * torch.linspace(0.1, 1.0, 100))
    made = Residual.fit(scores)
    assert made is not None
    assert torch.equal(made.scores, scores.z)
    every_other = replace(made, features=made.features[::2], scores=made.scores[::2])._fitted()
    assert not all(torch.equal(made.hyperparameters[name], value) for name, value in every_other.items())
    some = torch.arange(40) * 100 // 40
    searched = replace(made, features=made.features[some], scores=made.scores[some])._fitted()
    assert all(torch.equal(made.hyperparameters[name], value) for name, value in searched.items())


def test_what_is_saved_says_the_same(learned, tmp_path):
    _, tuned = learned
    rows = proposals(40, 6)
    tuned.save(tmp_path)
    loaded = Ensemble.load(tmp_path)
    assert torch.equal(loaded.predict_rows(rows).mean, Ensemble.load(tmp_path).predict_rows(rows).mean)
    assert loaded.residual is not None
    again = replace(loaded, residual=tuned.residual).predict_rows(rows)  # networks are kept in half precision, the residual as it is
    assert torch.equal(again.mean, loaded.predict_rows(rows).mean)
    assert torch.equal(again.standard_deviation, loaded.predict_rows(rows).standard_deviation)


def test_a_crystal_is_judged_by_itself(learned):
    _, tuned = learned
    rows = proposals(30, 7)
    together = tuned.predict_rows(rows).mean
    alone = torch.cat([tuned.predict_rows(rows[torch.tensor([index])]).mean for index in range(len(rows))])
    assert torch.allclose(together, alone, atol=1e-4)
    assert tuned.predict(batch()).mean.isfinite().all()
