import pytest
import torch

from surrogates.baselines import SHARES, baselines, learning_curve
from surrogates.features import Rows
from surrogates.held_out import TestSets
from surrogates.learning import TrainingSettings
from surrogates.tables import Table
from tests.surrogates.helpers import CRYSTALS, SMALL, batch


def table(repeats: int) -> Table:
    """Crystals whose labels are known functions of them: a column each."""
    rows = Rows.from_batch(batch(CRYSTALS * repeats))
    targets = torch.tensor([[-3.0, 4.0], [0.0, 0.5], [-3.4, 2.0], [-2.4, 3.5]] * repeats)
    return Table(rows, targets, torch.zeros_like(targets), torch.zeros(len(rows)).long(), torch.zeros_like(targets).long(), ())


@pytest.fixture(scope="module")
def sets() -> TestSets:
    return TestSets(*(table(3) for _ in range(4)))


def test_baselines_are_fitted_and_tested_on_what_they_are_given(sets):
    found = {measure.name: measure for measure in baselines(table(10), sets, rows=40)}
    assert len(found) == 9
    constant = found["constant (median): formation energy, seed"]
    assert constant.rows == 12
    assert constant.value == pytest.approx((0.6 + 2.4 + 1.0 + 0.0) / 4)  # the median is -2.4 or -3.0, the mean error the same
    assert found["random forest, 60 trees, 40 rows: formation energy, MatBench"].value < 0.3 * constant.value


def test_a_learning_curve_has_every_share_and_more_steps_help_on_rows_that_were_seen(sets):
    settings = TrainingSettings(network=SMALL, batch_size=8)
    found = learning_curve(table(30), sets, 20, settings)
    names = [measure.name for measure in found]
    assert len(names) == len(set(names)) == 4 * len(SHARES)
    assert names[0] == "learning curve, 4 rows, 80 passes: formation energy, seed"
    assert names[-1] == "learning curve, 120 rows, 20 passes: band gap, MatBench"
    assert found[-4].value < 0.2
    assert found[0].rows == 12
    again = learning_curve(table(30), sets, 20, settings)
    assert [measure.value for measure in again] == [measure.value for measure in found]
