import torch

from tests.surrogates.helpers import batch, small_ensemble


def test_marginals_are_the_calibrated_ones():
    made = small_ensemble()
    found = made.predict(batch())
    posterior = made.posterior(batch())
    assert posterior.mean.shape == (4, 1, 2)
    torch.testing.assert_close(posterior.mean[:, 0].float(), found.mean)
    torch.testing.assert_close(posterior.variance[:, 0].sqrt().float(), found.standard_deviation, rtol=1e-4, atol=1e-5)


def test_samples_have_the_stated_moments():
    posterior = small_ensemble().posterior(batch())
    samples = posterior.rsample(torch.Size([4000]))
    assert samples.shape == (4000, 4, 1, 2)
    torch.testing.assert_close(samples.std(0), posterior.variance.sqrt(), rtol=0.1, atol=1e-4)
    centred = (samples - samples.mean(0))[:, :, 0] / posterior.variance[:, 0].sqrt()
    assert (centred[..., 0] * centred[..., 1]).mean(0).abs().max() < 0.08  # the properties are independent


def test_an_acquisition_function_takes_it():
    from botorch.sampling import SobolQMCNormalSampler

    values = SobolQMCNormalSampler(torch.Size([64]), seed=0)(small_ensemble().posterior(batch()))
    assert values.shape == (64, 4, 1, 2)
