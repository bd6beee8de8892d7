import pytest
import torch

from surrogates.calibration import FLOOR, NINETY, Calibration, Errors, Evidence, PropertyCalibration, fit, fit_property, reach, strain_error
from surrogates.network import Output


def errors(error, scale, spread=None, distance=None) -> Errors:
    zeros = torch.zeros(len(error))
    return Errors(error, scale, zeros if spread is None else spread, zeros if distance is None else distance)


def covered(calibration: PropertyCalibration, found: Errors) -> float:
    deviation = calibration.variance(*found[1:]).sqrt()
    return float(((found.error + calibration.lean * deviation).abs() <= NINETY * deviation).float().mean())


def test_coverage_is_what_it_promises_on_rows_it_did_not_see():
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(40_000, generator=generator) * 0.2 + 0.02
    spread = torch.rand(40_000, generator=generator) * 0.05
    distance = torch.rand(40_000, generator=generator)
    error = torch.randn(40_000, generator=generator) * (1.7 * scale) * (1 + 0.8 * distance)
    everything = errors(error, scale, spread, distance)
    found = fit_property(Errors(*(part[:20_000] for part in everything)))
    assert covered(found, Errors(*(part[20_000:] for part in everything))) == pytest.approx(0.9, abs=0.01)
    assert found.far == pytest.approx(0.8, abs=0.25)
    assert found.scale > 0.7
    assert found.spread < 0.1


def test_the_power_goes_to_what_the_errors_follow():
    generator = torch.Generator().manual_seed(1)
    scale, spread = torch.rand(2, 20_000, generator=generator) * 0.2 + 0.02
    found = fit_property(errors(torch.randn(20_000, generator=generator) * (spread + FLOOR), scale, spread), coverage=0.93)
    assert found.spread == pytest.approx(1, abs=0.1)
    assert found.scale < 0.1
    generator.manual_seed(2)
    again = errors(torch.randn(20_000, generator=generator) * (spread + FLOOR), scale, spread)
    assert covered(found, again) == pytest.approx(0.93, abs=0.01)


def test_lopsided_errors_leave_as_many_labels_above_the_interval_as_below():
    generator = torch.Generator().manual_seed(2)
    n, half = 40_000, 20_000
    scale = torch.rand(n, generator=generator) * 0.2 + 0.02
    above = -scale * torch.empty(n).exponential_(0.5, generator=generator)  # labels far above the prediction
    error = torch.where(torch.rand(n, generator=generator) < 0.3, above, scale * torch.randn(n, generator=generator) * 0.5)
    found = fit_property(errors(error[:half], scale[:half]), lopsided=True)
    deviation = found.variance(scale, torch.zeros(n), torch.zeros(n)).sqrt()[half:]
    score = (error[half:] + found.lean * deviation) / deviation
    assert found.lean > 0.2
    assert (score < -NINETY).float().mean() == pytest.approx(0.05, abs=0.006)
    assert (score > NINETY).float().mean() == pytest.approx(0.05, abs=0.006)


def test_reach_is_the_factor_that_brings_a_label_to_the_end_of_its_interval():
    generator = torch.Generator().manual_seed(3)
    found = errors(torch.randn(1000, generator=generator), torch.rand(1000, generator=generator) + 0.1)
    calibration = PropertyCalibration(lean=0.4)
    reached = reach(calibration, found)
    for share in (0.5, 0.9):
        factor = calibration.factor * float(reached.quantile(share))
        assert covered(calibration.model_copy(update={"factor": factor}), found) == pytest.approx(share, abs=0.002)


def evidence(n: int, size: float, seed: int, spread: float = 0.05) -> Evidence:
    """Two members; errors of energies follow their disagreement times ``size``, a fifth is far too low; gaps of non-metals 0.5 eV."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.where(torch.rand(n, generator=generator) < 0.6, 0.0, 4 + torch.rand(n, generator=generator))
    gap = target + torch.where(target > 0, torch.randn(n, generator=generator) * 0.5 * size, torch.zeros(n))
    disagreement = spread * (torch.rand(n, generator=generator) + 0.1)
    error = torch.randn(n, generator=generator) * disagreement * size
    error = torch.where(torch.rand(n, generator=generator) < 0.2, -2 * error.abs(), error)
    energy = torch.stack([error + disagreement, error - disagreement])
    zeros = torch.zeros(2, n)
    output = Output(energy, torch.stack([gap, gap]), zeros - 2, zeros - 1, zeros, zeros, zeros)
    return Evidence(output, torch.zeros(n), torch.stack([torch.zeros(n), target], dim=1))


def test_the_interval_is_as_wide_for_the_ensemble_as_the_scouts_need_it_for_inventions():
    inventions, known = evidence(40_000, 1.5, seed=0), evidence(40_000, 1.0, seed=1)
    own = evidence(40_000, 0.6, seed=2)  # a better ensemble than the scouts
    found, inside = fit(inventions, known, own)
    scouts, _ = fit(inventions, known, known)
    for column, name in enumerate(("energy", "gap")):
        assert covered(getattr(scouts, name), inventions.columns()[column]) == pytest.approx(0.9, abs=0.005)
        share = covered(getattr(scouts, name), known.columns()[column])
        assert 0.93 < share < 1
        assert inside[name] == pytest.approx(share, abs=1e-3)
        assert covered(getattr(found, name), own.columns()[column]) == pytest.approx(share, abs=0.005)
        assert covered(getattr(found, name), evidence(40_000, 0.9, seed=3).columns()[column]) == pytest.approx(0.9, abs=0.02)
    assert found.energy.lean == scouts.energy.lean > 0.2
    assert found.energy.spread > 0.8
    assert found.gap.lean == 0


def test_gaps_are_calibrated_on_non_metals_and_rows_without_a_label_do_not_count():
    rows = evidence(10_000, 1.0, seed=0)
    rows.targets[::2, 0] = torch.nan
    energy, gap = rows.columns()
    assert len(energy.error) == 5_000
    assert len(gap.error) == int((rows.targets[:, 1] > 0).sum())
    found, _ = fit(rows, rows, rows)
    deviation = found(rows.output, rows.distance)[0][:, 1]
    inside = (rows.output.gap.clamp(min=0).mean(0) - rows.targets[:, 1]).abs() <= NINETY * deviation
    assert inside[rows.targets[:, 1] > 0].float().mean() == pytest.approx(0.9, abs=0.01)


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


def test_the_error_of_a_strain_covers_nine_in_ten_of_those_that_matter():
    generator = torch.Generator().manual_seed(0)
    strain = torch.rand(20_000, generator=generator)
    labels = strain * (1 + 0.3 * torch.randn(20_000, generator=generator))
    labels[strain < 0.1] = 9.0  # small ones do not count
    assert strain_error(strain, labels) == pytest.approx(0.3, abs=0.01)
