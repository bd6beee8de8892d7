import pytest
import torch

from surrogates.acquisition_model import CrystalModel, joint_posterior
from tests.surrogates.helpers import CRYSTALS, batch, small_ensemble


def test_encoding_round_trips():
    crystals = batch()
    model = CrystalModel(small_ensemble(), crystals.elements)
    assert model.decode(model.encode(crystals)).to_crystals() == CRYSTALS


def test_marginals_are_the_calibrated_ones():
    made = small_ensemble()
    found = made.predict(batch())
    posterior = made.posterior(batch())
    assert posterior.mean.shape == (4, 1, 2)
    torch.testing.assert_close(posterior.mean[:, 0].float(), found.mean)
    torch.testing.assert_close(posterior.variance[:, 0].sqrt().float(), found.standard_deviation, rtol=1e-4, atol=1e-5)


def test_joint_posterior_keeps_marginals_and_the_members_correlation():
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(8, 1, 1, generator=generator).expand(8, 3, 1) * torch.tensor([1.0, 1.0, -1.0])[:, None]
    deviation = torch.tensor([[1.0], [2.0], [3.0]]) * members[:, 0, 0].std()
    posterior = joint_posterior(members, members.mean(0), deviation)
    torch.testing.assert_close(posterior.variance[:, 0].sqrt().float(), deviation[:, 0], rtol=1e-3, atol=1e-4)
    covariance = posterior.distribution.covariance_matrix
    assert covariance[0, 1] > 0 > covariance[0, 2]
    assert covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("q", [1, 3])
def test_discrete_optimisation_picks_the_best(q):
    from botorch.acquisition import qUpperConfidenceBound
    from botorch.acquisition.objective import ScalarizedPosteriorTransform
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling import SobolQMCNormalSampler

    crystals = batch()
    model = CrystalModel(small_ensemble(), crystals.elements)
    lower_energy = ScalarizedPosteriorTransform(torch.tensor([-1.0, 0.0], dtype=torch.float64))
    sampler = SobolQMCNormalSampler(torch.Size([256]), seed=0)
    acquisition = qUpperConfidenceBound(model, beta=0.01, sampler=sampler, posterior_transform=lower_energy)
    choices = model.encode(crystals)
    picked, _ = optimize_acqf_discrete(acquisition, q=q, choices=choices, unique=True)
    assert len({crystal.id for crystal in model.decode(picked)}) == q
    best = int(model.ensemble.predict(crystals).mean[:, 0].argmin())
    assert torch.equal(picked[0], choices[best])


def test_observation_noise_is_refused():
    crystals = batch()
    model = CrystalModel(small_ensemble(), crystals.elements)
    with pytest.raises(NotImplementedError, match="observation_noise=False"):
        model.posterior(model.encode(crystals), observation_noise=True)
