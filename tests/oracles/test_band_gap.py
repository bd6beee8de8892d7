from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.band_gap import BandGap, gap_head
from oracles.base import Context, PropertyUnavailable
from oracles.gap_features import BALANCE_FEATURES, ElementTable, primitive_composition
from oracles.gap_network import GapArchitecture, GapEnsemble, GapNetwork
from oracles.megnet import NAME
from oracles.potentials import CHGNET_VERSION, MATGL_MODELS, load, resolve
from oracles.self_test import reference_structure
from oracles.training.band_gap import GapData, Training, batches, calibrate, errors_of_gaps, gap_loss, left_out, part_of, train_member
from tests.contracts import OracleContract

LEVELS = [MATGL_MODELS["M3GNet"][1], f"CHGNet-{CHGNET_VERSION}"]


class TestBandGapContract(OracleContract):
    def oracle(self):
        return BandGap()

    def potential(self):
        return load(resolve("CHGNet"))

    def structures(self):
        return [reference_structure("MgO"), reference_structure("NaCl")]


@pytest.fixture(scope="module")
def table() -> ElementTable:
    return ElementTable.from_pymatgen()


@pytest.fixture
def ensemble(table) -> GapEnsemble:
    torch.manual_seed(0)
    architecture = GapArchitecture(composition_width=table.width, atom_width=6, atom_hidden=8, gates=2, hidden=16, blocks=1)
    return GapEnsemble([GapNetwork(architecture).eval() for _ in range(3)], table, 1.7, {"date": "today"})


def test_balance_of_known_compounds(table):
    imbalance, balanced, nearly, odd, size = table.features({"Na": 1, "Cl": 1})[-BALANCE_FEATURES:]
    assert (imbalance, balanced, nearly, odd, size) == pytest.approx((0.0, 1.0, 1.0, 0.0, np.log(2)))
    assert table.features({"Na": 2, "Cl": 1})[-BALANCE_FEATURES:][:2] == pytest.approx((1 / 3, 0.0))
    assert table.features({"Al": 1})[-2] == 1.0  # thirteen electrons: a metal, whatever else is known
    assert table.features({"Fe": 3, "O": 4})[-BALANCE_FEATURES] > 0  # needs two states of iron


@given(st.dictionaries(st.sampled_from(["Li", "Fe", "O", "S", "Ba", "I"]), st.integers(1, 12), min_size=1, max_size=5), st.randoms())
@settings(max_examples=40)
def test_features_do_not_depend_on_the_order_of_elements(composition, random):
    table = ElementTable.from_pymatgen()
    items = list(composition.items())
    random.shuffle(items)
    features = table.features(composition)
    assert features == pytest.approx(table.features(dict(items)))
    assert features.shape == (table.width,)
    assert features[:94].sum() == pytest.approx(1.0)


def test_unknown_element_is_named(table):
    with pytest.raises(KeyError, match="does not know Cf"):
        table.features({"Cf": 1, "O": 2})


def test_primitive_composition_of_a_conventional_cell():
    from pymatgen.core import Lattice, Structure

    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert len(cell) == 8
    assert primitive_composition(cell) == {"Mg": 1, "O": 1}


def test_network_does_not_depend_on_order_of_atoms_repetition_or_company(ensemble):
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(4, 6)), generator.normal(size=(7, 6))
    compositions = [{"Mg": 2, "O": 2}, {"Li": 3, "Fe": 1, "O": 3}]
    together = ensemble.raw(compositions, [first, second])
    assert together[:, 1:] == pytest.approx(ensemble.raw(compositions[1:], [second]), abs=1e-5)
    assert together[:, :1] == pytest.approx(ensemble.raw(compositions[:1], [first[::-1]]), abs=1e-5)
    assert together[:, :1] == pytest.approx(ensemble.raw(compositions[:1], [np.tile(first, (3, 1))]), abs=1e-5)
    moved = first.copy()
    moved[0] += 1.0
    assert np.abs(together[:, :1] - ensemble.raw(compositions[:1], [moved])).min() > 1e-6


def test_saved_ensemble_says_the_same(ensemble, tmp_path):
    ensemble.save(tmp_path / "head.safetensors")
    again = GapEnsemble.load(tmp_path / "head.safetensors")
    atoms = [np.random.default_rng(2).normal(size=(5, 6))]
    assert again.raw([{"Mg": 1, "S": 1}], atoms) == pytest.approx(ensemble.raw([{"Mg": 1, "S": 1}], atoms), abs=5e-3)  # half precision
    assert (again.spread_factor, again.card, len(again.members)) == (1.7, {"date": "today"}, 3)
    assert again.table.oxidation_states == ensemble.table.oxidation_states


def test_combination_is_the_mean_of_what_members_say_and_its_spread(ensemble):
    raw = np.array([[[1.0, 0.0], [-2.0, 0.0]], [[3.0, 0.0], [-1.0, 0.0]]])
    gaps, deviations = ensemble.combine(raw)
    assert gaps == pytest.approx([2.0, 0.0])
    assert deviations == pytest.approx([np.hypot(1.7, 1.0), 1.7])


def test_loss_lets_a_metal_be_as_negative_as_it_likes():
    predicted = torch.tensor([[-3.0, 0.0], [-3.0, 0.0], [2.0, 0.0]])
    size = 0.1 * torch.tensor([0.0, 4.0, 0.5])
    assert gap_loss(predicted, torch.tensor([0.0, 1.0, 1.5])) == pytest.approx(torch.tensor([0.0, 4.0, 0.5]) + size)


def small_data(table: ElementTable, structures: int = 600) -> GapData:
    """Crystals whose gap is their sulphur fraction plus the mean of one atom feature, a third of them metals."""
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 6, structures)
    atoms = generator.normal(size=(sizes.sum(), 6)).astype(np.float32)
    start = np.cumsum([0, *sizes])
    sulphur = generator.integers(1, 9, structures + 200)
    composition = np.array([table.features({"Zn": 1, "S": int(count)}) for count in sulphur])
    mean = np.array([atoms[a:b, 0].mean() for a, b in itertools.pairwise(start)] + [0.0] * 200)
    gap = np.maximum(3 * sulphur / (1 + sulphur) - 1.8 + mean, 0)
    return GapData(
        torch.tensor(composition, dtype=torch.float32),
        torch.tensor(gap, dtype=torch.float32),
        np.arange(structures + 200) % 10,
        np.arange(structures + 200) // 10 % 40,
        torch.tensor(atoms),
        torch.tensor(start),
        np.ones(structures, bool),
        np.array(["ZnS"] * structures),
    )


def test_a_member_sees_neither_the_test_folds_nor_its_own_part(table):
    data = small_data(table, 600)
    out = left_out(data, 3)
    assert out[data.fold < 2].all()
    assert out[data.part == 3].all()
    assert not out[(data.fold >= 2) & (data.part != 3)].any()
    assert part_of({"O": 2, "Fe": 3}) == part_of({"Fe": 1, "O": 1}) != part_of({"Fe": 1, "S": 1})


def test_atoms_of_gathers_the_right_rows(table):
    data = small_data(table, 20)
    rows = torch.tensor([7, 3])
    atoms, sizes = data.atoms_of(rows)
    expected = [data.atoms[data.start[row] : data.start[row + 1]] for row in rows]
    assert torch.equal(atoms, torch.cat(expected))
    assert sizes.tolist() == [len(part) for part in expected]


def test_an_epoch_shows_every_structure_once(table):
    data = small_data(table, 64)
    epoch = list(batches(torch.arange(64), torch.arange(64, 200), 16, 3, torch.Generator().manual_seed(0)))
    assert sorted(row for batch in epoch for row in batch[:16].tolist()) == list(range(64))
    assert all(len(batch) == 19 and (batch[16:] >= 64).all() for batch in epoch)
    assert len(data.gap) == 264


@pytest.mark.slow
def test_training_learns_from_atoms_and_composition_and_calibrates(table):
    data = small_data(table, 2000)
    training = Training(members=2, epochs=12, batch=32, learning_rate=3e-3)
    members = [train_member(data, index, training) for index in range(2)]
    ensemble = GapEnsemble(members, table, calibrate(members, data), {})
    test = np.flatnonzero(np.isin(data.fold[:2000], (0, 1)))
    atoms = [data.atoms[data.start[row] : data.start[row + 1]].numpy() for row in test]
    fractions = data.composition[test].numpy()[:, 15]  # sulphur
    compositions = [{"Zn": 1, "S": round(float(fraction / (1 - fraction)))} for fraction in fractions]
    gaps, deviations = ensemble.predict(compositions, atoms)
    true = data.gap.numpy()[test]
    assert np.abs(gaps - true).mean() < 0.1
    assert ((np.abs(gaps - true) <= 1.645 * deviations)[true > 0]).mean() == pytest.approx(0.9, abs=0.07)


def test_same_seed_trains_the_same_network(table):
    data = small_data(table, 100)
    training = Training(epochs=1, batch=16)
    first, again = (train_member(data, 0, training).state_dict() for _ in range(2))
    other = train_member(data, 1, training).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["out.2.weight"], other["out.2.weight"])


def test_errors_are_told_apart_by_kind_of_crystal():
    errors = errors_of_gaps(np.array([0.0, 0.5, 1.0, 4.0]), np.array([0.0, 0.0, 1.5, 5.0]), np.array([True, False, False, False]))
    assert errors["all"]["mean_absolute_error"] == 0.5
    assert errors["non_metals"] == {"structures": 2, "mean_absolute_error": 0.75}
    assert errors["gap_0.8_to_2.2"] == {"structures": 1, "mean_absolute_error": 0.5}
    assert errors["metal_or_not_accuracy"] == 0.75


@pytest.mark.parametrize("level", LEVELS)
def test_shipped_heads_are_within_the_bars_by_their_cards(level):
    head = gap_head(level)
    errors = head.card["errors_on_folds_0_and_1"]
    assert head.card["potential"] == level
    assert len(head.members) >= 3
    assert errors["all"]["mean_absolute_error"] <= 0.20
    assert errors["non_metals"]["mean_absolute_error"] <= 0.50


def test_shipped_weights_are_small_and_have_cards():
    from importlib.resources import files

    folder = files("oracles") / "pretrained"
    weights = [item for item in folder.iterdir() if item.name.endswith(".safetensors")]
    assert sum(len(item.read_bytes()) for item in weights) <= 6e6
    assert {item.name.removesuffix(".safetensors") for item in weights} == {f"band_gap_{level}" for level in LEVELS}
    assert all((folder / item.name.replace(".safetensors", ".md")).is_file() for item in weights)


def test_missing_head_says_which_are_trained():
    with pytest.raises(PropertyUnavailable, match=r"'LJ'; trained are .*M3GNet.*oracles\.training\.band_gap"):
        gap_head("LJ")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("M3GNet", marks=pytest.mark.models), "CHGNet"])
def test_gaps_of_real_crystals(name, request):
    """PBE gaps: MgO 4.4-4.5, NaCl 5.0, GaAs 0.2-0.5 eV, none in aluminium and copper."""
    folder = request.getfixturevalue("models_folder") if name == "M3GNet" else None
    potential = load(resolve(name, folder))
    structures = [reference_structure(crystal) for crystal in ("MgO", "NaCl", "GaAs", "Al", "Cu")]
    context = Context(potential=potential, structures=structures, energies=np.zeros(5))
    values = [row["band_gap"] for row in BandGap().evaluate(structures, context)]
    gaps = [value.value for value in values]
    assert gaps[0] == pytest.approx(4.45, abs=0.8)
    assert gaps[1] == pytest.approx(5.0, abs=0.8)
    assert gaps[2] == pytest.approx(0.4, abs=0.4)
    assert gaps[3:] == pytest.approx([0.0, 0.0], abs=0.05)
    assert all(value.level_of_theory == f"{potential.level_of_theory} -> PBE band gap" for value in values)
    assert values[0].standard_deviation > values[3].standard_deviation > 0


@pytest.mark.slow
@pytest.mark.models
def test_megnet_gives_its_golden_gaps(models_folder):
    """models/golden.json of the weights: CsCl 4.825, MgO 0.300, NaCl 5.031, SrTiO3 1.668 eV (state 0)."""
    if not (models_folder / NAME).is_dir():
        pytest.skip(f"{models_folder} has no {NAME}")
    structures = [reference_structure(name) for name in ("CsCl", "MgO", "NaCl", "SrTiO3")]
    potential = load(resolve("M3GNet", models_folder))
    context = Context(potential=potential, structures=structures, energies=np.zeros(4), models_folder=models_folder)
    values = [row["band_gap"] for row in BandGap(model="megnet").evaluate(structures, context)]
    assert [value.value for value in values] == pytest.approx([4.825, 0.300, 5.031, 1.668], abs=0.01)
    assert values[0].level_of_theory == "MEGNet-MP-2019.4.1 -> PBE band gap"
