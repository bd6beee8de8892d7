from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from al_crystal.crystal import (
    ELEMENTS,
    AtomicStructure,
    Crystal,
    CrystalBatch,
    Label,
    Value,
    cell_volume,
    crystals_from_frame,
    crystals_to_frame,
    element_volumes,
    expected_volume_per_atom,
)

ROCK_SALT = Crystal(space_group=225, composition={"Cl": 4, "Na": 4}, lattice_parameters=(5.6402, 5.6402, 5.6402, 90, 90, 90))

crystals = st.builds(
    Crystal,
    space_group=st.integers(1, 230),
    composition=st.dictionaries(st.sampled_from(ELEMENTS[:94]), st.integers(1, 20), min_size=1, max_size=5),
    lattice_parameters=st.tuples(*[st.floats(2, 40)] * 3, *[st.floats(60, 119)] * 3),
)


def test_id_does_not_depend_on_the_order_of_the_elements_or_on_noise_below_the_written_digits():
    other = Crystal(space_group=225, composition={"Na": 4, "Cl": 4}, lattice_parameters=(5.640201, 5.6402, 5.6402, 90, 90, 90))
    assert other.id == ROCK_SALT.id
    assert other == ROCK_SALT


def test_id_is_golden():
    assert ROCK_SALT.id == "ba5b230fe8d41fdf"
    moved = ROCK_SALT.model_copy(update={"space_group": 221})
    assert moved.id != ROCK_SALT.id


@given(crystals)
def test_json_round_trip_keeps_the_crystal_and_its_id(crystal):
    again = Crystal.model_validate_json(crystal.model_dump_json())
    assert again == crystal
    assert again.id == crystal.id


@settings(max_examples=30)
@given(st.lists(crystals, min_size=1, max_size=6))
def test_batch_and_table_round_trips(items):
    assert CrystalBatch.from_crystals(items).to_crystals() == items
    assert crystals_from_frame(crystals_to_frame(items)) == items


@given(crystals)
def test_volume_agrees_with_pymatgen_and_with_the_batch(crystal):
    expected = Lattice.from_parameters(*crystal.lattice_parameters).volume
    assert crystal.volume == pytest.approx(expected, rel=1e-6, abs=1e-3)
    batch = CrystalBatch.from_crystals([crystal])
    assert batch.volume.item() == pytest.approx(crystal.volume, rel=1e-6, abs=1e-3)


def test_angles_that_close_no_cell_have_no_volume():
    assert cell_volume((5, 5, 5, 150, 150, 150)) == 0.0


def test_density_of_rock_salt_agrees_with_pymatgen():
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6402), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert ROCK_SALT.density == pytest.approx(structure.density, rel=1e-4)
    assert CrystalBatch.from_crystals([ROCK_SALT, ROCK_SALT]).density.tolist() == pytest.approx([structure.density] * 2, rel=1e-4)
    assert ROCK_SALT.formula == "NaCl"


def test_batch_indexing_selects_rows():
    batch = CrystalBatch.from_crystals([ROCK_SALT, ROCK_SALT.model_copy(update={"space_group": 1})])
    assert [crystal.space_group for crystal in batch[torch.tensor([1])]] == [1]
    assert len(batch[:1]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"composition": {"Xx": 1}}, "not a chemical element"),
        ({"composition": {"Na": 0}}, "counts start at 1"),
        ({"composition": {}}, "at least one element"),
        ({"space_group": 231}, "less than or equal to 230"),
        ({"lattice_parameters": (0, 1, 1, 90, 90, 90)}, "must be positive"),
    ],
)
def test_impossible_crystals_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Crystal(**(ROCK_SALT.model_dump() | change))


def test_element_volumes_are_physical():
    volumes = element_volumes()
    assert set(volumes) == set(ELEMENTS)
    assert all(3 < volume < 80 for volume in volumes.values())
    assert expected_volume_per_atom({"Na": 4, "Cl": 4}) == pytest.approx(22.5, rel=0.25)


@pytest.mark.data
def test_element_volumes_tell_real_volumes(data_folder):
    import pandas as pd

    frame = pd.read_parquet(data_folder / "seed_crystals.parquet", columns=["composition", "volume_per_atom", "fold"]).query("fold < 2")
    ratio = frame["volume_per_atom"] / [expected_volume_per_atom(json.loads(text)) for text in frame["composition"]]
    assert ratio.between(0.6, 1.6).mean() > 0.99


def test_structure_round_trip():
    structure = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert AtomicStructure.from_pymatgen(structure).to_pymatgen() == structure


def test_only_ok_labels_teach_and_both_cells_share_a_group():
    energy = Value(value=-2.0, level_of_theory="PBE")
    label = Label(
        crystal_id=ROCK_SALT.id,
        status="ok",
        reason="",
        relaxed=ROCK_SALT,
        properties={"formation_energy_per_atom": energy},
        proposal_properties={"formation_energy_per_atom": energy},
    )
    rows = label.observations(ROCK_SALT)
    assert [row.kind for row in rows] == ["relaxed", "proposal"]
    assert {row.group for row in rows} == {ROCK_SALT.id}
    assert label.model_copy(update={"status": "rejected"}).observations(ROCK_SALT) == []
