from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.base import Context, PropertyUnavailable
from oracles.formation_energy import FormationEnergy, reference_energies
from oracles.materials_project import MP2018, MP2020, CompositionTerms, composition_terms, convert
from oracles.potentials import CHGNET_VERSION, MATGL_MODELS, SEVENNET_MODELS, load, resolve
from oracles.training import structures
from oracles.training.formation_energy import apply_terms, error_model, fit_terms, formula_key, parse_formula
from tests.contracts import OracleContract

LEVELS = [MATGL_MODELS["M3GNet"][1], f"CHGNet-{CHGNET_VERSION}", SEVENNET_MODELS["SevenNet-l3i5"][1]]
ELEMENTS = "H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se Ba Te Br".split()
compositions = st.dictionaries(st.sampled_from(ELEMENTS), st.integers(1, 16), min_size=1, max_size=5)


class TestFormationEnergyContract(OracleContract):
    def oracle(self):
        return FormationEnergy()

    def potential(self):
        return load(resolve("CHGNet"))

    def structures(self):
        return [rock_salt("Mg", "O", 4.26), rock_salt("Na", "Cl", 5.69)]


def test_terms_of_known_compounds():
    assert composition_terms({"Fe": 2, "O": 3}) == {"Fe": 0.4, "O": 0.6, "anion O": 0.6, "Fe in oxide": 0.4}
    assert composition_terms({"Fe": 1, "F": 3}) == {"Fe": 0.25, "F": 0.75, "anion F": 0.75, "Fe in fluoride": 0.25}
    assert composition_terms({"Fe": 1, "O": 1, "F": 1})["Fe in fluoride"] == pytest.approx(1 / 3)  # fluorine is the anion, oxygen is not
    assert "Fe in oxide" not in composition_terms({"Fe": 1, "O": 1, "F": 1})
    assert composition_terms({"O": 2}) == {"O": 1.0}
    assert composition_terms({"Li": 1, "Fe": 1}) == {"Li": 0.5, "Fe": 0.5}


@given(compositions, st.integers(2, 5))
@settings(max_examples=60)
def test_terms_are_intensive_and_fractions_add_up(composition, factor):
    terms = composition_terms(composition)
    larger = composition_terms({element: count * factor for element, count in composition.items()})
    assert terms == pytest.approx(larger)
    assert sum(terms[element] for element in composition) == pytest.approx(1.0)


@given(compositions, st.floats(-4, 2))
@settings(max_examples=60)
def test_scales_convert_back_and_forth(composition, energy):
    there = convert(composition, energy, MP2018, MP2020)
    assert convert(composition, there, MP2020, MP2018) == pytest.approx(energy, abs=1e-12)
    assert convert(composition, energy, MP2020, MP2020) == energy


def test_shift_between_scales_is_the_published_one():
    """Corrections that MP2020 introduced for anions that had none (Wang et al. 2021, table 1): eV per atom of the anion."""
    for anion, published in {"Br": -0.534, "I": -0.379, "Se": -0.472, "Te": -0.422, "Sb": -0.192}.items():
        assert 2 * convert({"Cd": 1, anion: 1}, 0.0, MP2018, MP2020) == pytest.approx(published, abs=0.03)
    assert convert({"Ca": 1, "O": 1}, 0.0, MP2018, MP2020) == pytest.approx(0.0, abs=0.03)


def test_unknown_scale_and_element_are_refused():
    with pytest.raises(ValueError, match="known are MP2018"):
        convert({"Mg": 1, "O": 1}, -3.0, "OQMD", MP2020)
    with pytest.raises(KeyError, match="no reference energy for Cf"):
        CompositionTerms(coefficients={"O": 1.0, "anion O": 0.5}).per_atom({"Cf": 1, "O": 1})


def test_fit_recovers_known_coefficients_in_spite_of_outliers():
    generator = np.random.default_rng(7)
    truth = {"Fe": 5.0, "O": 2.0, "Mg": 1.0, "S": 3.0, "anion O": -0.7, "Fe in oxide": -2.0, "anion S": -0.5, "Fe beside O or F": 0.3}
    rows = []
    for _ in range(600):
        chosen = generator.choice(["Fe", "O", "Mg", "S"], size=generator.integers(1, 4), replace=False)
        rows.append({str(element): int(generator.integers(1, 9)) for element in chosen})
    target = apply_terms(rows, truth)
    target[::25] += generator.normal(0, 2, len(target[::25]))
    fitted = fit_terms(rows, target)
    assert apply_terms(rows, fitted)[1:25] == pytest.approx(apply_terms(rows, truth)[1:25], abs=0.02)


def test_error_model_covers_nine_in_ten_and_depends_on_chemistry():
    generator = np.random.default_rng(3)
    rows = [{"Mg": 1, "O": 1}] * 500 + [{"Fe": 1, "O": 1}] * 500
    residual = np.concatenate([generator.laplace(0, 0.01, 500), generator.laplace(0, 0.05, 500)])
    model = error_model(rows, residual, ["Fe", "Mg", "O"])
    size = np.array([np.mean([model["sizes"][element] for element in row]) for row in rows])
    inside = np.abs(residual) <= 1.645 * model["factor"] * np.maximum(size, model["least"])
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert size[-1] > 3 * size[0]


def test_formula_helpers():
    assert parse_formula("K4 Mn4 O8") == {"K": 4, "Mn": 4, "O": 8}
    assert formula_key({"O": 8, "K": 4, "Mn": 4}) == "K1Mn1O2"


@pytest.mark.parametrize("level", LEVELS)
def test_shipped_references_keep_their_measured_error(level):
    references = reference_energies(level)
    assert references.scale == MP2020
    assert references.level_of_theory == f"{level} -> MP2020 formation energy"
    assert {"H", "Li", "O", "Fe", "Se"} <= references.terms.elements
    oxide = references.formation_energy({"Fe": 2, "O": 3}, -6.0)
    alloy = references.formation_energy({"Al": 1, "Cu": 1}, -3.7)
    assert 0.005 < alloy.standard_deviation < 0.2
    assert 0.005 < oxide.standard_deviation < 0.2
    assert oxide.standard_deviation != alloy.standard_deviation


def test_missing_references_say_which_are_fitted():
    with pytest.raises(PropertyUnavailable, match=r"'LJ'; fitted are .*M3GNet.*oracles\.training"):
        reference_energies("LJ")


def rock_salt(first: str, second: str, constant: float):
    from pymatgen.core import Lattice, Structure

    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(constant), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("M3GNet", marks=pytest.mark.models), "CHGNet", "SevenNet-l3i5"])
def test_formation_energies_of_real_crystals(name, request):
    """Materials Project values (2020 scale): MgO -3.04, NaCl -2.11 eV/atom (mp-1265, mp-22862)."""
    if name in SEVENNET_MODELS:
        pytest.importorskip("sevenn", reason="sevenn is not installed (pip install 'al-crystal[sevennet]')")
    folder = request.getfixturevalue("models_folder") if name == "M3GNet" else None
    potential = load(resolve(name, folder))
    structures = [rock_salt("Mg", "O", 4.26), rock_salt("Na", "Cl", 5.69)]
    context = Context(potential=potential, structures=structures, energies=potential.evaluate(structures).energies)
    values = [row["formation_energy_per_atom"] for row in FormationEnergy().evaluate(structures, context)]
    assert [value.value for value in values] == pytest.approx([-3.04, -2.11], abs=0.06)
    assert {value.level_of_theory for value in values} == {f"{potential.level_of_theory} -> {MP2020}"}


@pytest.mark.models
def test_element_without_reference_is_unavailable(models_folder):
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.0), ["Cf"], [[0, 0, 0]])
    context = Context(potential=load(resolve("M3GNet", models_folder)), structures=[structure], energies=np.array([-3.0]))
    with pytest.raises(PropertyUnavailable, match=r"formation energy of Cf1: no reference energy for Cf"):
        FormationEnergy().evaluate([structure], context)


def test_hull_file_is_carried_to_the_newer_scale(tmp_path):
    from typer import Typer
    from typer.testing import CliRunner

    from al_crystal.stability import Hull
    from oracles.convert_hull import main

    application = Typer()
    application.command()(main)
    (tmp_path / "old.csv").write_text("reduced_formula_sorted,e_form_min\nCdSe,-0.6\nNaN,0.3\nCfO2,-3\n")
    result = CliRunner().invoke(application, [str(tmp_path / "old.csv"), str(tmp_path / "new.csv")])
    assert result.exit_code == 0, result.output
    assert "1 formulas left out, such as CfO2" in result.output
    hull = Hull.from_file(tmp_path / "new.csv", MP2020)
    assert len(hull) == 2
    assert hull.energies([{"Cd": 1, "Se": 1}]) == pytest.approx(convert({"Cd": 1, "Se": 1}, -0.6, MP2018, MP2020), abs=1e-4)


def test_energies_are_cached_once_with_or_without_features(emt, tmp_path, monkeypatch):
    rows = [{"src": "here", "id": str(edge), "lat": [edge] * 3 + [90] * 3, "sp": ["Cu"], "fc": [[0, 0, 0]]} for edge in (2.4, 2.5, 2.6)]
    monkeypatch.setattr(structures, "CHUNK", 2)
    assert list(structures.fill_cache(emt, rows, tmp_path, features=False)) == [2, 3]
    cached = structures.read_energies(tmp_path).set_index("id")["energy_per_atom"]
    expected = emt.evaluate([structures.to_structure(row) for row in rows]).energies
    assert cached.to_dict() == pytest.approx({f"here|{row['id']}": energy for row, energy in zip(rows, expected, strict=True)})
    with pytest.raises(NotImplementedError, match="no per-atom features"):
        list(structures.fill_cache(emt, rows, tmp_path / "other"))
    monkeypatch.setattr(emt, "evaluate", lambda *_: pytest.fail("computed again"))
    assert list(structures.fill_cache(emt, rows, tmp_path, features=False)) == [2, 3]
