from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

from al_crystal.crystal import Crystal, Label, Value
from oracles.density import Density
from oracles.labelling import Labeller, crystal_of, unavailable_properties
from oracles.potentials import load, resolve
from oracles.search import search
from oracles.settings import Heat, OracleSettings, PositionSettings, RelaxationSettings
from tests.oracles.conftest import EMT

QUICK = PositionSettings(ways=10, candidates=8, heats=(Heat(runners=3, steps=3),), relaxed=2)
COPPER_GOLD = Crystal(space_group=123, composition={"Cu": 1, "Au": 1}, lattice_parameters=(2.8, 2.8, 3.7, 90, 90, 90))
SETTINGS = OracleSettings(potential=EMT, positions=QUICK, properties=(Density(),))


@pytest.fixture(scope="module")
def labeller():
    return Labeller(SETTINGS, load(resolve(EMT)).record, seed=3)


def test_an_ok_label_says_everything(labeller):
    label = labeller.label(COPPER_GOLD)
    assert label.status == "ok"
    assert label.crystal_id == COPPER_GOLD.id
    assert set(label.properties) == {"energy_per_atom", "density", "volume_per_atom"}
    assert {value.level_of_theory for value in label.properties.values()} == {EMT}
    assert label.relaxed is not None
    assert label.relaxed.space_group == label.checks["space_group"] == 123
    assert label.relaxed.volume_per_atom == pytest.approx(label.properties["volume_per_atom"].value, rel=1e-4)
    assert label.structure.to_pymatgen().composition.reduced_formula == "CuAu"
    assert len(label.checks["energies_per_atom"]) == len(label.checks["outcomes"])
    assert 1 <= label.checks["agreeing"] <= len(label.checks["outcomes"])
    assert label.cost["energy_evaluations"] > 2
    assert label.provenance["potential"]["sha256"] == labeller.record.sha256
    assert Label.model_validate_json(label.model_dump_json()) == label


def test_a_label_does_not_depend_on_what_was_labelled_before(labeller):
    silver = Crystal(space_group=225, composition={"Ag": 4}, lattice_parameters=(4.2, 4.2, 4.2, 90, 90, 90))
    first = labeller.label(COPPER_GOLD)
    labeller.label(silver)
    again = pickle.loads(pickle.dumps(labeller)).label(COPPER_GOLD)
    for label in (first, again):
        label.cost.pop("cpu_s"), label.cost.pop("wall_s")
    assert first == again


def test_rejections_say_why(labeller):
    crowded = Crystal(space_group=225, composition={"Cu": 4}, lattice_parameters=(1.2, 1.2, 1.2, 90, 90, 90))
    label = labeller.label(crowded)
    assert label.status == "rejected"
    assert "closer than" in label.reason
    assert label.properties == {}
    impatient = OracleSettings(potential=EMT, positions=QUICK, properties=(), relaxation=RelaxationSettings(max_steps=2, max_stress=1e-3))
    label = Labeller(impatient, labeller.record, 0).label(COPPER_GOLD)
    assert label.status == "rejected"
    assert label.reason.startswith("not converged")
    assert label.structure is not None  # the last state is kept
    assert label.observations(COPPER_GOLD) == []


def test_a_property_that_cannot_be_had_is_missing_with_its_reason(labeller):
    label = Labeller(OracleSettings(potential=EMT, positions=QUICK), labeller.record, 0).label(COPPER_GOLD)
    assert label.status == "ok"
    assert "without formation_energy_per_atom" in label.reason
    assert "density" in label.properties
    assert set(label.checks["unavailable"]) == {"formation_energy_per_atom", "band_gap"}
    assert "no formation-energy references" in label.checks["unavailable"]["formation_energy_per_atom"]


def test_what_no_label_will_have_is_known_before(labeller, emt):
    missing = unavailable_properties(OracleSettings(potential=EMT), emt)
    assert set(missing) == {"formation_energy_per_atom", "band_gap"}
    assert unavailable_properties(SETTINGS, emt) == {}


def test_a_lowest_energy_that_only_one_arrangement_reached_is_less_certain():
    from types import SimpleNamespace

    from oracles.labelling import _less_certain
    from oracles.search import SEARCH_ERROR, agreeing, search_error

    def found(*energies, outcome="converged"):
        return [SimpleNamespace(relaxed=SimpleNamespace(energy_per_atom=energy, outcome=outcome)) for energy in energies]

    three = PositionSettings(relaxed=3)
    alone, two, all_three = found(-2.0, -1.9, -1.0), found(-2.0, -1.997, -1.9), found(-2.0, -2.0, -1.999)
    assert [agreeing(one) for one in (alone, two, all_three, found(-2.0, outcome="unphysical"))] == [1, 2, 3, 0]
    assert [search_error(one, three) for one in (alone, two, all_three)] == [SEARCH_ERROR[1], SEARCH_ERROR[2], 0.0]
    assert search_error(alone, PositionSettings(relaxed=4)) == 0.0  # there were no other arrangements
    value = Value(value=-1.0, level_of_theory="any", standard_deviation=0.04)
    wider = _less_certain({"formation_energy_per_atom": value, "density": value}, 0.03)
    assert wider["formation_energy_per_atom"].standard_deviation == pytest.approx(0.05)
    assert wider["density"] == value


def test_freed_symmetry_never_ends_higher(labeller):
    settings = SETTINGS.model_copy(update={"symmetry": "freed"})
    kept, freed = labeller.label(COPPER_GOLD), Labeller(settings, labeller.record, 3).label(COPPER_GOLD)
    assert freed.properties["energy_per_atom"].value <= kept.properties["energy_per_atom"].value + 1e-6
    assert freed.checks["freed"] == {"gain": pytest.approx(0.0, abs=1e-3), "left": False, "walks": 3}
    assert Label.model_validate_json(freed.model_dump_json()) == freed


def test_a_structure_is_labelled_where_its_atoms_are(labeller):
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    label = labeller.label_structure(structure)
    assert label.status == "ok"
    assert label.relaxed.space_group == 225
    assert label.relaxed.lattice_parameters[0] == pytest.approx(3.59, abs=0.03)  # EMT's copper


def test_crystals_are_in_the_international_setting():
    positions = [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.26]]
    rhombohedral = Structure.from_spacegroup("R-3m", Lattice.hexagonal(2.85, 14.1), ["Li", "Co", "O"], positions)
    found = crystal_of(rhombohedral.get_primitive_structure(), 0.01)
    assert found.space_group == 166
    assert found.composition == {"Li": 3, "O": 6, "Co": 3}
    assert found.lattice_parameters == pytest.approx((2.85, 2.85, 14.1, 90, 90, 120), abs=1e-3)


def test_settings_refuse_what_they_do_not_know():
    with pytest.raises(ValidationError, match="no_such"):
        OracleSettings.model_validate({"no_such": 1})
    with pytest.raises(ValidationError):
        OracleSettings.model_validate({"properties": [{"kind": "no_such_oracle"}]})
    assert OracleSettings.model_validate({"properties": [{"kind": "density"}]}).properties == (Density(),)


@pytest.mark.models
@pytest.mark.slow
def test_rock_salt_end_to_end(models_folder):
    settings = OracleSettings(potential="M3GNet", models=models_folder, second_potential="CHGNet")
    labeller = Labeller(settings, resolve("M3GNet", models_folder), seed=0)
    crystal = Crystal(space_group=225, composition={"Mg": 4, "O": 4}, lattice_parameters=(4.4, 4.4, 4.4, 90, 90, 90))
    label = labeller.label(crystal)
    assert label.status == "ok"
    assert label.relaxed.lattice_parameters[0] == pytest.approx(4.2613, abs=0.01)
    assert label.properties["formation_energy_per_atom"].value == pytest.approx(-3.0, abs=0.15)
    assert label.proposal_properties["formation_energy_per_atom"].value > label.properties["formation_energy_per_atom"].value
    assert abs(label.checks["second_potential"]["difference"]) < 0.15
    assert len(label.observations(crystal)) == 2


@pytest.mark.models
def test_a_proposed_cell_has_the_energy_of_its_lowest_arrangement_unless_atoms_overlap(models_folder):
    settings = OracleSettings(potential="M3GNet", models=models_folder, positions=QUICK)
    labeller = Labeller(settings, resolve("M3GNet", models_folder), seed=0)
    crystal = Crystal(space_group=225, composition={"Mg": 4, "O": 4}, lattice_parameters=(4.4, 4.4, 4.4, 90, 90, 90))
    potential, generator = load(labeller.record), np.random.default_rng(0)
    first = search(crystal, potential, QUICK, settings.relaxation, generator)[0]
    lower = replace(first, rest=replace(first.rest, energy=first.rest.energy - first.rest.cell.number_of_atoms))
    name = "formation_energy_per_atom"
    alone, together = (labeller._judge(crystal, found, potential, generator) for found in ([first], [first, lower]))
    assert together.proposal_properties[name].value == pytest.approx(alone.proposal_properties[name].value - 1, abs=1e-4)
    assert together.properties[name].value == alone.properties[name].value
    assert alone.checks["closest_approach_at_rest"] > 0.9
    crowded = replace(first.rest.cell, lattice=0.4 * first.rest.cell.lattice)
    overlapping = labeller._judge(crystal, [replace(first, rest=replace(first.rest, cell=crowded))], potential, generator)
    assert overlapping.status == "ok"
    assert overlapping.checks["closest_approach_at_rest"] < 0.55
    assert not overlapping.proposal_properties
