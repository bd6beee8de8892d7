import hashlib

import numpy as np
import pytest
import torch

from al_crystal.crystal import ELEMENTS
from surrogates.tables import CALIBRATION_FOLDS, KEPT_APART, TEST_FOLDS, TRAIN_FOLDS, fold_of, join, matbench_table, seed_table

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def tables(data_folder):
    report: dict[str, int] = {}
    return seed_table(data_folder, report), matbench_table(data_folder, report), report


def test_folds_are_the_chemical_systems(tables):
    for table in tables[:2]:
        for index in np.random.default_rng(0).choice(len(table), 300, replace=False):
            symbols = sorted(ELEMENTS[z - 1] for z in table.rows.elements[index].tolist() if z)
            assert int(hashlib.md5("-".join(symbols).encode()).hexdigest(), 16) % 10 == table.columns["fold"][index]
            assert fold_of(reversed(symbols)) == table.columns["fold"][index]


def test_no_test_row_trains_and_none_of_the_sources_kept_apart(tables):
    train = join([tables[0].without(KEPT_APART), tables[1]]).of_folds(TRAIN_FOLDS)
    assert not set(train.columns["fold"]) & {*TEST_FOLDS, *CALIBRATION_FOLDS}
    assert not set(train.columns["origin"]) & set(KEPT_APART)


def test_no_label_is_lost_or_invented(tables, data_folder):
    import pandas as pd

    energies = pd.read_parquet(data_folder / "matbench_mp_e_form_comp_sg.parquet")["e_form"].sort_values().to_numpy()
    gaps = pd.read_parquet(data_folder / "matbench_mp_gap_comp_sg.parquet")["band_gap_pbe"].sort_values().to_numpy()
    for column, expected in enumerate((energies, gaps)):
        found = tables[1].targets[:, column]
        np.testing.assert_allclose(np.sort(found[~found.isnan()].numpy()), expected, atol=1e-5)


def test_energies_are_carried_to_one_scale_and_kept_as_published(tables, data_folder):
    def shift(composition):
        return 0.1 * composition.get("Br", 0) / sum(composition.values())

    report: dict[str, int] = {}
    for table, plain in zip((seed_table(data_folder, report, shift), matbench_table(data_folder, report, shift)), tables, strict=False):
        moved = (table.targets - plain.targets)[:, 0].nan_to_num()
        bromides = ((table.rows.elements == 35) & (table.rows.counts > 0)).any(1)
        assert moved[bromides].max() > 0.05
        assert not moved[~bromides].any()
        torch.testing.assert_close(table.as_published().targets, plain.targets, equal_nan=True)
        newer = torch.tensor([origin.startswith("mpts_52") for origin in table.columns["origin"]])
        assert not moved[newer].any()
    assert report["MatBench: energies on the older scale, converted"] == len(table)


def test_matbench_cells_are_unknown_and_seed_cells_known(tables):
    assert tables[1].rows.lattice_parameters.isnan().all()
    assert not tables[0].rows.lattice_parameters.isnan().any()


def test_contradictions_are_counted(tables):
    counts = {key: value for key, value in tables[2].items() if "differing" in key}
    assert len(counts) == 4
    assert all(value > 0 for value in counts.values())


@pytest.mark.slow
def test_shipped_ensemble_holds_on_systems_it_has_never_seen(tables):
    from surrogates.calibration import NINETY
    from surrogates.ensemble import Ensemble

    table = tables[0].without(KEPT_APART).of_folds(TEST_FOLDS)
    found = Ensemble.pretrained().predict_rows(table.without_cells().rows)
    error = (found.mean - table.targets).abs()
    known = ~error.isnan()
    assert error[known[:, 0], 0].mean() < 0.065
    assert error[known[:, 1], 1].mean() < 0.18
    inside = error <= NINETY * found.standard_deviation
    assert 0.86 < inside[known[:, 0], 0].float().mean() < 0.95
    gapped = known[:, 1] & (table.targets[:, 1] > 0)
    assert 0.84 < inside[gapped, 1].float().mean() < 0.96
    assert torch.isfinite(found.distance).all()
