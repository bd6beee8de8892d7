from dataclasses import replace

import numpy as np
import pytest
import torch

from surrogates.calibration import KNOWN
from surrogates.distance import Distance
from surrogates.features import Rows
from surrogates.learning import TrainingSettings
from surrogates.tables import TRAIN_FOLDS, Deformations, Table
from surrogates.train import calibrated, trunks
from surrogates.wrong_cells import TEST_VOLUMES, scaled
from tests.surrogates.helpers import CRYSTALS, SMALL, batch, small_ensemble

SETTINGS = TrainingSettings(network=SMALL, epochs=1, batch_size=40)


@pytest.fixture
def table() -> Table:
    rows = Rows.from_batch(batch(CRYSTALS * 50))
    targets = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0)).abs()
    fold = np.arange(len(rows)) // 4 % 10
    nothing = torch.zeros_like(targets)
    return Table(rows, targets, nothing, torch.zeros(len(rows)).long(), nothing.long(), (), {"fold": fold})


@pytest.fixture
def wrong(table) -> Deformations:
    rows = table.rows[: 4 * 10]
    lattice = rows.lattice_parameters.double().numpy()
    cells = torch.tensor(np.array([scaled(cell, volume) for cell in lattice for volume in TEST_VOLUMES]), dtype=torch.float32)
    crystal = torch.arange(len(rows)).repeat_interleave(len(TEST_VOLUMES))
    energies = torch.tensor([abs(np.log(volume)) for volume in TEST_VOLUMES], dtype=torch.float32).repeat(len(rows))
    return Deformations(rows, crystal, cells, energies, table.columns["fold"][: len(rows)], np.zeros(len(rows), dtype=bool))


def test_training_goes_on_with_the_trunks_that_are_missing(table, tmp_path):
    train, said = table.of_folds(TRAIN_FOLDS), []
    assert len(trunks(tmp_path, range(3), [1], SETTINGS, train, None, said.append)) == 1
    first = (tmp_path / "trunk_1.safetensors").read_bytes()
    found = trunks(tmp_path, range(3), None, SETTINGS, train, None, said.append)
    assert len(found) == 3
    assert (tmp_path / "trunk_1.safetensors").read_bytes() == first
    assert sum("CPU s" in line for line in said) == 3
    again = trunks(tmp_path / "again", range(3), [1], SETTINGS, train, None, said.append)[0].state_dict()
    for name, value in found[1].state_dict().items():
        torch.testing.assert_close(value, again[name], msg=name)
    assert not torch.equal(found[0].element.weight, found[1].element.weight)


def test_a_calibrated_ensemble_takes_its_strain_from_wrong_cells_and_reports_its_coverage(table, wrong):
    networks, distance = small_ensemble().networks, Distance.fit(table.rows, seed=0)
    known, inventions = table[torch.arange(100)], table[torch.arange(100, 200)]
    made = calibrated(networks, known, inventions, wrong, distance)
    assert made.calibration.strain != calibrated(networks, known, inventions, None, distance).calibration.strain
    inside = made.report["calibration"]["energies of known compounds"]
    assert inside["rows"] == 100
    assert inside["inside"] == pytest.approx(KNOWN, abs=0.02)
    other = replace(inventions, targets=3 * inventions.targets)
    assert calibrated(networks, known, other, wrong, distance).calibration.energy != made.calibration.energy
    found = made.predict(batch())
    assert torch.isfinite(found.mean).all()
    assert (found.standard_deviation > 0).all()
