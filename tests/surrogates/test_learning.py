import math

import pytest
import torch

from surrogates.features import Rows
from surrogates.learning import REFERENCE, TrainingSettings, row_loss
from surrogates.network import Output
from surrogates.tables import Table
from tests.surrogates.helpers import ROCK_SALT, SILICON, batch

ROWS = [SILICON, SILICON, ROCK_SALT, ROCK_SALT]


@pytest.mark.parametrize(
    ("targets", "weights"),
    [
        ((0.0, 0.5, 0.5, -1.0), (10, 3, 3, 1)),  # silicon, an allotrope of it, an unstable and a stable compound
        ((-REFERENCE / 2, -0.1, 0.0, math.nan), (10, 1, 1, 0)),  # zero is no reference for a compound
    ],
)
def test_elements_in_their_reference_state_and_unstable_crystals_weigh_more(targets, weights):
    rows, zeros, none = Rows.from_batch(batch(ROWS)), torch.zeros(2, 4), torch.zeros(4, 2)
    table = Table(rows, torch.stack([torch.tensor(targets), torch.full((4,), math.nan)], dim=1), none, torch.zeros(4).long(), none.long())
    errors = torch.tensor([0.1, 0.2, 0.4, 0.8])
    output = Output(torch.tensor(targets).nan_to_num() + errors.expand(2, 4), zeros, zeros, zeros, zeros, zeros, zeros)
    settings = TrainingSettings(energy_elbow=0.05)
    _, parts = row_loss(output, torch.zeros(4), table, settings, torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))
    weight = torch.tensor(weights, dtype=torch.float32)
    assert parts["energy"] == pytest.approx(float(((errors - 0.025) * weight).sum() / weight.sum()), rel=1e-5)
