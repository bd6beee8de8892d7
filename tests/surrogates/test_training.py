from dataclasses import replace

import numpy as np
import pytest
import torch

from al_crystal.crystal import Observation, Value
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.replay import random_cell, replay_rows
from surrogates.residual import Scores
from surrogates.settings import SurrogateSettings
from surrogates.training import fine_tune, observation_table, strain_labels
from tests.surrogates.helpers import CRYSTALS, ROCK_SALT, batch, small_ensemble

KNOWN = Scores.of(Rows.from_batch(batch()), small_ensemble().predict(batch()), torch.zeros(4))
WARM = SurrogateSettings(start="warm", epochs=5)


def observation(crystal, energy=None, gap=None, level="M3GNet", group=None, kind="relaxed", deviation=0.05):
    values = {"formation_energy_per_atom": energy, "band_gap": gap}
    properties = {
        name: Value(value=value, level_of_theory=level, standard_deviation=deviation) for name, value in values.items() if value is not None
    }
    return Observation(crystal=crystal, properties=properties, group=group or crystal.id, kind=kind)


def stretched(crystal, factor):
    lengths = tuple(length * factor for length in crystal.lattice_parameters[:3])
    return crystal.model_copy(update={"lattice_parameters": (*lengths, *crystal.lattice_parameters[3:])})


@pytest.fixture(scope="module")
def labels():
    """Every crystal at 6 sizes, with energies the untrained ensemble cannot know."""
    rows = []
    for number, crystal in enumerate(CRYSTALS):
        for step in range(6):
            rows.append(
                observation(stretched(crystal, 1 + 0.004 * step), energy=-0.5 - 0.4 * number, gap=0.5 * number, group=f"{number}-{step}")
            )
    return rows


def test_labels_are_learned_and_tested_on_groups_kept_apart(labels):
    made = fine_tune(small_ensemble(), labels, WARM.model_copy(update={"learning_rate": 3e-3, "epochs": 80, "replay_weight": 0.0}), seed=0)
    for name in made.properties:
        assert made.report["held out"][name] < 0.5 * made.report["before"][name]
        assert made.report["fitted"][name] < 0.5 * made.report["before"][name]
    assert made.levels == ("M3GNet",)


def test_same_seed_same_ensemble_and_other_seed_another(labels):
    start = small_ensemble()
    first, again, other = (fine_tune(start, labels, WARM, seed=seed).predict(batch()).mean for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_ensemble_it_starts_from_is_untouched(labels):
    start = small_ensemble()
    before = start.predict(batch()).mean
    fine_tune(start, labels, WARM, seed=0)
    assert torch.equal(before, start.predict(batch()).mean)


@pytest.mark.slow
def test_replay_keeps_what_was_known():
    shipped = Ensemble.pretrained()
    shifted = [observation(stretched(ROCK_SALT, 1 + 0.01 * step), energy=-1.0, group=str(step)) for step in range(16)]
    settings = SurrogateSettings(epochs=40)
    rows = replay_rows()[torch.arange(2000)]
    before = shipped.predict_rows(rows).mean[:, 0]
    moved = {}
    for weight in (0.0, 1.0):
        tuned = fine_tune(shipped, shifted, settings.model_copy(update={"replay_weight": weight}), seed=0)
        moved[weight] = float((tuned.predict_rows(rows).mean[:, 0] - before).abs().mean())
        assert tuned.report["fitted"]["formation_energy_per_atom"] < 0.5 * tuned.report["before"]["formation_energy_per_atom"]
    assert moved[1.0] < 0.6 * moved[0.0]


def test_cold_starts_from_the_pretrained_one_and_warm_from_the_given(tmp_path):
    start = small_ensemble()
    start.save(tmp_path)
    rows = [observation(crystal, energy=-1.0) for crystal in CRYSTALS]
    other = fine_tune(small_ensemble(), rows, WARM.model_copy(update={"epochs": 30, "learning_rate": 1e-2}), seed=0)
    settings = SurrogateSettings(start="cold", pretrained=str(tmp_path), epochs=2)
    from_start = fine_tune(Ensemble.load(tmp_path), rows, settings, seed=0)
    from_other = fine_tune(other, rows, settings, seed=0)
    assert torch.equal(from_start.predict(batch()).mean, from_other.predict(batch()).mean)
    warm = fine_tune(other, rows, settings.model_copy(update={"start": "warm"}), seed=0)
    assert not torch.equal(warm.predict(batch()).mean, from_other.predict(batch()).mean)


def test_bad_labels_are_counted():
    rows = [
        observation(ROCK_SALT, energy=-3.0),
        observation(ROCK_SALT, energy=-2.0),
        observation(ROCK_SALT, energy=-2.5, level="PBE", deviation=None),
        observation(ROCK_SALT, energy=float("nan"), gap=4.0),
        observation(ROCK_SALT.model_copy(update={"lattice_parameters": (4.0, 4.0, 4.0, 150.0, 150.0, 150.0)}), energy=-3.0),
        Observation(crystal=ROCK_SALT, properties={"density": Value(value=3.6, level_of_theory="M3GNet")}, group="x", kind="relaxed"),
    ]
    table, report = observation_table(rows, ("M3GNet",), SurrogateSettings())
    assert len(table) == report["rows"] == 4
    assert report["labels that are not finite numbers, left out"] == 1
    assert report["rows whose cell closes no body, left out"] == 1
    assert report["rows without a predicted property, left out"] == 1
    assert next(value for key, value in report.items() if "differ by more" in key) == 1
    assert table.level[:, 0].tolist() == [1, 1, 0, 0]
    assert table.noise[:, 0].tolist() == pytest.approx([0.05, 0.05, 0.0, 0.0])


def test_the_cost_of_a_proposed_cell_is_that_above_its_own_relaxed_one():
    rows = [
        observation(ROCK_SALT, energy=-3.0, group="one"),
        observation(stretched(ROCK_SALT, 1.1), energy=-2.6, group="one", kind="proposal"),
        observation(stretched(ROCK_SALT, 1.2), energy=-2.0, group="one", kind="proposal", level="CHGNet"),
        observation(stretched(ROCK_SALT, 1.3), energy=-1.0, group="two", kind="proposal"),
    ]
    found = strain_labels(rows)
    assert found[1] == pytest.approx(0.4)
    assert np.isnan(found[[0, 2, 3]]).all()


def test_a_costly_cell_is_learned_from_its_relaxed_one():
    rows = []
    for number in range(8):
        near = stretched(ROCK_SALT, 1 + 0.002 * number)
        rows.append(observation(near, energy=-3.0, group=str(number)))
        rows.append(observation(stretched(near, 1.25), energy=-0.5, group=str(number), kind="proposal"))
    start = small_ensemble()
    tuned = WARM.model_copy(update={"learning_rate": 3e-3, "epochs": 60, "replay_weight": 0.0})
    made = fine_tune(start, rows, tuned, seed=0)
    cells = batch([rows[0].crystal, rows[1].crystal])
    relaxed, proposed = made.predict(cells).strain
    assert proposed > 1.5
    assert relaxed < 0.3


@pytest.mark.parametrize("rows", [[], [Observation(crystal=ROCK_SALT, properties={}, group="x", kind="proposal")]])
def test_nothing_to_learn_changes_nothing(rows):
    start = small_ensemble()
    made = fine_tune(start, rows, WARM, seed=0)
    assert torch.equal(made.predict(batch()).mean, start.predict(batch()).mean)
    assert made.report["rows"] == 0


def test_learned_crystals_are_near_and_their_elements_known():
    start = small_ensemble()
    from al_crystal.crystal import Crystal

    new = Crystal(space_group=225, composition={"Cs": 4, "I": 4}, lattice_parameters=(7.6, 7.6, 7.6, 90, 90, 90))
    assert start.unknown_elements(batch([new])) == ("I", "Cs")
    made = fine_tune(start, [observation(new, energy=-1.5)], WARM.model_copy(update={"epochs": 1}), seed=0)
    assert made.unknown_elements(batch([new])) == ()
    assert made.predict(batch([new])).distance[0] + 10 < start.predict(batch([new])).distance[0]


def test_wrong_predictions_widen_the_spread(labels):
    start = small_ensemble()
    wild = [
        row.model_copy(update={"properties": {"formation_energy_per_atom": Value(value=20.0, level_of_theory="PBE")}}) for row in labels
    ]
    made = fine_tune(start, wild, WARM.model_copy(update={"epochs": 1}), seed=0)
    assert made.calibration.energy.inflation > 2
    assert made.calibration.gap.inflation == 1


def test_replay_crystals_are_crystals():
    rows = replay_rows()
    assert len(rows) >= 10_000
    assert rows.lattice_parameters.isfinite().all()
    assert (rows.elements > 0).any(1).all()


@pytest.mark.parametrize("system", ["triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"])
def test_random_cells_have_the_volume_asked_for(system):
    import numpy as np

    from al_crystal.crystal import cell_volume

    generator = np.random.default_rng(0)
    assert all(cell_volume(random_cell(system, 123.0, generator).tolist()) == pytest.approx(123.0) for _ in range(50))


def looks(number):
    """Rock salt at many sizes, 2 eV/atom above what labels say."""
    cells = [stretched(ROCK_SALT, 1 + 0.002 * step) for step in range(number)]
    return [observation(cell, energy=1.5, group=f"look-{step}", kind="look") for step, cell in enumerate(cells)]


def test_looks_teach_the_residual_and_no_network(labels):
    start = small_ensemble()
    without, with_looks = (fine_tune(start, [*labels, *more], WARM, seed=0) for more in ([], looks(40)))
    assert without.residual is None  # relaxed cells are not proposals
    assert with_looks.residual is not None
    assert torch.equal(with_looks.networks[0].head_weight, without.networks[0].head_weight)
    cells = batch([row.crystal for row in looks(40)])
    bare = replace(with_looks, residual=None).predict(cells).median[:, 0]
    assert torch.equal(bare, without.predict(cells).median[:, 0])
    assert float((with_looks.predict(cells).median[:, 0] - 1.5).abs().mean()) < 0.1 * float((bare - 1.5).abs().mean())


def test_looks_alone_teach_the_residual_and_leave_the_networks():
    start = replace(small_ensemble(), known=KNOWN)
    made = fine_tune(start, looks(40), WARM, seed=0)
    assert made.residual is not None
    cells = batch([row.crystal for row in looks(40)])
    bare = replace(made, residual=None)
    assert torch.equal(bare.predict(cells).median, start.predict(cells).median)
    assert float((made.predict(cells).median[:, 0] - 1.5).abs().mean()) < 0.5 * float((bare.predict(cells).median[:, 0] - 1.5).abs().mean())
    assert fine_tune(start, looks(5), WARM, seed=0).residual is None
    assert fine_tune(start, looks(40), WARM.model_copy(update={"epochs": 0}), seed=0).residual is None


def test_labels_of_proposed_cells_teach_the_residual_by_the_network_that_did_not_learn_them(labels):
    proposals = [row.model_copy(update={"kind": "proposal"}) for row in labels]
    crowd = [row.model_copy(update={"group": f"{row.group}-{copy}"}) for row in proposals for copy in range(2)]
    made = fine_tune(replace(small_ensemble(), known=KNOWN), crowd, WARM, seed=0)
    assert made.residual is not None
    assert len(made.residual.scores) == len(crowd) + len(KNOWN.z)
    again = fine_tune(made, crowd, WARM, seed=0)  # a warm start: the residual is learned anew, not on top of itself
    assert again.residual is not None
    assert len(again.residual.scores) == len(crowd) + len(KNOWN.z)
