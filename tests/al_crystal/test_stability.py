from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from al_crystal.crystal import Value
from al_crystal.stability import MATERIALS_PROJECT_SCALE, Hull, HullFileError, LevelMismatch

LI_O = [({"Li": 2, "O": 1}, -2.0), ({"Li": 2, "O": 2}, -1.6), ({"Li": 1, "O": 3}, -0.2)]
ELEMENTS = ["Li", "Mg", "Fe", "O", "F", "S"]


def random_entries(seed: int, number: int, elements: int) -> list[tuple[dict[str, float], float]]:
    generator = np.random.default_rng(seed)
    entries = []
    for _ in range(number):
        chosen = generator.choice(ELEMENTS[:elements], size=generator.integers(1, elements + 1), replace=False)
        entries.append(({str(element): int(generator.integers(1, 8)) for element in chosen}, float(generator.normal(-0.8, 0.8))))
    return entries


def by_linear_programme(entries, composition) -> float:
    """The same programme through scipy's HiGHS."""
    elements = sorted({element for entry, _ in entries for element in entry} | set(composition))
    phases = [({element: 1.0}, 0.0) for element in elements] + list(entries)
    fraction = lambda counts: np.array([counts.get(element, 0) for element in elements]) / sum(counts.values())  # noqa: E731
    result = linprog(
        [energy for _, energy in phases], A_eq=np.array([fraction(counts) for counts, _ in phases]).T, b_eq=fraction(composition)
    )
    return float(result.fun)


def test_binary_by_hand():
    hull = Hull(LI_O, MATERIALS_PROJECT_SCALE)
    assert hull.energies([{"Li": 2, "O": 1}, {"Li": 1, "O": 1}]) == pytest.approx([-2.0, -1.6])
    assert hull.energy_above({"Li": 1, "O": 3}, -0.2) == pytest.approx(-0.2 + 1.6 * 0.5)  # half of the atoms in Li2O2, half in O
    assert hull.energy_above({"Li": 2, "O": 1}, -2.3) == pytest.approx(-0.3)
    assert hull.energy_above({"Na": 1, "Cl": 1}, -2.0) == -2.0  # nothing known but the elements
    assert hull.energy_above({"O": 2}, 0.1) == pytest.approx(0.1)
    assert hull.decomposition({"Li": 1, "O": 3}) == pytest.approx({"Li2O2": 0.5, "O2": 0.5})
    assert hull.decomposition({"Li": 4, "O": 2}) == pytest.approx({"Li2O": 1.0})


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 60))
@settings(max_examples=60)
def test_agrees_with_a_linear_programme(seed, elements, number):
    entries = random_entries(seed, number, elements)
    hull = Hull(entries, "scale")
    targets = [composition for composition, _ in random_entries(seed + 1, 8, elements)] + [composition for composition, _ in entries[:8]]
    assert hull.energies(targets) == pytest.approx([by_linear_programme(entries, target) for target in targets], abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_hull_is_below_every_entry_and_decomposition_adds_up(seed):
    entries = random_entries(seed, 40, 4)
    hull = Hull(entries, "scale")
    assert (hull.energies_above([composition for composition, _ in entries], [energy for _, energy in entries]) > -1e-9).all()
    assert sum(hull.decomposition(entries[0][0]).values()) == pytest.approx(1.0, abs=1e-6)


def test_agrees_with_pymatgen():
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = random_entries(11, 60, 5)
    elements = [({element: 1}, 0.0) for element in ELEMENTS[:5]]
    compounds = [entry for entry in entries if len(entry[0]) > 1]
    diagram = PhaseDiagram([PDEntry(Composition(counts), energy * sum(counts.values())) for counts, energy in compounds + elements])
    hull = Hull(compounds, "scale")
    expected = [diagram.get_hull_energy_per_atom(Composition(counts)) for counts, _ in compounds]
    assert hull.energies([counts for counts, _ in compounds]) == pytest.approx(expected, abs=1e-6)


def test_one_at_a_time_and_all_at_once_agree():
    hull = Hull(random_entries(5, 80, 6), "scale")
    targets = [composition for composition, _ in random_entries(6, 40, 6)]
    assert hull.energies(targets) == pytest.approx([hull.energies([target])[0] for target in targets], abs=1e-9)


def test_campaign_hull_is_called_so_and_sinks_with_new_labels():
    first = Hull.from_entries([({"Li": 1, "O": 1}, -1.0)], "M3GNet -> MP2020 formation energy")
    assert (first.property_name, first.description) == ("e_above_campaign_hull", "energy above the campaign's own hull")
    later = Hull.from_entries([({"Li": 1, "O": 1}, -1.0), ({"Li": 1, "O": 1}, -1.4)], first.level_of_theory)
    assert len(later) == 1
    assert later.energy_above({"Li": 1, "O": 1}, -1.0) == pytest.approx(0.4)
    same = Value(value=-1.0, level_of_theory="M3GNet -> MP2020 formation energy")
    assert later.value_above({"Li": 1, "O": 1}, same).level_of_theory.endswith("energy above the campaign's own hull")
    with pytest.raises(LevelMismatch):
        later.value_above({"Li": 1, "O": 1}, Value(value=-1.0, level_of_theory="CHGNet -> MP2020 formation energy"))


def test_levels_never_meet():
    hull = Hull(LI_O, MATERIALS_PROJECT_SCALE)
    estimate = Value(value=-1.9, level_of_theory=f"M3GNet-MP-2021.2.8 -> {MATERIALS_PROJECT_SCALE}", standard_deviation=0.04)
    above = hull.value_above({"Li": 2, "O": 1}, estimate)
    assert (above.value, above.standard_deviation) == (pytest.approx(0.1), 0.04)
    assert above.level_of_theory.endswith("energy above hull")
    with pytest.raises(LevelMismatch, match="MP2018 formation energy"):
        hull.value_above({"Li": 2, "O": 1}, Value(value=-1.9, level_of_theory="MP2018 formation energy"))


def test_reads_files_with_names_that_pandas_takes_for_missing(tmp_path):
    plain = tmp_path / "hull.csv"
    plain.write_text("formula,formation_energy_per_atom\nNaN,0.4\nLi2O,-2.0\n")
    with gzip.open(tmp_path / "hull.csv.gz", "wt") as file:
        file.write("reduced_formula_sorted,e_form_min\nNaN,0.4\nLi2O,-2.0\n")
    for path in (plain, tmp_path / "hull.csv.gz"):
        hull = Hull.from_file(path, "scale")
        assert len(hull) == 2
        assert hull.energy_above({"Li": 4, "O": 2}, -1.5) == pytest.approx(0.5)
    shifted = Hull.from_file(plain, "other scale", correction=lambda composition: 0.3 * composition.get("O", 0) / sum(composition.values()))
    assert shifted.energies([{"Li": 2, "O": 1}]) == pytest.approx([-1.9])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,energy\nLi2O,-2\n", r"hull.csv:1: columns \['name', 'energy'\]; needed are one of"),
        ("formula,formation_energy_per_atom\nLi2O,-2\nLi(OH),-1\n", r"hull.csv:3: 'Li\(OH\)' is not a formula"),
        ("formula,formation_energy_per_atom\nLi2O,low\n", "hull.csv:2: could not convert"),
        ("formula,formation_energy_per_atom\nXy2O,-1\n", "hull.csv:2: 'Xy2O' is not a formula"),
    ],
)
def test_broken_files_are_refused_with_the_line(tmp_path, content, message):
    (tmp_path / "hull.csv").write_text(content)
    with pytest.raises(HullFileError, match=message):
        Hull.from_file(tmp_path / "hull.csv", "scale")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(HullFileError, match=r"nowhere.csv does not exist; give a CSV"):
        Hull.from_file(tmp_path / "nowhere.csv", "scale")


@pytest.mark.data
def test_real_hull_holds_its_own_entries_and_their_reactions(data_folder):
    hull = Hull.from_file(data_folder / "mp_hull_entries_matbench.csv.gz", "MP2018 formation energy")
    assert len(hull) > 90_000
    assert set(hull.decomposition({"Mg": 1, "Al": 2, "O": 4})) == {"MgAl2O4"}
    assert set(hull.decomposition({"Mg": 1, "Si": 3, "O": 9})) >= {"SiO2"}
    assert hull.energy_above({"Na": 1, "Cl": 1}, hull.energies([{"Na": 1, "Cl": 1}])[0] + 0.05) == pytest.approx(0.05)
