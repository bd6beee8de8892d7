import numpy as np
import pandas as pd

from al_crystal.report.figures import looks


def test_looks_are_held_against_labels_of_the_proposed_cell_round_by_round():
    table = pd.DataFrame(
        {
            "status": ["ok", "ok", "ok", "rejected", "ok"],
            "round": [0, 0, 1, 1, 1],
            "proposal_formation_energy_per_atom": [0.0, 0.0, -1.0, -1.0, -1.0],
            "surrogate_formation_energy_per_atom": [0.5, -0.3, -1.2, 9.0, 9.0],
            "screened_formation_energy_per_atom": [0.1, 0.3, -0.9, 9.0, np.nan],  # the last is the random control, never looked at
            "predicted_formation_energy_per_atom": [0.2, 0.0, -1.05, 9.0, 9.0],
        }
    )
    lines = {line.name: line for line in looks(table).data}
    assert list(lines["the look"].x) == [0, 1]
    np.testing.assert_allclose(lines["the surrogate alone"].y, [0.4, 0.2])
    np.testing.assert_allclose(lines["the look"].y, [0.2, 0.1])
    np.testing.assert_allclose(lines["the belief it was picked on"].y, [0.1, 0.05])
    assert list(lines["the look"].text) == ["n = 2", "n = 1"]
