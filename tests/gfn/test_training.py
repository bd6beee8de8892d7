"""Densities, training, checkpoints, restrictions and bad input."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from al_crystal.crystal import Crystal, CrystalBatch
from gfn.constraints import EmptySpace, Restriction, Space
from gfn.draws import draw_actions
from gfn.environment import CrystalEnvironment
from gfn.policy import log_mixture
from gfn.replay import ReplayBuffer
from gfn.sampler import Sampler
from gfn.settings import SamplerSettings
from gfn.trainer import Trainer
from gfn.trajectories import retrace, roll_out

SMALL = {"hidden_units": 32, "batch_size": 20}


@pytest.fixture(scope="module")
def environment():
    return CrystalEnvironment(Space(elements=["Li", "Fe", "O", "F"], space_groups=[1, 2, 14, 62, 166, 221, 225], atoms_per_element=(1, 6)))


def reward(batch: CrystalBatch) -> torch.Tensor:
    return -0.1 * batch.counts.sum(1).double()


def test_the_mixture_of_betas_agrees_with_torch():
    torch.manual_seed(0)
    raw, value = torch.randn(50, 5, 3), torch.rand(50).clamp(0.01, 0.99)
    shapes = 0.1 * 1000 ** torch.sigmoid(raw[..., :2])
    components = torch.distributions.Beta(shapes[..., 0], shapes[..., 1])
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=raw[..., 2]), components)
    torch.testing.assert_close(log_mixture(raw, value), mixture.log_prob(value), rtol=1e-4, atol=1e-4)


def test_retracing_a_path_gives_a_path_with_the_same_ends(environment):
    trainer, random = Trainer(environment, SamplerSettings(**SMALL), seed=1), np.random.default_rng(0)
    forward = roll_out(environment, trainer.policy, 200, random)
    back = retrace(environment, trainer.policy, forward.groups, forward.counts, forward.cube, random)
    np.testing.assert_allclose(back.cube, forward.cube, atol=1e-12)
    for path, length in zip(back.path, back.length, strict=True):
        raised = np.diff(path[:length], axis=0)
        moving = path[-1] > 0
        assert (raised[:, moving] >= 0.1 - 1e-9).all()


def test_probabilities_of_compositions_sum_to_one_and_match_the_frequencies():
    environment = CrystalEnvironment(
        Space(elements=["Li", "O"], space_groups=[2, 225], atoms_per_element=(1, 4), number_of_elements=(2, 2))
    )
    trainer = Trainer(environment, SamplerSettings(**SMALL), seed=3)
    batch = trainer.sampler().sample(4000, torch.Generator().manual_seed(0))
    probability = trainer.sampler().log_probability_of_composition(batch).exp()
    keys = [(group, *counts) for group, counts in zip(batch.space_group.tolist(), batch.counts.tolist(), strict=True)]
    expected = dict(zip(keys, probability.tolist(), strict=True))
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-4)
    for key, value in expected.items():
        assert keys.count(key) / 4000 == pytest.approx(value, abs=0.04)


def test_log_probability_integrates_to_the_probability_of_the_composition():
    """The density of a cubic crystal's one lattice coordinate, averaged over a grid, is p(group, composition)."""
    environment = CrystalEnvironment(Space(elements=["Li", "O"], space_groups=[225], atoms_per_element=(4, 8), number_of_elements=(2, 2)))
    trainer = Trainer(environment, SamplerSettings(**SMALL), seed=3)
    cube = np.zeros((200, 6))
    cube[:, 3] = (np.arange(200) + 0.5) / 200
    counts = np.tile([8, 4], (200, 1))
    batch = environment.batch(np.full(200, 225), counts, cube)
    density = trainer.sampler().log_probability(batch, torch.Generator().manual_seed(0), samples=64).exp().mean()
    expected = trainer.sampler().log_probability_of_composition(batch)[0].exp()
    assert float(density) == pytest.approx(float(expected), rel=0.05)


def test_training_goes_on_after_a_checkpoint_as_without_it(environment, tmp_path):
    settings = SamplerSettings(**SMALL, replay_size=5, replay_capacity=50, decay_every=3)
    trainer = Trainer(environment, settings, seed=4)
    trainer.train(reward, 4)
    trainer.save(tmp_path)
    resumed = Trainer.load(tmp_path, environment)
    assert trainer.train(reward, 3) == resumed.train(reward, 3)


def test_the_cosine_schedule_ends_where_it_says_and_survives_a_checkpoint(environment, tmp_path):
    settings = SamplerSettings(**SMALL, iterations=6, schedule="cosine")
    trainer = Trainer(environment, settings, seed=4)
    trainer.train(reward, 3)
    trainer.save(tmp_path)
    resumed = Trainer.load(tmp_path, environment)
    resumed.train(reward, 1)  # the fourth of six: half of the way
    assert resumed.optimiser.param_groups[0]["lr"] == pytest.approx(settings.learning_rate / 2)
    resumed.train(reward, 4)
    rates = [group["lr"] for group in resumed.optimiser.param_groups]
    assert 0 < rates[0] < 0.01 * settings.learning_rate
    assert 0 < rates[1] < 0.01 * settings.learning_rate_log_z


def test_compiled_draws_follow_the_weights_and_the_masks():
    random = np.random.default_rng(0)
    logits = np.tile(np.log([[1.0, 2.0, 5.0, 3.0]]), (40_000, 1)).astype(np.float32)
    allowed = np.tile(np.array([[1, 1, 0, 1]], dtype=np.uint8), (40_000, 1))
    uniform = np.arange(40_000) % 2 == 0
    drawn = draw_actions(logits, allowed, 2.0, random.random(40_000), uniform)
    weights = np.sqrt([1.0, 2.0, 0.0, 3.0])
    np.testing.assert_allclose(np.bincount(drawn[~uniform], minlength=4) / 20_000, weights / weights.sum(), atol=0.01)
    np.testing.assert_allclose(np.bincount(drawn[uniform], minlength=4) / 20_000, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.01)


def test_a_checkpoint_of_another_space_is_refused(environment, tmp_path):
    Trainer(environment, SamplerSettings(**SMALL), seed=4).save(tmp_path)
    with pytest.raises(ValueError, match=r"another space.*elements"):
        Trainer.load(tmp_path, CrystalEnvironment(Space(elements=["Li", "O"])))


def test_bad_rewards_are_counted_and_floored(environment):
    trainer = Trainer(environment, SamplerSettings(**SMALL), seed=4)

    def bad(batch: CrystalBatch) -> torch.Tensor:
        values = reward(batch)
        values[:3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
        return values

    record = trainer.train(bad, 1)[0]
    assert record["bad_rewards"] == 2  # a reward of zero is a legitimate one, and floored
    assert np.isfinite(record["loss"])


def test_training_learns_the_reward(environment):
    trainer = Trainer(environment, SamplerSettings(hidden_units=64, batch_size=50, learning_rate=5e-3), seed=4)
    history = trainer.train(reward, 120)
    assert np.mean([r["loss"] for r in history[-10:]]) < 0.25 * np.mean([r["loss"] for r in history[:10]])


def test_known_crystals_outside_the_space_are_counted(environment):
    trainer = Trainer(environment, SamplerSettings(**SMALL, dataset_size=4), seed=4)
    inside = Crystal(space_group=225, composition={"Li": 4, "F": 4}, lattice_parameters=(4.0, 4.0, 4.0, 90, 90, 90))
    outside = inside.model_copy(update={"space_group": 230})
    assert trainer.use_dataset(CrystalBatch.from_crystals([inside, outside])) == 1
    assert trainer.skipped == {"space_groups": 1}
    assert np.isfinite(trainer.train(reward, 1)[0]["loss"])


def test_a_known_crystal_shows_a_reward_that_sampling_has_not_found(environment):
    known = CrystalBatch.from_crystals(
        [Crystal(space_group=225, composition={"Li": 4, "F": 4}, lattice_parameters=(4.0, 4.0, 4.0, 90, 90, 90))]
    )

    def needle(batch: CrystalBatch) -> torch.Tensor:
        here = batch.counts == torch.tensor([4, 0, 4, 0])  # of Li, O, F and Fe
        found = (batch.space_group == 225) & here.all(1)
        return torch.where(found, 6.0, 0.0)

    found = []
    for size in (0, 10):
        trainer = Trainer(environment, SamplerSettings(**SMALL, dataset_size=size, exploration=0.0), seed=4)
        trainer.use_dataset(known)
        trainer.train(needle, 60)
        found.append(trainer.sampler().log_probability_of_composition(known).item())
    assert found[1] > found[0] + 1


RESTRICTIONS = {
    "A": {"elements": ["Fe", "O"], "atoms_per_element": (1, 10)},
    "B": {"elements": ["Li", "Mn", "O"], "required_elements": ["Li", "Mn", "O"]},
    "C": {"space_groups": ["cubic"]},
    "D": {"lattice": {"lengths": (10.0, 20.0), "angles": (75.0, 135.0)}},
    "volume per atom": {"lattice": {"volume_per_atom": (10.0, 14.0)}},
}


@pytest.mark.parametrize("name", RESTRICTIONS)
def test_restricted_sampling_never_violates(name):
    environment = CrystalEnvironment(Space())
    trainer = Trainer(environment, SamplerSettings(**SMALL), seed=4)
    restriction = Restriction(**RESTRICTIONS[name])
    crystals = trainer.sampler().sample(200, torch.Generator().manual_seed(0), restriction).to_crystals()
    narrowed = environment.restricted(restriction)
    assert [narrowed.contains(crystal) for crystal in crystals] == [[]] * 200
    assert [environment.contains(crystal) for crystal in crystals] == [[]] * 200


def test_a_restriction_that_leaves_nothing_says_why(environment):
    sampler = Sampler.uniform(environment)
    with pytest.raises(EmptySpace, match="none of the restriction's"):
        sampler.sample(1, torch.Generator(), Restriction(elements=["Cs"]))
    with pytest.raises(EmptySpace, match="charge_neutrality"):
        sampler.sample(1, torch.Generator(), Restriction(elements=["Li", "Fe"], number_of_elements=(2, 2)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elements": ["Xx"]}, "not chemical elements"),
        ({"space_groups": [231]}, "not a space group"),
        ({"atoms": (5, 2)}, "fewest <= most"),
        ({"charge_neutrality": None}, "electronegativity"),
        ({"colour": 1}, "Extra inputs"),
        ({"lattice": {"volume_per_atom": (9.0, 8.0)}}, "smallest < largest"),
        ({"lattice": {"decoding": "absolute", "volume_per_atom": (9.0, 12.0)}}, "volumetric decoding"),
    ],
)
def test_settings_refuse_nonsense(fields, message):
    with pytest.raises(ValidationError, match=message):
        Space(**fields)


def test_exploration_feeds_rare_groups_and_leaves_the_rest_to_the_policy(environment):
    """A policy that would stay in one group is given the others too, in even shares; without exploration it stays."""
    trainer = Trainer(environment, SamplerSettings(**SMALL), seed=4)
    with torch.no_grad():
        trainer.policy.symmetry_head.bias[-230 + 225 - 1] = 30.0
    random = np.random.default_rng(0)
    assert set(roll_out(environment, trainer.policy, 500, random).groups.tolist()) == {225}
    groups = roll_out(environment, trainer.policy, 7000, random, exploration=0.5).groups
    number = np.array([(groups == group).sum() for group in environment.space_group.groups])
    assert number[:-1] == pytest.approx(500, abs=100)  # half of 7,000 over seven groups; 100 is 4.7 standard deviations
    assert number[-1] == pytest.approx(4000, abs=200)


def test_the_replay_buffer_keeps_the_better_of_two_alike_and_the_best_of_all():
    buffer = ReplayBuffer(capacity=3, distance=0.1, elements=2)
    groups, counts = np.array([225, 225, 225, 2]), np.array([[4, 4], [4, 4], [8, 4], [4, 4]])
    cube = np.zeros((4, 6))
    cube[:, 3] = [0.50, 0.55, 0.50, 0.50]  # the first two are one crystal by the diversity rule; the others differ in counts or group
    buffer.add(groups, counts, cube, np.array([1.0, 2.0, 0.5, 0.7]))
    assert sorted(buffer.log_reward) == [0.5, 0.7, 2.0]
    buffer.add(groups[:1], counts[:1], cube[:1] + 0.3, np.array([0.6]))  # far enough from the others: it replaces the worst
    assert sorted(buffer.log_reward) == [0.6, 0.7, 2.0]
    buffer.add(groups[:1], counts[:1], cube[1:2], np.array([1.5]))  # alike and worse: passed over
    assert sorted(buffer.log_reward) == [0.6, 0.7, 2.0]
    drawn = buffer.draw(20_000, np.random.default_rng(0))
    reward = np.exp(buffer.log_reward)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, reward / reward.sum(), atol=0.02)


def test_finetuning_inside_a_restriction_learns_there_and_leaves_the_trained_policy_alone(environment):
    trainer = Trainer(environment, SamplerSettings(**SMALL, learning_rate=5e-3), seed=4)
    before = {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}
    inside = trainer.inside(Restriction(elements=["Fe", "O"], space_groups=[166, 225]))
    history = inside.train(reward, 60)
    assert np.mean([row["loss"] for row in history[-10:]]) < 0.5 * np.mean([row["loss"] for row in history[:10]])
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.policy.state_dict().items())
    drawn = inside.sampler().sample(50, torch.Generator().manual_seed(0))
    assert set(drawn.space_group.tolist()) <= {166, 225}
    assert all(set(crystal.composition) <= {"Fe", "O"} for crystal in drawn)
