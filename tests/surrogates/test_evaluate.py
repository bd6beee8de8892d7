from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from al_crystal.crystal import cell_volume
from surrogates.calibration import Calibration, PropertyCalibration
from surrogates.evaluate import accuracy, cells, in_volume, uncertainty
from surrogates.features import Rows
from surrogates.figures import draw_all
from surrogates.held_out import Measure, TestSets
from surrogates.tables import Deformations, Table
from surrogates.wrong_cells import TEST_VOLUMES, scaled
from tests.surrogates.helpers import CRYSTALS, batch, small_ensemble


def table(repeats: int, seed: int) -> Table:
    rows = Rows.from_batch(batch(CRYSTALS * repeats))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(len(rows), 2, generator=generator)
    targets[:, 1] = targets[:, 1].clamp(min=0)
    targets[0, 0] = torch.nan
    columns = {"in_22el": np.arange(len(rows)) % 2 == 0, "fold": np.zeros(len(rows)), "origin": np.full(len(rows), "x", dtype=object)}
    return Table(rows, targets, torch.zeros_like(targets), torch.ones(len(rows)).long(), torch.zeros_like(targets).long(), (), columns)


@pytest.fixture(scope="module")
def sets() -> TestSets:
    return TestSets(*(table(20, seed) for seed in range(4)))


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    assert len({measure.name for measure in measures}) == len(measures)
    return {measure.name: measure for measure in measures}


def test_errors_are_those_of_a_direct_computation(sets):
    made = small_ensemble()
    found = by_name(accuracy(made, sets))
    hidden = made.predict_rows(sets.seed.without_cells().rows)
    error = (hidden.median[:, 0] - sets.seed.targets[:, 0]).abs()[1:]
    measure = found["formation energy, seed: cell and source hidden"]
    assert measure.rows == len(sets.seed) - 1
    assert measure.value == pytest.approx(float(error.mean()), rel=1e-5)
    trunks = [members.mean(0) for members in hidden.members[..., 0].split(2)]
    alone = [float((values - sets.seed.targets[:, 0]).abs()[1:].mean()) for values in trunks]
    assert measure.spread == pytest.approx(np.std(alone, ddof=1), rel=1e-3)
    assert measure.alone == pytest.approx(np.mean(alone), rel=1e-5)
    positive = sets.matbench.targets[:, 0] > 0
    served = made.predict_rows(sets.matbench.rows).median[:, 0] - sets.matbench.targets[:, 0]
    name = "bias where formation energy > 0: MatBench, as served"
    assert found[name].value == pytest.approx(float(served[positive].mean()), rel=1e-5)
    assert found[name].rows == int(positive.sum())


def test_coverage_counts_labels_inside_the_interval(sets):
    made = small_ensemble()
    made = replace(made, calibration=Calibration(energy=PropertyCalibration(lean=0.5)))
    found = by_name(uncertainty(made, sets))
    served = made.predict_rows(sets.wbm.rows)
    inside = (served.mean[:, 0] - sets.wbm.targets[:, 0]).abs()[1:] <= 1.6449 * served.standard_deviation[1:, 0]
    assert found["coverage of the 90 % interval: formation energy, WBM"].value == pytest.approx(float(inside.float().mean()))
    assert found["coverage of the 90 % interval: band gap, held-out non-metals"].rows == sum(
        int((part.targets[:, 1] > 0).sum()) for part in (sets.seed, sets.matbench)
    )


def test_cells_are_compared_with_the_potential(sets):
    rows = Rows.from_batch(batch())
    lattice = [np.array(crystal.lattice_parameters) for crystal in CRYSTALS]
    all_cells = np.concatenate([[cell, *(scaled(cell, volume) for volume in TEST_VOLUMES if volume != 1)] for cell in lattice])
    owner = torch.arange(4).repeat_interleave(len(TEST_VOLUMES))
    energies = torch.tensor(np.abs(np.log([1.0, *(volume for volume in TEST_VOLUMES if volume != 1)]))).float().repeat(4)
    deformed = Deformations(rows, owner, torch.tensor(all_cells).float(), energies, np.zeros(4), np.ones(4, dtype=bool))
    found = by_name(cells(small_ensemble(), sets, deformed))
    assert found["for comparison, the potential's own energy rises at 0.7"].value == 1
    assert -1 <= found["Spearman with the potential over 8 volumes: mean"].value <= 1
    assert found["mean change of the energy against no cell: no cell"].value == 0


def test_scaled_volumes_are_scaled():
    rows = Rows.from_batch(batch())
    for before, after in zip(rows.lattice_parameters.tolist(), in_volume(rows, 0.7).lattice_parameters.tolist(), strict=True):
        assert cell_volume(after) == pytest.approx(0.7 * cell_volume(before), rel=1e-5)


def test_every_figure_is_drawn(sets, tmp_path: Path):
    draw_all(small_ensemble(), sets, tmp_path)
    files = list(tmp_path.glob("surrogate_*.png"))
    assert len(files) == 9
    assert all(file.stat().st_size > 3000 for file in files)
