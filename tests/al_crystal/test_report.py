import numpy as np
import pandas as pd

from al_crystal.history import RoundState, State
from al_crystal.report.figures import errors_by_round, looks, parity


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


def test_errors_by_round_show_what_was_looked_at_where_anything_was():
    error = {"n": 9, "mae": 0.3, "median": 0.1, "bias": -0.2, "coverage_90": 0.8}
    older = RoundState([], metrics={"prediction_errors": {"band_gap": error}})  # closed before looks were measured
    newer = RoundState([], metrics={"prediction_errors": {"band_gap": error}, "look_errors": error | {"mae": 0.5}})
    assert len(errors_by_round(State(rounds=[older])).data) == 1
    dotted, solid = errors_by_round(State(rounds=[older, newer])).data
    assert (list(dotted.x), list(dotted.y)) == ([1], [0.5])
    assert (list(solid.x), list(solid.y)) == ([0, 1], [0.3, 0.3])


def test_a_hopeless_cell_does_not_squeeze_the_rest_of_a_parity_plot():
    labels = np.linspace(-2.0, 0.0, 199).tolist()
    labelled = pd.DataFrame(
        {
            "status": "ok",
            "round": 0,
            "formula": "MgO",
            "space_group_number": 225,
            "arm": "gfn",
            "labelled_formation_energy_per_atom": [*labels, 9.0],
            "predicted_formation_energy_per_atom": [*labels, -1.0],
            "predicted_formation_energy_per_atom_std": 0.1,
        }
    )
    shown = parity(labelled, "formation_energy_per_atom")
    low, high = shown.layout.xaxis.range
    assert -2.5 < low < -1.9
    assert -0.1 < high < 0.5
    assert "1 beyond the frame" in shown.layout.annotations[0].text
    assert len(shown.data[1].x) == 200
