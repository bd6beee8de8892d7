"""The known compounds that are learned beside a campaign's measured cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.surrogate_scale import shift
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.known import NUMBER, scores_of_compounds
from surrogates.residual import Scores, description
from surrogates.tables import CALIBRATION_FOLDS, KEPT_APART, Table, seed_table
from tests.surrogates.helpers import batch, small_ensemble


def test_the_shipped_compounds_are_described_as_measured_cells_are():
    found = Ensemble.pretrained().known
    assert found is not None
    rows = Rows.from_batch(batch())
    assert found.described.shape == (NUMBER, description(rows, small_ensemble().predict_rows(rows)).shape[1])
    assert found.z.shape == (NUMBER,)
    assert found.described.isfinite().all()
    assert found.z.abs().median() < 1, "about known compounds the networks err by less than their own deviation"


def test_compounds_without_a_cell_or_an_energy_are_left_out():
    ensemble, rows = small_ensemble(), Rows.from_batch(batch())
    rows.lattice_parameters[0] = torch.nan
    targets = torch.tensor([[-3.0, 4.0], [torch.nan, 1.0], [-3.4, torch.nan], [-2.0, 3.0]])
    nothing = torch.zeros(4, dtype=torch.int64)
    table = Table(rows, targets, torch.zeros(4, 2), nothing, torch.zeros(4, 2, dtype=torch.int64))
    found = scores_of_compounds(ensemble, table)
    predicted = ensemble.predict_rows(rows)
    z = torch.asinh((targets - predicted.median)[:, 0] / predicted.standard_deviation[:, 0]).clamp(-3, 3)
    assert sorted(found.z.tolist()) == pytest.approx(sorted(z[[2, 3]].tolist()), abs=1e-5)
    assert len(scores_of_compounds(ensemble, table, number=1).z) == 1


def test_an_ensemble_keeps_its_own(tmp_path):
    rows = Rows.from_batch(batch())
    ensemble = small_ensemble()
    known = Scores.of(rows, ensemble.predict_rows(rows), torch.linspace(-0.1, 0.1, len(rows)))
    ensemble.save(tmp_path / "without")
    replace(ensemble, known=known).save(tmp_path / "with")
    assert Ensemble.load(tmp_path / "without").known is None
    kept = Ensemble.load(tmp_path / "with").known
    assert kept is not None
    assert torch.allclose(kept.described, known.described)
    assert torch.allclose(kept.z, known.z)


def test_the_shipped_numbers_are_those_of_the_command(data_folder):
    table = seed_table(data_folder, {}, shift).without(KEPT_APART).of_folds(CALIBRATION_FOLDS)
    ensemble = Ensemble.pretrained()
    found, shipped = scores_of_compounds(ensemble, table), ensemble.known
    assert shipped is not None
    assert torch.allclose(found.described, shipped.described, atol=0.01)
    assert torch.allclose(found.z, shipped.z, atol=0.02)
