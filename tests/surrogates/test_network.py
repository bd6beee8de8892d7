from dataclasses import replace

import pytest
import torch

from surrogates.features import Rows
from surrogates.inputs import Inputs
from surrogates.learning import SMALLEST_MATRIX, TrainingSettings, _step_loss, huber, log_strain, make_optimisers, train_network
from surrogates.network import Network, NetworkSettings, mean_strain
from surrogates.tables import Deformations, Table
from tests.surrogates.helpers import CRYSTALS, SMALL, batch

import numpy as np  # isort: skip
import itertools


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network(SMALL).eval()


def outputs(network, rows):
    with torch.no_grad():
        return network(Inputs.of(rows), torch.zeros(len(rows), dtype=torch.int64))


def test_a_crystal_is_predicted_alike_alone_and_in_any_batch(network):
    together = outputs(network, Rows.from_batch(batch()))
    backwards = outputs(network, Rows.from_batch(batch(CRYSTALS[::-1])))
    for index, crystal in enumerate(CRYSTALS):
        alone = outputs(network, Rows.from_batch(batch([crystal])))
        for name in together._fields:
            torch.testing.assert_close(getattr(together, name)[:, index], getattr(alone, name)[:, 0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(getattr(backwards, name)[:, -1 - index], getattr(alone, name)[:, 0], atol=1e-5, rtol=1e-4)


def test_energy_without_strain_ignores_the_cell(network):
    rows = Rows.from_batch(batch())
    other = replace(rows, lattice_parameters=rows.lattice_parameters * 1.3)
    torch.testing.assert_close(outputs(network, rows).energy, outputs(network, other).energy)
    torch.testing.assert_close(outputs(network, rows).gap, outputs(network, other).gap)
    unknown = replace(rows, lattice_parameters=torch.full_like(rows.lattice_parameters, torch.nan))
    assert not outputs(network, unknown).strain.any()


def test_the_expected_volume_does_not_follow_the_one_that_is_given(network):
    rows = Rows.from_batch(batch())
    expected = outputs(network, rows).volume
    for factor in (0.5, 0.8, 1.5):
        lattice = rows.lattice_parameters.clone()
        lattice[:, :3] *= factor
        torch.testing.assert_close(outputs(network, replace(rows, lattice_parameters=lattice)).volume, expected, atol=1e-5, rtol=1e-4)


def test_strain_is_never_negative_and_explodes_far_away(network):
    rows = Rows.from_batch(batch())
    lattice = rows.lattice_parameters.clone()
    energies = []
    for factor in (0.02, 0.1, 0.3, 0.5):
        changed = lattice.clone()
        changed[:, :3] *= factor ** (1 / 3)
        energies.append(outputs(network, replace(rows, lattice_parameters=changed)).strain)
    assert all((energy >= 0).all() for energy in energies)
    for worse, better in itertools.pairwise(energies):
        assert (worse > better).all()


def test_corrections_start_at_zero_and_touch_their_level_only(network):
    rows = Rows.from_batch(batch())
    network.add_levels(2)
    exact = outputs(network, rows)
    with torch.no_grad():
        network.level[1] += 0.1
        inputs = Inputs.of(rows)
        source = torch.zeros(len(rows), dtype=torch.int64)
        torch.testing.assert_close(network(inputs, source, 1).energy, exact.energy)
        moved = network(inputs, source, 2)
        assert (moved.energy != exact.energy).all()
        crystal = network.trunk(inputs, source)
        hidden = network.outputs(crystal, *network.cell(crystal, inputs))[1]
        level = torch.tensor([[0, 2]] * len(rows))
        correction = network.corrections(hidden, level)
    assert not correction[..., 0].any()
    torch.testing.assert_close(correction[..., 1], moved.gap - exact.gap)


def test_strains_are_averaged_as_they_are_compared():
    strain = torch.tensor([[0.0, 0.2, 0.1], [0.0, 0.2, 5.0]])
    found = mean_strain(strain)
    torch.testing.assert_close(found[:2], strain[0, :2])
    torch.testing.assert_close(log_strain(found), log_strain(strain).mean(0))
    assert found[2] < strain[:, 2].mean() / 2


def test_huber_meets_itself_and_log_strain_is_odd():
    elbow = torch.tensor(0.15)
    assert float(huber(elbow, 0.15)) == pytest.approx(0.075)
    assert float(huber(torch.tensor(1.15), 0.15)) == pytest.approx(1.075)
    torch.testing.assert_close(log_strain(torch.tensor([-0.3, 0.3])).sum(), torch.tensor(0.0))


def test_every_weight_has_one_optimiser_and_muon_only_large_dense_layers():
    network = Network(NetworkSettings())
    adam, muon = make_optimisers(network, TrainingSettings())
    sizes = [len(optimiser.param_groups[0]["params"]) for optimiser in (adam, muon)]
    assert all(sizes)
    held = [id(weight) for optimiser in (adam, muon) for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in network.parameters())
    assert all(weight.ndim == 2 and min(weight.shape) >= SMALLEST_MATRIX for weight in muon.param_groups[0]["params"])
    assert id(network.element.weight) not in {id(weight) for weight in muon.param_groups[0]["params"]}


def test_learned_vectors_of_elements_are_dropped_in_training_only():
    rows, source = Rows.from_batch(batch()), torch.zeros(4, dtype=torch.int64)
    network = Network(SMALL.model_copy(update={"dropout": 0.0, "element_dropout": 0.5}))
    with torch.no_grad():
        assert torch.equal(network.eval()(Inputs.of(rows), source).energy, network(Inputs.of(rows), source).energy)
        network.train()
        drawn = torch.stack([network.tables()[0] for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    own = network.element_properties(network.properties)
    whole = ((drawn - own) == 0).all(2)  # an element loses its whole vector or nothing of it
    assert whole.float().mean() == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(drawn.mean(0), network.eval().tables()[0], atol=0.06, rtol=0)


def test_training_fits_a_few_rows_twice_alike_and_leaves_the_global_generator_alone():
    rows = Rows.from_batch(batch())
    targets = torch.tensor([[-3.0, 4.4], [0.0, 0.6], [-3.4, 1.9], [float("nan"), 3.5]])
    zeros = torch.zeros(4, 2)
    table = Table(rows, targets, zeros, torch.zeros(4).long(), zeros.long(), (), {})
    scaled = rows.lattice_parameters[:1].repeat(3, 1) * torch.tensor([1.0, 0.9, 1.15])[:, None] ** torch.tensor([1, 1, 1, 0, 0, 0])
    wrong = Deformations(rows[:1], torch.zeros(3).long(), scaled, torch.tensor([0.0, 0.8, 0.4]), np.array([3]), np.array([True]))
    settings = TrainingSettings(
        network=SMALL.model_copy(update={"dropout": 0.0}), epochs=150, batch_size=4, hide_source=0.0, learning_rate=1e-2, average=0.9
    )
    before = torch.random.get_rng_state()
    made = [train_network(table, wrong, settings, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state())
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(one, other)
    found = outputs(made[0], rows)
    known = ~targets[:, 0].isnan()
    assert ((found.energy + found.strain).mean(0) - targets[:, 0])[known].abs().max() < 0.25
    assert (found.gap.mean(0) - targets[:, 1]).abs().max() < 0.4
    strain = outputs(made[0], wrong.deformed()).strain.mean(0)
    assert strain[0] < 0.15
    assert strain[1] > 0.3
    assert strain[2] > 0.1


def test_only_a_share_of_the_volumes_gradient_reaches_the_trunk(network):
    rows = Rows.from_batch(batch())
    unlabelled = torch.full((len(rows), 2), torch.nan)
    zeros, source = torch.zeros(len(rows), 2), torch.zeros(len(rows), dtype=torch.int64)
    table = Table(rows, unlabelled, zeros, source, zeros.long(), ())
    gradients = {}
    for share in (0.0, 0.2, 1.0):
        network.zero_grad()
        settings = TrainingSettings(network=SMALL, cell_share=share)
        _step_loss(network, table, None, settings, torch.Generator().manual_seed(0))[0].backward()
        gradients[share] = network.hidden.weight.grad.clone(), network.strain.expected.grad.clone()
    (none, full), (some, same), (whole, also) = gradients.values()
    assert not none.any()
    assert whole.any()
    torch.testing.assert_close(some, 0.2 * whole)
    assert full.any()
    torch.testing.assert_close(full, same)
    torch.testing.assert_close(full, also)
