import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from al_crystal.crystal import ELEMENTS, Crystal, CrystalBatch, expected_volume_per_atom
from surrogates.features import (
    Rows,
    cell_features,
    count_features,
    element_table,
    global_features,
    occupation_features,
    pooled_properties,
    space_group_table,
    space_groups,
)
from surrogates.inputs import Inputs
from tests.surrogates.helpers import CRYSTALS, ORTHORHOMBIC, PEROVSKITE, ROCK_SALT, batch

crystals = st.builds(
    lambda group, composition, lengths: Crystal(space_group=group, composition=composition, lattice_parameters=(*lengths, 90, 90, 90)),
    st.integers(1, 230),
    st.dictionaries(st.sampled_from(ELEMENTS[:94]), st.integers(1, 16), min_size=1, max_size=6),
    st.tuples(*[st.floats(2, 30)] * 3),
)


def test_tables_know_every_element_and_group():
    assert element_table().shape[0] == 104
    assert torch.isfinite(element_table()).all()
    assert space_group_table().shape[0] == 231
    assert torch.isfinite(space_group_table()).all()
    assert len(space_groups()) == 230


def test_symmetry_facts_are_those_of_spglib():
    import spglib

    first_hall_number: dict[int, int] = {}
    for hall in range(1, 531):
        first_hall_number.setdefault(spglib.get_spacegroup_type(hall).number, hall)
    for number, facts in space_groups().items():
        found = spglib.get_spacegroup_type(first_hall_number[number])
        same_class = {"-6m2": "-62m", "-4m2": "-42m", "312": "32", "321": "32", "3m1": "3m", "31m": "3m", "-31m": "-3m", "-3m1": "-3m"}
        symbols = [symbol.replace(" ", "") for symbol in (facts["point_group"], found.pointgroup_international)]
        assert same_class.get(symbols[0], symbols[0]) == same_class.get(symbols[1], symbols[1]), number
        operations = spglib.get_symmetry_from_database(first_hall_number[number])
        inversion = any((rotation == -np.eye(3, dtype=int)).all() for rotation in operations["rotations"])
        assert facts["centrosymmetric"] == inversion, number
        centring = {"P": 1, "A": 2, "C": 2, "I": 2, "F": 4, "R": 3}[facts["symbol"][0]]
        assert facts["lattice_points"] == centring
        if facts["symbol"][0] != "R":
            assert facts["general_multiplicity"] == len(operations["rotations"]), number


@given(crystals)
def test_rows_count_atoms_of_the_primitive_cell(crystal):
    rows = Rows.from_batch(CrystalBatch.from_crystals([crystal]))
    points = space_groups()[crystal.space_group]["lattice_points"]
    assert {ELEMENTS[z - 1]: c for z, c in zip(rows.elements[0].tolist(), rows.counts[0].tolist(), strict=True) if z} == pytest.approx(
        {symbol: count / points for symbol, count in crystal.composition.items()}
    )


@given(crystals)
def test_volume_feature_is_the_ratio_to_the_estimate(crystal):
    log_volume, _ = cell_features(Rows.from_batch(CrystalBatch.from_crystals([crystal])))
    assert float(log_volume[0]) == pytest.approx(np.log(crystal.volume_per_atom / expected_volume_per_atom(crystal.composition)), abs=1e-3)


def test_axes_may_be_named_in_any_order():
    features = []
    for order in itertools.permutations(range(3)):
        lengths = tuple(ORTHORHOMBIC.lattice_parameters[index] for index in order)
        features.append(
            cell_features(Rows.from_batch(batch([ORTHORHOMBIC.model_copy(update={"lattice_parameters": (*lengths, 90, 90, 90)})])))
        )
    for log_volume, shape in features[1:]:
        torch.testing.assert_close(shape, features[0][1])
        torch.testing.assert_close(log_volume, features[0][0])


def test_unknown_cells_have_neutral_features():
    rows = Rows.from_compositions([{12: 1, 8: 1}], [225])
    log_volume, shape = cell_features(rows)
    assert float(log_volume[0]) == 0
    assert not shape.any()
    assert not Inputs.of(rows).known.any()


def test_batch_and_compositions_make_the_same_rows():
    rows = Rows.from_batch(batch())
    other = Rows.from_compositions(
        [{ELEMENTS.index(symbol) + 1: count for symbol, count in crystal.composition.items()} for crystal in CRYSTALS],
        [crystal.space_group for crystal in CRYSTALS],
        np.array([crystal.lattice_parameters for crystal in CRYSTALS]),
    )
    for name in ("elements", "counts", "space_group", "lattice_parameters"):
        torch.testing.assert_close(getattr(rows, name), getattr(other, name))


def test_cells_that_close_no_body_are_finite():
    flat = ROCK_SALT.model_copy(update={"lattice_parameters": (4.0, 4.0, 4.0, 150.0, 150.0, 150.0)})
    log_volume, shape = cell_features(Rows.from_batch(batch([flat])))
    assert torch.isfinite(log_volume).all()
    assert torch.isfinite(shape).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"space_group": torch.tensor([231])}, "space group from 1 to 230"), ({"counts": torch.zeros(1, 3).long()}, "at least one element")],
)
def test_impossible_rows_are_refused(change, message):
    from dataclasses import replace

    with pytest.raises(ValueError, match=message):
        Rows.from_batch(replace(batch([PEROVSKITE]), **change))


def test_elements_beyond_the_table_are_refused():
    with pytest.raises(ValueError, match="atomic number 112"):
        Rows.from_batch(
            CrystalBatch.from_crystals([Crystal(space_group=1, composition={"Cn": 1}, lattice_parameters=(3, 3, 3, 90, 90, 90))])
        )


@given(crystals)
def test_occupation_compares_counts_with_the_multiplicities_of_pyxtal(crystal):
    from pyxtal.symmetry import Group

    positions = list(Group(crystal.space_group))
    sizes = [position.multiplicity for position in positions]
    free = min(position.multiplicity for position in positions if position.get_dof() > 0)
    fixed = sum(position.get_dof() == 0 for position in positions)
    counts = list(crystal.composition.values())
    found = occupation_features(Rows.from_batch(CrystalBatch.from_crystals([crystal])))[0].tolist()
    orbits = [count / max(sizes) for count in counts]
    multiplicities = [min(sizes), free, max(sizes), max(sizes) / min(sizes), len(sizes)]
    logs = np.log([*multiplicities, min(orbits), sum(orbits) / len(counts), max(orbits), sum(counts)])
    broken = sum(count % max(sizes) != 0 for count in counts)
    assert found == pytest.approx([*logs, fixed, broken, sum(count < free for count in counts), len(counts)], abs=1e-4)


def test_pooled_properties_are_moments_and_extremes_over_the_elements():
    table = torch.tensor([[9.0, -9.0], [1.0, 2.0], [3.0, 2.0], [-1.0, 5.0]])  # the first row is padding and never counts
    rows = Rows(
        torch.tensor([[1, 2, 0], [3, 0, 0]]),
        torch.tensor([[1.0, 3.0, 0.0], [2.0, 0.0, 0.0]]),
        torch.tensor([1, 1]),
        torch.full((2, 6), torch.nan),
    )
    mean, deviation, highest, lowest = pooled_properties(rows, table).split(2, dim=1)
    torch.testing.assert_close(mean, torch.tensor([[2.5, 2.0], [-1.0, 5.0]]))
    torch.testing.assert_close(deviation, torch.tensor([[0.75**0.5, 1e-3], [1e-3, 1e-3]]))
    torch.testing.assert_close(highest, torch.tensor([[3.0, 2.0], [-1.0, 5.0]]))
    torch.testing.assert_close(lowest, torch.tensor([[1.0, 2.0], [-1.0, 5.0]]))


@given(crystals)
def test_counts_and_sizes_are_those_of_the_primitive_cell(crystal):
    rows = Rows.from_batch(CrystalBatch.from_crystals([crystal]))
    facts = space_groups()[crystal.space_group]
    atoms = np.array([crystal.composition[ELEMENTS[number - 1]] for number in rows.elements[0].tolist()]) / facts["lattice_points"]
    fraction = atoms / atoms.sum()
    orbits = atoms * facts["lattice_points"] / facts["general_multiplicity"]
    columns = [fraction, fraction**0.5, np.log(atoms) / 2, np.log(orbits) / 3, np.cos(np.pi * atoms), np.cos(2 * np.pi * atoms)]
    np.testing.assert_allclose(count_features(rows)[0].numpy(), np.transpose(columns), atol=1e-5)
    electrons = np.pi * (atoms @ rows.elements[0].numpy())
    sizes = [np.log(atoms.sum()) / 3, np.log(atoms.sum() * facts["lattice_points"]) / 3]
    norms = [np.linalg.norm(fraction, order) for order in (2, 3, np.inf)]
    expected = [*sizes, *norms, len(atoms) / 3, len(atoms) == 1, np.cos(electrons), np.cos(2 * electrons)]
    np.testing.assert_allclose(global_features(rows)[0].numpy(), expected, atol=2e-3)  # electrons are hundreds, to seven digits


def test_padding_has_no_features():
    rows = Rows.from_batch(batch())
    assert not count_features(rows)[rows.elements == 0].any()
