from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import typer

from al_crystal.crystal import LATTICE_PARAMETERS, Candidate, Label, Look, Value
from al_crystal.experience import COLUMNS, NUMBER, SHIPPED, Experience, experience, from_frame, gathered, main, to_frame
from al_crystal.history import History, Labelled, Picks, Start, State
from al_crystal.screening import EARLIER, ENERGY, FEWEST, Correction, evenly, measured, remembered, screened_and_labelled, taught
from tests.al_crystal.examples import crystal
from tests.al_crystal.test_screening import pairs, screening

POTENTIAL = "M3GNet-MP-2021.2.8"
LEVEL = f"{POTENTIAL} -> MP2020 formation energy"


def test_what_is_shipped_are_crystals_with_energies_of_one_potential():
    found = experience(POTENTIAL)
    assert len(found) == NUMBER
    assert len({one.look.crystal.id for one in found}) == NUMBER
    assert {one.look.screening.formation_energy_per_atom.level_of_theory for one in found} == {LEVEL}
    labelled = [one for one in found if one.label is not None]
    excess = np.array([one.look.screening.formation_energy_per_atom.value - one.label.value for one in labelled if one.label])
    assert len(labelled) > 4 * EARLIER
    assert 0.0 < np.median(excess) < 0.1, "a look lies a little above a label"
    assert experience("another potential") == [], "energies of two levels never meet"
    assert experience(POTENTIAL, source=False) == []


def test_the_shipped_table_names_no_machine():
    columns = {"potential", "level_of_theory", "look", "look_deviation", "label", "label_deviation"}
    columns |= {"surrogate", "surrogate_deviation", "surrogate_distance", "space_group_number", "composition", *LATTICE_PARAMETERS}
    assert set(pd.read_parquet(SHIPPED).columns) == columns == COLUMNS


def test_a_table_of_ones_own_says_what_is_wrong_with_it(tmp_path):
    pd.read_parquet(SHIPPED).drop(columns=["look", "label"]).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(ValueError, match="lacks the columns label, look; make it with"):
        experience(POTENTIAL, tmp_path / "table.parquet")
    with pytest.raises(ValueError, match=f"nothing of the potential another, but of {POTENTIAL}"):
        experience("another", SHIPPED)


def test_a_first_round_knows_what_a_look_is_worth():
    correction = Correction.before(State(), 0, experience(POTENTIAL))
    assert correction is not None
    assert Correction.before(State(), 0) is None
    tests = pairs(500, 3)
    mean, _ = correction([one for one, _ in tests])
    truth, alone = np.array([label.value for _, label in tests]), np.array([one.surrogate.mean[ENERGY] for one, _ in tests])
    assert np.abs(mean - truth).mean() < 0.5 * np.abs(alone - truth).mean()


def campaign(number: int) -> State:
    """One round: ``number`` crystals picked, the first half of them labelled, and as many passed over."""
    screenings, labels = zip(*pairs(2 * number, 5), strict=True)
    candidates = [
        Candidate(crystal=crystal(row), prediction=one.surrogate, acquisition=0.0, arm="gfn", reason="", screening=one)
        for row, one in enumerate(screenings[:number])
    ]
    passed_over = [Look(crystal=crystal(row), screening=one) for row, one in enumerate(screenings[number:], number)]
    state = State()
    state.add(Start(campaign="a", facts={"potential": {"level_of_theory": "potential"}}))
    state.add(Picks(round=0, candidates=candidates, passed_over=passed_over))
    for row, (one, value) in enumerate(zip(candidates[: number // 2], labels, strict=False)):
        status = "rejected" if row == 0 else "ok"
        label = Label(crystal_id=one.id, status=status, reason="", proposal_properties={ENERGY: value})
        state.add(Labelled(round=0, attempt=0, label=label))
    return state


def test_a_campaign_that_has_measured_enough_overrules_earlier_ones():
    earlier = [Experience(Look(crystal=crystal(row), screening=screening(3.0, -1.0)), _value(-1.0)) for row in range(200)]
    new = [screening(-0.9, -1.0)]
    alone, beside = (Correction.before(campaign(800), 1, known) for known in ([], earlier))
    prior = Correction.before(State(), 0, earlier)
    assert alone is not None
    assert beside is not None
    assert prior is not None
    (own,), (both,), (only,) = (correction(new)[0] for correction in (alone, beside, prior))
    assert abs(both - own) < 0.2 * abs(only - own)


def _value(energy: float) -> Value:
    return Value(value=energy, level_of_theory="potential", standard_deviation=0.03)


def test_all_that_a_campaign_looked_at_is_gathered_with_its_good_labels_and_survives_the_file(tmp_path):
    state = campaign(20)
    found = gathered(state)
    assert [one.look for one in found] == state.rounds[0].looks
    assert [one.label is not None for one in found] == [False] + 9 * [True] + 30 * [False]
    frame = to_frame(found, "potential")
    frame.to_parquet(tmp_path / "table.parquet")
    again = experience("potential", tmp_path / "table.parquet")
    assert [one.label for one in again] == [one.label for one in found]
    assert [one.look.crystal for one in again] == [one.look.crystal for one in found]
    looks = [[one.look.screening for one in group] for group in (again, found)]
    assert [one.formation_energy_per_atom for one in looks[0]] == [one.formation_energy_per_atom for one in looks[1]]
    assert [one.surrogate.mean[ENERGY] for one in looks[0]] == [one.surrogate.mean[ENERGY] for one in looks[1]]
    assert from_frame(frame) == again


def test_what_is_remembered_are_looks_and_labels_count_as_they_are():
    found = gathered(campaign(4 * FEWEST))
    correction = Correction.before(State(), 0, found)
    rows = remembered(found, correction)
    assert {row.kind for row in rows} == {"look"}
    assert {row.crystal.id for row in rows} == {one.look.crystal.id for one in found}
    energies = {row.crystal.id: row.properties[ENERGY] for row in rows}
    for one in found:
        if one.label is None:
            assert energies[one.look.crystal.id].value < one.look.screening.formation_energy_per_atom.value + 0.021
        else:
            assert energies[one.look.crystal.id] == one.label
    assert remembered([], correction) == []


def test_own_rows_are_those_of_the_rounds_before():
    state = campaign(20)
    assert measured(state, 0, None) == []
    assert [row.kind for row in measured(state, 1, None)] == 9 * ["proposal"] + 20 * ["look"]
    assert len(screened_and_labelled(state)) == len(screened_and_labelled(state, 1)) == 9
    assert screened_and_labelled(state, 0) == []


def test_own_cells_take_the_places_of_earlier_ones():
    state, earlier = campaign(20), gathered(campaign(40))
    own, beside = taught(state, 1, earlier, cells=50)
    assert own == measured(state, 1, Correction.before(state, 1, earlier))
    assert len(beside) == 50 - 29
    assert taught(state, 1, earlier, cells=10) == (own, [])
    assert [len(rows) for rows in taught(state, 0, earlier, cells=50)] == [0, 50]
    assert taught(state, 0, [], cells=50) == ([], [])


@pytest.mark.parametrize(("most", "expected"), [(0, []), (2, [0, 3]), (4, [0, 1, 3, 4]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])])
def test_some_are_taken_evenly(most, expected):
    assert evenly(range(6), most) == expected


def test_the_command_takes_runs_of_one_potential(tmp_path):
    for name, potential in (("one", "a"), ("other", "b")):
        with History(tmp_path / name) as history:
            state = campaign(20)
            history.append(Start(campaign="a", facts={"potential": {"level_of_theory": potential}}))
            history.append(Picks(round=0, candidates=state.rounds[0].candidates, passed_over=state.rounds[0].passed_over))
    main([tmp_path / "one"], number=12, output=tmp_path / "table.parquet")
    assert len(experience("a", tmp_path / "table.parquet")) == 12
    with pytest.raises(typer.BadParameter, match="2 potentials"):
        main([tmp_path / "one", tmp_path / "other"], number=12, output=tmp_path / "table.parquet")
