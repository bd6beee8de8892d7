from __future__ import annotations

import pandas as pd
import pytest
from ase.db import connect
from ase.io import read as read_atoms
from pymatgen.core import Structure

from al_crystal.config import ConfigError, StabilitySettings, load
from al_crystal.crystal import Value
from al_crystal.export import export_labels
from al_crystal.history import History, Labelled, Picks, Round, Start
from al_crystal.measures import prediction_errors, round_metrics
from al_crystal.results import ranking

from .examples import LEVEL, candidate, crystal, label

CRYSTALS = [crystal(0), crystal(1), crystal(2, {"K": 4, "Cl": 4}), crystal(3, {"Na": 4, "Br": 4}), crystal(4)]


@pytest.fixture
def run(tmp_path):
    """A campaign whose second label is the first's structure again, and whose last was rejected."""
    path = tmp_path / "campaign.yaml"
    path.write_text(
        f"name: small\noutput: {tmp_path}/runs\nobjective:\n  targets:\n    band_gap: {{near: 1.3}}\n"
        "    formation_energy_per_atom: {below: -0.5, width: 0.2}\n"
    )
    campaign = load(path)
    with History(campaign.folder) as history:
        facts = {"potential": {"name": "M3GNet", "level_of_theory": "PBE", "sha256": "0" * 64, "reason": "test"}, "versions": {}}
        history.append(Start(campaign=campaign.hash, facts=facts))
        history.append(Picks(round=0, candidates=[candidate(item) for item in CRYSTALS]))
        for item, gap, energy in zip(CRYSTALS, (1.3, 1.4, 1.2, 3.0), (-1.0, -1.0, -2.0, -1.5), strict=False):
            history.append(Labelled(round=0, attempt=0, label=label(item, gap=gap, energy=energy)))
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[4], "rejected")))
        history.append(Round(round=0, metrics=round_metrics(history.state.rounds[0], campaign.objective)))
        yield campaign, history.state


def test_ranking_is_by_desirability_and_tells_copies(run):
    campaign, state = run
    table = ranking(campaign, state)
    assert table["desirability"].is_monotonic_decreasing
    rows = table.set_index("id")
    assert rows.loc[CRYSTALS[1].id, "same_as"] == CRYSTALS[0].id
    assert rows.loc[CRYSTALS[4].id, "desirability"] == 0.0
    assert set(table["hull"]) == {"the campaign's own hull"}
    assert "e_above_hull" not in table
    assert rows.loc[CRYSTALS[0].id, "e_above_campaign_hull"] == pytest.approx(0.0, abs=1e-6)
    assert table["hit"].isna().all(), "without a reference hull and known crystals nothing is a hit"


def test_a_hit_is_wanted_unique_novel_converged_and_near_the_hull(run, tmp_path):
    campaign, state = run
    hull, known = tmp_path / "hull.csv", tmp_path / "known.csv"
    pd.DataFrame({"formula": ["NaCl", "KCl"], "formation_energy_per_atom": [-0.95, -2.5]}).to_csv(hull, index=False)
    pd.DataFrame({"formula": ["LiF"], "space_group_number": [225]}).to_csv(known, index=False)
    stability = StabilitySettings(hull=hull, level_of_theory=LEVEL)
    judged = campaign.model_copy(update={"stability": stability, "known_crystals": known})
    rows = ranking(judged, state).set_index("id")
    assert rows.loc[CRYSTALS[0].id, "e_above_hull"] == pytest.approx(-0.05)
    # NaCl; the same again; KCl, 0.5 eV above the hull; NaBr, of an unwanted gap; a rejected one
    assert [bool(rows.loc[item.id, "hit"]) for item in CRYSTALS] == [True, False, False, False, False]
    pd.DataFrame({"formula": ["NaCl"], "space_group_number": [225]}).to_csv(known, index=False)
    assert not ranking(judged, state)["hit"].any()


def test_a_hull_of_another_level_of_theory_is_refused(run, tmp_path):
    campaign, state = run
    pd.DataFrame({"formula": ["NaCl"], "formation_energy_per_atom": [-2.0]}).to_csv(tmp_path / "hull.csv", index=False)
    stability = StabilitySettings(hull=tmp_path / "hull.csv", level_of_theory="r2SCAN")
    with pytest.raises(ConfigError, match="r2SCAN"):
        ranking(campaign.model_copy(update={"stability": stability}), state)


def test_errors_are_of_the_cell_that_was_predicted():
    picks = [candidate(item, energy=-1.0, gap=1.0) for item in CRYSTALS[:2]]
    labels = {CRYSTALS[0].id: label(CRYSTALS[0], energy=-1.2, gap=1.3), CRYSTALS[1].id: label(CRYSTALS[1], "rejected")}
    errors = prediction_errors(picks, labels)
    assert errors["formation_energy_per_atom"]["n"] == 1
    assert errors["formation_energy_per_atom"]["bias"] == pytest.approx(-1.0 - (-1.1))
    assert errors["formation_energy_per_atom"]["coverage_90"] == 1.0
    assert errors["band_gap"]["mae"] == pytest.approx(0.3)
    assert errors["band_gap"]["coverage_90"] == 0.0


def test_an_interval_is_as_wide_as_prediction_and_label_together_are_uncertain():
    made = label(CRYSTALS[0], gap=1.3)
    noisy = made.properties["band_gap"].model_copy(update={"standard_deviation": 0.4})
    labels = {CRYSTALS[0].id: made.model_copy(update={"properties": made.properties | {"band_gap": noisy}})}
    assert prediction_errors([candidate(CRYSTALS[0], gap=1.0)], labels)["band_gap"]["coverage_90"] == 1.0
    assert prediction_errors([candidate(CRYSTALS[0], gap=0.5)], labels)["band_gap"]["coverage_90"] == 0.0


def test_exports_are_read_by_others(run):
    campaign, state = run
    table = ranking(campaign, state)
    files = export_labels(campaign, state, table, best=2)
    images = read_atoms(campaign.folder / "structures" / "all.extxyz", index=":")
    assert len(images) == 5
    assert images[0].info["crystal_id"] == CRYSTALS[0].id
    assert connect(campaign.folder / "structures" / "all.db").count(status="ok") == 4
    assert len(pd.read_csv(campaign.folder / "labels.csv")) == 5
    cifs = [path for path in files if path.suffix == ".cif"]
    assert len(cifs) == 2
    assert Structure.from_file(cifs[0]).composition.reduced_formula in cifs[0].name


def test_the_report_is_one_page_that_needs_no_network(run):
    from al_crystal.report.page import write_report

    campaign, state = run
    text = write_report(campaign, state, ranking(campaign, state)).read_text()
    assert "<script src" not in text
    assert "K<sub>" not in text
    assert "KCl" in text
    assert text.count("class='figure'") == 7
    assert "not judged" in text


def test_the_report_shows_what_dft_said_and_why_energies_are_withheld(run):
    from al_crystal.report.page import page

    campaign, state = run
    value = Value(value=4.4, level_of_theory="PBE GPAW")
    checks = {"formation_energy_per_atom": "withheld: no reference energy of Na at this level", "max_force": 0.012}
    said = label(CRYSTALS[0]).model_copy(update={"properties": {"band_gap": value}, "checks": checks})
    assert "density-functional" not in page(campaign, state, ranking(campaign, state))
    state.add(Labelled(round=0, attempt=0, label=said, promotion="gpaw"))
    state.add(Labelled(round=0, attempt=0, label=label(CRYSTALS[2], "rejected"), promotion="gpaw"))
    text = page(campaign, state, ranking(campaign, state)).partition("Checked with density-functional theory")[2].partition("<h2>")[0]
    assert "withheld: no reference energy of Na at this level" in text
    assert "gpaw: rejected" in text
    assert "because of the test" in text
    assert "<td>1.300</td><td>4.400</td><td>-1.000</td><td>–</td><td>–</td><td>0.012</td>" in text
