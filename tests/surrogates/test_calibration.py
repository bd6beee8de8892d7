import pytest
import torch

from surrogates.calibration import (
    CAUTION,
    FLOOR,
    KNOWN,
    NINETY,
    Calibration,
    Consensus,
    Errors,
    Evidence,
    covered,
    fit,
    powers,
    sized,
    strain_error,
)
from surrogates.network import Output, mean_strain


def errors(error, scale, spread=None, distance=None, noise=None) -> Errors:
    zeros = torch.zeros(len(error))
    return Errors(error, scale, *(zeros if part is None else part for part in (spread, distance, noise)))


def part(found: Errors, where: slice) -> Errors:
    return Errors(*(values[where] for values in found))


def test_coverage_is_what_it_promises_on_rows_it_did_not_see():
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(40_000, generator=generator) * 0.2 + 0.02
    spread = torch.rand(40_000, generator=generator) * 0.05
    distance = torch.rand(40_000, generator=generator)
    error = torch.randn(40_000, generator=generator) * (1.7 * scale) * (1 + 0.8 * distance)
    everything = errors(error, scale, spread, distance)
    half = part(everything, slice(20_000))
    found = sized(powers(half), half)
    assert covered(found, part(everything, slice(20_000, None))) == pytest.approx(0.9, abs=0.01)
    assert found.far == pytest.approx(0.8, abs=0.25)
    assert found.scale > 0.7
    assert found.spread < 0.1


def test_the_power_goes_to_what_the_errors_follow_beside_the_noise_of_the_labels():
    generator = torch.Generator().manual_seed(1)
    scale, spread, noise = torch.rand(3, 20_000, generator=generator) * 0.2 + 0.02
    error = torch.randn(20_000, generator=generator) * (spread + FLOOR) + torch.randn(20_000, generator=generator) * noise
    found = powers(errors(error, scale, spread, noise=noise))
    assert found.spread == pytest.approx(1, abs=0.12)
    assert found.scale < 0.1
    own = errors(torch.randn(20_000, generator=generator) * (spread + FLOOR), scale, spread)
    wide = sized(found, own, 0.93)
    assert covered(wide, own) == pytest.approx(0.93, abs=0.001)
    assert wide.factor > sized(found, own, 0.9).factor
    again = torch.randn(20_000, generator=generator) * (spread + FLOOR) + torch.randn(20_000, generator=generator) * noise
    assert covered(sized(found, own, 0.9), errors(again, scale, spread, noise=noise)) == pytest.approx(0.9, abs=0.01)


def test_lopsided_errors_leave_as_many_labels_above_the_interval_as_below():
    generator = torch.Generator().manual_seed(2)
    n, half = 40_000, 20_000
    scale = torch.rand(n, generator=generator) * 0.2 + 0.02
    above = -scale * torch.empty(n).exponential_(0.5, generator=generator)  # labels far above the prediction
    error = torch.where(torch.rand(n, generator=generator) < 0.3, above, scale * torch.randn(n, generator=generator) * 0.5)
    learned = errors(error[:half], scale[:half])
    found = sized(powers(learned), learned, lopsided=True)
    deviation = found.variance(scale, torch.zeros(n), torch.zeros(n)).sqrt()[half:]
    score = (error[half:] + found.lean * deviation) / deviation
    assert found.lean > 0.2
    assert (score < -NINETY).float().mean() == pytest.approx(0.05, abs=0.006)
    assert (score > NINETY).float().mean() == pytest.approx(0.05, abs=0.006)


def evidence(n: int, seed: int, trust: float = 0.0, noise: float = 0.0) -> Evidence:
    """Energies err as the members disagree, a share ``trust`` of them by the learned scale; gaps of non-metals err by 0.5 eV."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.where(torch.rand(n, generator=generator) < 0.6, 0.0, 4 + torch.rand(n, generator=generator))
    gap = target + torch.where(target > 0, torch.randn(n, generator=generator) * 0.5, torch.zeros(n))
    disagreement, scale = torch.rand(2, n, generator=generator) * 0.1 + 0.005
    size = torch.where(torch.rand(n, generator=generator) < trust, scale, disagreement)
    error = torch.randn(n, generator=generator) * size + torch.randn(n, generator=generator) * noise
    zeros = torch.zeros(2, n)
    log_scale = scale.log().expand(2, n)
    energy = torch.stack([error + disagreement, error - disagreement]) - CAUTION * scale.square()
    output = Output(energy, torch.stack([gap, gap]), log_scale, zeros - 1, zeros, zeros, zeros)
    noises = torch.stack([torch.full((n,), noise), torch.zeros(n)], dim=1)
    return Evidence(output, torch.zeros(n), torch.stack([torch.zeros(n), target], dim=1), noises)


def test_inventions_say_what_to_trust_and_known_compounds_how_far():
    known, inventions = evidence(20_000, seed=0, trust=0.9), evidence(20_000, seed=1, noise=0.05)
    found = fit(known, inventions)
    assert found.energy.spread > 0.8
    assert found.energy.scale < 0.1
    assert fit(known, known).energy.scale > 0.3
    energy, gap = known.columns()
    assert covered(found.energy, energy) == pytest.approx(KNOWN, abs=0.002)
    assert covered(found.gap, gap) == pytest.approx(0.9, abs=0.002)
    assert abs(found.energy.lean) < 0.05


def test_gaps_are_calibrated_on_non_metals_and_rows_without_a_label_do_not_count():
    rows = evidence(10_000, seed=0)
    rows.targets[::2, 0] = torch.nan
    energy, gap = rows.columns()
    assert len(energy.error) == 5_000
    assert len(gap.error) == int((rows.targets[:, 1] > 0).sum())
    deviation = fit(rows, rows)(Consensus.of(rows.output), rows.distance)[0][:, 1]
    inside = (rows.output.gap.clamp(min=0).mean(0) - rows.targets[:, 1]).abs() <= NINETY * deviation
    assert inside[rows.targets[:, 1] > 0].float().mean() == pytest.approx(0.9, abs=0.01)


def test_a_guess_is_cautious_where_the_learned_scale_is_large():
    zeros = torch.zeros(2, 4)
    output = Output(zeros - 1, zeros - 0.1, torch.tensor([0.01, 0.5, 1.0, 9.0]).log().expand(2, 4), zeros, zeros, zeros + 0.3, zeros)
    energy, gap = Consensus.of(output).guess.T
    torch.testing.assert_close(energy, -0.7 + CAUTION * torch.tensor([0.0001, 0.25, 1.0, 1.0]))
    assert not gap.any()


def test_members_agree_on_averages_and_differ_by_their_spread():
    energy, gap, scale_energy, scale_gap, logit, strain, volume = torch.randn(7, 5, 30, generator=torch.Generator().manual_seed(0))
    output = Output(energy, gap, 9 * scale_energy, scale_gap, logit, strain.square(), volume)
    said = Consensus.of(output)
    scales = torch.stack([scale.clamp(-7, 3).mean(0) for scale in (output.log_scale_energy, scale_gap)], dim=1).exp()
    torch.testing.assert_close(said.scale, scales)
    torch.testing.assert_close(said.spread, torch.stack([(energy + output.strain).std(0), gap.std(0)], dim=1))
    torch.testing.assert_close(said.strain, mean_strain(output.strain))
    cautious = energy.mean(0) + CAUTION * scales[:, 0].clamp(max=1).square() + said.strain
    torch.testing.assert_close(said.guess, torch.stack([cautious, gap.clamp(min=0).mean(0)], dim=1))


def test_spread_grows_with_strain_distance_and_inflation():
    zeros = torch.zeros(2, 3)
    calm = Output(zeros, zeros, zeros - 2, zeros - 1, zeros, zeros, zeros)
    strained = calm._replace(strain=torch.tensor([[0.0, 0.5, 2.0]] * 2))

    def deviation(calibration, output, distance):
        return calibration(Consensus.of(output), distance)[0]

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
    deviation, lift = leaning(Consensus.of(calm), torch.zeros(3))
    torch.testing.assert_close(lift[:, 0], 0.3 * deviation[:, 0])
    assert not lift[:, 1].any()
    torch.testing.assert_close(leaning(Consensus.of(strained), torch.zeros(3))[1], lift)


def test_the_error_of_a_strain_covers_nine_in_ten_of_those_that_matter():
    generator = torch.Generator().manual_seed(0)
    strain = torch.rand(20_000, generator=generator)
    labels = strain * (1 + 0.3 * torch.randn(20_000, generator=generator))
    labels[strain < 0.1] = 9.0  # small ones do not count
    assert strain_error(strain, labels) == pytest.approx(0.3, abs=0.01)
