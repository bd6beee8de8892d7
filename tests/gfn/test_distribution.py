"""Trained by Trajectory Balance, the sampler draws crystals in proportion to their reward: against the truth, by enumeration."""

import numpy as np
import pytest
import torch

from al_crystal.crystal import CrystalBatch
from gfn.constraints import Space
from gfn.environment import CrystalEnvironment
from gfn.settings import SamplerSettings
from gfn.trainer import Trainer

from .test_look_ahead import valid

SPACE = Space(elements=["Li", "Mg", "O", "F"], space_groups=[2, 62, 166, 221, 225], number_of_elements=(2, 3), atoms_per_element=(1, 4))


def log_reward(batch: CrystalBatch) -> torch.Tensor:
    """Rugged over groups and compositions, the same for every cell, so that the volume of the unit cube is one and Z is a finite sum."""
    weights = torch.tensor([0.7, -0.4, 1.1, 0.5], dtype=torch.float64)
    return torch.sin(0.9 * batch.space_group.double()) + 1.5 * torch.cos(batch.counts.double() @ weights)


@pytest.mark.slow
def test_the_trained_distribution_is_the_reward_over_z():
    environment = CrystalEnvironment(SPACE)
    iterations = 1000
    settings = SamplerSettings(hidden_units=128, batch_size=200, learning_rate=5e-3, iterations=iterations, schedule="cosine")
    trainer = Trainer(environment, settings, seed=0)
    trainer.train(log_reward, iterations)

    everything = sorted(valid(SPACE))  # by SMACT's and PyXtal's rules, not by the masks
    groups, counts = np.array([group for group, _ in everything]), np.array([row for _, row in everything])
    cells = environment.batch(groups, counts, np.where(environment.lattice.free[0], 0.5, 0.0) * np.ones((len(groups), 1)))
    truth = torch.softmax(log_reward(cells), 0)
    sampler = trainer.sampler()
    probability = sampler.log_probability_of_composition(cells).double().exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert (probability - truth).abs().sum().item() / 2 <= 0.03
    assert trainer.policy.log_z.item() == pytest.approx(torch.logsumexp(log_reward(cells), 0).item(), abs=0.05)

    n = 20_000
    drawn = sampler.sample(n, torch.Generator().manual_seed(1))
    index = {(int(group), tuple(row)): place for place, (group, row) in enumerate(zip(groups, counts.tolist(), strict=True))}
    places = [index[group, tuple(row)] for group, row in zip(drawn.space_group.tolist(), drawn.counts.tolist(), strict=True)]
    frequency = torch.bincount(torch.tensor(places), minlength=len(everything)).double() / n
    noise = float((truth * (1 - truth) / n).sqrt().sum() * np.sqrt(2 / np.pi) / 2)  # expected total variation of exact draws
    assert (frequency - truth).abs().sum().item() / 2 <= 0.03 + noise
