import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from al_crystal.crystal import Crystal, CrystalBatch
from surrogates.calibration import CAUTION
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.inputs import Inputs
from tests.surrogates.helpers import CRYSTALS, ROCK_SALT, batch, small_ensemble


@pytest.fixture(scope="module")
def shipped():
    return Ensemble.pretrained()


def test_shapes_and_meaning(shipped):
    found = shipped.predict(batch())
    n, k = len(CRYSTALS), len(shipped.properties)
    assert found.members.shape == (shipped.members, n, k)
    assert shipped.members >= 8
    torch.testing.assert_close(found.median[:, 1], found.members[:, :, 1].mean(0))
    rows = Rows.from_batch(batch())
    without = shipped.predict_rows(replace(rows, lattice_parameters=torch.full_like(rows.lattice_parameters, torch.nan)))
    scales = [network(Inputs.of(rows), torch.zeros(n, dtype=torch.int64)).log_scale_energy for network in shipped.networks]
    caution = CAUTION * torch.cat(scales).mean(0).exp().clamp(max=1).square()
    torch.testing.assert_close(without.median, without.members.mean(0) + torch.stack([caution, torch.zeros(n)], dim=1))
    torch.testing.assert_close(found.median[:, 0], without.median[:, 0] + found.strain)
    lean = shipped.calibration.energy.lean
    torch.testing.assert_close(without.mean[:, 0], without.median[:, 0] + lean * without.standard_deviation[:, 0])
    torch.testing.assert_close(found.mean[:, 1], found.median[:, 1])
    assert found.standard_deviation.shape == (n, k)
    assert (found.standard_deviation > 0).all()
    assert found.distance.shape == (n,)
    assert [prediction.mean["band_gap"] for prediction in found.to_list()] == found.mean[:, 1].tolist()


def test_shipped_ensemble_knows_its_chemistry(shipped):
    found = shipped.predict(batch())
    energy, gap = found.mean.unbind(1)
    assert -3.3 < energy[0] < -2.4, "MgO: -3.0 eV/atom in the Materials Project"
    assert 3 < gap[0] < 6, "MgO: 4.4 eV in PBE"
    assert energy[2] < -2.8, "CaTiO3"


def test_silicon_is_its_own_reference(shipped):
    assert abs(shipped.predict(batch()).mean[1, 0]) < 0.2, "silicon is an element: zero by definition"


@pytest.mark.parametrize(
    ("symbol", "count", "group", "cell"),
    [
        ("Cu", 4, 225, (3.61, 3.61, 3.61, 90.0, 90.0, 90.0)),
        ("Al", 4, 225, (4.05, 4.05, 4.05, 90.0, 90.0, 90.0)),
        ("Mg", 2, 194, (3.2, 3.2, 5.2, 90.0, 90.0, 120.0)),
        ("Ti", 2, 194, (2.95, 2.95, 4.68, 90.0, 90.0, 120.0)),
    ],
)
def test_metals_are_their_own_reference(shipped, symbol, count, group, cell):
    found = shipped.predict(batch([Crystal(space_group=group, composition={symbol: count}, lattice_parameters=cell)]))
    assert abs(found.mean[0, 0]) < 0.1, "zero by definition"
    assert found.mean[0, 1] < 0.1, "a metal"


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.4, 2.0])
def test_shipped_ensemble_punishes_wrong_volumes(shipped, factor):
    lengths = tuple(length * factor ** (1 / 3) for length in ROCK_SALT.lattice_parameters[:3])
    wrong = ROCK_SALT.model_copy(update={"lattice_parameters": (*lengths, 90.0, 90.0, 90.0)})
    right, other = shipped.predict(batch([ROCK_SALT, wrong])).mean[:, 0]
    assert other > right + 0.05


def test_unknown_elements_are_named_and_far(shipped):
    strange = Crystal(space_group=225, composition={"Mg": 4, "Fr": 4}, lattice_parameters=(5, 5, 5, 90, 90, 90))
    unseen = next(symbol for symbol in ("Fr", "Po", "At", "Ra", "Am") if not shipped.distance.seen[_number(symbol)])
    strange = strange.model_copy(update={"composition": {"Mg": 4, unseen: 4}})
    mixed = batch([ROCK_SALT, strange])
    assert shipped.unknown_elements(mixed) == (unseen,)
    near, far = shipped.predict(mixed).distance
    assert far >= 10 > near


def _number(symbol):
    from al_crystal.crystal import ATOMIC_NUMBER

    return ATOMIC_NUMBER[symbol]


def test_distance_grows_with_the_volume(shipped):
    cells = [(*tuple([4.21 * factor] * 3), 90.0, 90.0, 90.0) for factor in (1.0, 1.6, 2.5, 4.0)]
    found = shipped.predict(batch([ROCK_SALT.model_copy(update={"lattice_parameters": cell}) for cell in cells])).distance
    assert (found.diff() >= 0).all()
    assert found[-1] > found[0] + 1


def test_save_and_load_give_the_same_numbers(tmp_path):
    made = small_ensemble()
    made.save(tmp_path / "one")
    first = Ensemble.load(tmp_path / "one")
    first.save(tmp_path / "two")
    second = Ensemble.load(tmp_path / "two")
    expected = made.predict(batch()).mean
    torch.testing.assert_close(first.predict(batch()).mean, expected, atol=5e-3, rtol=5e-3)
    assert torch.equal(first.predict(batch()).mean, second.predict(batch()).mean)
    assert not list(tmp_path.rglob("*.pt"))


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ensemble\.json is missing"):
        Ensemble.load(tmp_path)
    small_ensemble().save(tmp_path)
    facts = json.loads((tmp_path / "ensemble.json").read_text())
    facts["networks"][0]["width"] = 32
    (tmp_path / "ensemble.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="does not fit"):
        Ensemble.load(tmp_path)


def test_levels_of_theory_that_never_trained_are_refused():
    with pytest.raises(ValueError, match="'HSE' never trained this ensemble; it knows PBE"):
        small_ensemble().predict(batch(), "HSE")


def test_chunks_do_not_matter():
    made = small_ensemble()
    many = CrystalBatch.from_crystals(CRYSTALS * 300)
    found = made.predict(many)
    torch.testing.assert_close(found.mean[-4:], made.predict(batch()).mean, atol=1e-5, rtol=1e-4)
    assert len(found) == 1200
    assert len(made.predict_rows(Rows.from_batch(many))) == 1200


def test_empty_batches_are_empty(shipped):
    found = shipped.predict(batch()[torch.zeros(0, dtype=torch.int64)])
    assert found.mean.shape == (0, 2)
    assert found.members.shape == (shipped.members, 0, 2)


def test_weights_are_small():
    from surrogates.ensemble import PRETRAINED

    sizes = {file.name: file.stat().st_size for file in PRETRAINED.iterdir()}
    assert sum(sizes.values()) < 10e6
    assert sizes["replay.parquet"] < 1e6
    assert {"weights.safetensors", "ensemble.json", "MODEL_CARD.md"} <= set(sizes)


def test_settings_import_nothing_heavy():
    code = "import sys, surrogates.settings; print([m for m in ('torch', 'pymatgen', 'pandas', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
