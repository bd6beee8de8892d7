import pytest
import torch

from surrogates.calibration import NINETY, Calibration, fit, fit_property
from surrogates.network import Output


def test_coverage_is_what_it_promises_on_rows_it_did_not_see():
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(40_000, generator=generator) * 0.2 + 0.02
    spread = torch.rand(40_000, generator=generator) * 0.05
    distance = torch.rand(40_000, generator=generator)
    error = torch.randn(40_000, generator=generator) * (1.7 * scale) * (1 + 0.8 * distance)
    counted = torch.ones(40_000, dtype=torch.bool)
    half = slice(0, 20_000)
    found = fit_property(error[half], scale[half], spread[half], distance[half], counted[half])
    deviation = found.variance(scale, spread, distance).sqrt()[20_000:]
    assert ((error[20_000:].abs() <= NINETY * deviation).float().mean() - 0.9).abs() < 0.01
    assert found.far == pytest.approx(0.8, abs=0.25)


def test_a_fixed_ratio_of_powers_is_kept_and_covers_what_is_asked():
    generator = torch.Generator().manual_seed(1)
    scale, spread = torch.rand(2, 20_000, generator=generator) * 0.2 + 0.02
    error = torch.randn(20_000, generator=generator) * scale
    zeros, counted = torch.zeros(20_000), torch.ones(20_000, dtype=torch.bool)
    found = fit_property(error, scale, spread, zeros, counted, coverage=0.93, ratio=0.5)
    assert found.spread == pytest.approx(0.5 * found.scale, rel=1e-3)
    assert (error.abs() <= NINETY * found.variance(scale, spread, zeros).sqrt()).float().mean() == pytest.approx(0.93, abs=0.002)
    free = fit_property(error, scale, spread, zeros, counted)
    assert free.scale > 0.7
    assert free.spread < 0.1


def test_lopsided_errors_leave_as_many_labels_above_the_interval_as_below():
    generator = torch.Generator().manual_seed(2)
    n, half = 40_000, 20_000
    scale = torch.rand(n, generator=generator) * 0.2 + 0.02
    above = -scale * torch.empty(n).exponential_(0.5, generator=generator)  # labels far above the prediction
    error = torch.where(torch.rand(n, generator=generator) < 0.3, above, scale * torch.randn(n, generator=generator) * 0.5)
    zeros, counted = torch.zeros(n), torch.ones(half, dtype=torch.bool)
    found = fit_property(error[:half], scale[:half], zeros[:half], zeros[:half], counted, lopsided=True)
    deviation = found.variance(scale, zeros, zeros).sqrt()[half:]
    score = (error[half:] + found.lean * deviation) / deviation
    assert found.lean > 0.2
    assert (score < -NINETY).float().mean() == pytest.approx(0.05, abs=0.006)
    assert (score > NINETY).float().mean() == pytest.approx(0.05, abs=0.006)


def test_gaps_are_calibrated_on_non_metals():
    generator = torch.Generator().manual_seed(0)
    n = 10_000
    target = torch.where(torch.rand(n, generator=generator) < 0.6, 0.0, torch.rand(n, generator=generator) * 5)
    gap = target + torch.where(target > 0, torch.randn(n, generator=generator) * 0.5, torch.zeros(n))
    zeros = torch.zeros(2, n)
    output = Output(zeros, torch.stack([gap, gap]), zeros - 2, zeros - 1, zeros, zeros, zeros)
    found = fit(output, torch.zeros(n), torch.stack([torch.zeros(n), target], dim=1))
    deviation = found(output, torch.zeros(n))[0][:, 1]
    inside = (gap.clamp(min=0) - target).abs() <= NINETY * deviation
    assert inside[target > 0].float().mean() == pytest.approx(0.9, abs=0.01)


def test_spread_grows_with_strain_distance_and_inflation():
    zeros = torch.zeros(2, 3)
    calm = Output(zeros, zeros, zeros - 2, zeros - 1, zeros, zeros, zeros)
    strained = calm._replace(strain=torch.tensor([[0.0, 0.5, 2.0]] * 2))

    def deviation(calibration, output, distance):
        return calibration(output, distance)[0]

    base = Calibration()
    assert (deviation(base, strained, torch.zeros(3))[:, 0].diff() > 0).all()
    assert (deviation(base, calm, torch.tensor([0.0, 1.0, 5.0])).diff(dim=0) > 0).all()
    inflated = base.model_copy(update={"gap": base.gap.model_copy(update={"inflation": 2.0})})
    torch.testing.assert_close(deviation(inflated, calm, torch.zeros(3))[:, 1], 2 * deviation(base, calm, torch.zeros(3))[:, 1])


def test_a_belief_leans_by_its_own_deviation_and_not_by_the_strains():
    zeros = torch.zeros(2, 3)
    calm = Output(zeros, zeros, zeros - 2, zeros - 1, zeros, zeros, zeros)
    strained = calm._replace(strain=torch.tensor([[0.1, 0.5, 2.0]] * 2))
    leaning = Calibration(energy=Calibration().energy.model_copy(update={"lean": 0.3}))
    deviation, lift = leaning(calm, torch.zeros(3))
    torch.testing.assert_close(lift[:, 0], 0.3 * deviation[:, 0])
    assert not lift[:, 1].any()
    torch.testing.assert_close(leaning(strained, torch.zeros(3))[1], lift)
