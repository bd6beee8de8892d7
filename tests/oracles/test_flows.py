from __future__ import annotations

from jobflow import run_locally

from al_crystal.crystal import Crystal, Label
from oracles.flows import LabelMaker, label_flow
from tests.oracles.conftest import EMT


def test_a_flow_of_labels_runs_locally(tmp_path):
    crystals = [
        Crystal(space_group=225, composition={symbol: 4}, lattice_parameters=(length,) * 3 + (90, 90, 90))
        for symbol, length in (("Cu", 3.7), ("Al", 4.2))
    ]
    settings = {"potential": EMT, "properties": [{"kind": "density"}]}
    flow = label_flow(crystals, LabelMaker(settings=settings, seed=1))
    outputs = run_locally(flow, log=False, root_dir=tmp_path)
    labels = [Label.model_validate(outputs[job.uuid][1].output) for job in flow.jobs]
    assert [label.crystal_id for label in labels] == [crystal.id for crystal in crystals]
    assert all(label.status == "ok" for label in labels)
