import pytest
import torch

from surrogates.posterior import joint_posterior
from tests.surrogates.helpers import batch, small_ensemble


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


def test_the_ensembles_joint_posterior_has_the_same_marginals():
    made = small_ensemble()
    alone, together = made.posterior(batch()), made.posterior(batch(), joint=True)
    assert together.mean.shape == (4, 2)
    torch.testing.assert_close(together.mean, alone.mean[:, 0])
    torch.testing.assert_close(together.variance, alone.variance[:, 0])
    samples = together.rsample(torch.Size([4000]))
    assert samples.shape == (4000, 4, 2)
    torch.testing.assert_close(samples.std(0), together.variance.sqrt(), rtol=0.1, atol=1e-4)


def test_an_acquisition_function_takes_it():
    from botorch.sampling import SobolQMCNormalSampler

    posterior = small_ensemble().posterior(batch(), joint=True)
    values = SobolQMCNormalSampler(torch.Size([64]), seed=0)(posterior)
    assert values.shape == (64, 4, 2)
