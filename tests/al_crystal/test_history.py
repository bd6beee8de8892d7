from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from al_crystal.crystal import Look, Screening, Value
from al_crystal.history import History, HistoryError, Labelled, Picks, Round, RoundState, Start, State, read
from al_crystal.measures import look_errors
from al_crystal.screening import corrected_prediction

from .examples import candidate, crystal, label

CRYSTALS = [crystal(index) for index in range(5)]


def _begin(history: History) -> None:
    history.append(Start(campaign="abc", facts={"potential": {"name": "M3GNet"}}))
    history.append(Picks(round=0, candidates=[candidate(item) for item in CRYSTALS]))


def test_the_largest_crystals_are_labelled_first(tmp_path):
    sizes = [4, 16, 8]
    crystals = [
        item.model_copy(update={"composition": {"Na": size // 2, "Cl": size // 2}}) for item, size in zip(CRYSTALS, sizes, strict=False)
    ]
    with History(tmp_path) as history:
        history.append(Start(campaign="abc", facts={}))
        history.append(Picks(round=0, candidates=[candidate(item) for item in crystals]))
        assert [item.number_of_atoms for item, _ in history.state.rounds[0].missing()] == [16, 8, 4]


def test_what_is_appended_is_read_again(tmp_path):
    with History(tmp_path) as history:
        _begin(history)
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[2])))
        history.append(Round(round=0, metrics={"labels": {"ok": 1}}))
        expected = history.state
    state = read(tmp_path / "history.jsonl")
    assert state == expected
    assert state.closed_rounds == 1
    assert [item.id for item, _ in state.rounds[0].missing()] == [item.id for item in CRYSTALS if item != CRYSTALS[2]]


def test_what_was_passed_over_is_kept_and_an_older_history_has_none(tmp_path):
    prediction = candidate(CRYSTALS[0]).prediction
    energy = Value(value=0.3, level_of_theory="PBE")
    look = Look(crystal=CRYSTALS[4], screening=Screening(formation_energy_per_atom=energy, surrogate=prediction))
    with History(tmp_path) as history:
        history.append(Start(campaign="abc", facts={}))
        history.append(Picks(round=0, candidates=[candidate(CRYSTALS[0])], passed_over=[look]))
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[0])))
    state = read(tmp_path / "history.jsonl")
    assert state.rounds[0].passed_over == [look]
    assert state.known_ids() == {CRYSTALS[0].id}, "it may be picked in another round"
    error = look_errors(state.rounds[0])
    assert error is not None
    assert (error["n"], error["mae"], error["coverage_90"]) == (1, pytest.approx(1.3), 0)
    older = Picks(round=0, candidates=[candidate(CRYSTALS[0])]).model_dump(exclude={"passed_over"})
    assert Picks.model_validate(older).passed_over == []
    assert look_errors(State(rounds=[RoundState([candidate(CRYSTALS[0])])]).rounds[0]) is None


def test_what_was_measured_is_what_was_looked_at_or_has_a_label(tmp_path):
    labelled, failed, passed_over, looked_at = CRYSTALS[:4]
    prediction = candidate(passed_over).prediction
    screening = Screening(formation_energy_per_atom=Value(value=0.3, level_of_theory="PBE"), surrogate=prediction)
    screened = candidate(looked_at).model_copy(update={"screening": screening})
    with History(tmp_path) as history:
        history.append(Start(campaign="abc", facts={}))
        candidates = [candidate(labelled), candidate(failed), screened]
        history.append(Picks(round=0, candidates=candidates, passed_over=[Look(crystal=passed_over, screening=screening)]))
        for one, status in ((labelled, "ok"), (failed, "rejected"), (looked_at, "ok")):
            history.append(Labelled(round=0, attempt=0, label=label(one, status)))
        assert history.state.measured() == [looked_at, passed_over, labelled]


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path, cut):
    with History(tmp_path) as history:
        _begin(history)
        whole = history.path.read_bytes()
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[0])))
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with History(tmp_path) as history:
        assert path.read_bytes() == whole
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[0])))
    assert set(read(path).rounds[0].labels) == {CRYSTALS[0].id}


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    with History(tmp_path) as history:
        _begin(history)
    path = tmp_path / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"{broken\n" + lines[1])
    with pytest.raises(HistoryError, match=r"history\.jsonl:1: this line"):
        read(path)


@pytest.mark.parametrize(
    "line",
    [
        Picks(round=2, candidates=[]),
        Labelled(round=0, attempt=0, label=label(crystal(99))),
        Labelled(round=7, attempt=0, label=label(CRYSTALS[0])),
        Round(round=7, metrics={}),
        Start(campaign="again", facts={}),
    ],
)
def test_a_line_that_does_not_follow_is_refused_and_not_written(tmp_path, line):
    with History(tmp_path) as history:
        _begin(history)
        before = history.path.read_bytes()
        with pytest.raises(HistoryError):
            history.append(line)
        assert history.path.read_bytes() == before


def test_one_driver_at_a_time(tmp_path):
    with History(tmp_path), pytest.raises(HistoryError, match=f"process {os.getpid()}"):
        History(tmp_path)
    with History(tmp_path):
        pass


def test_failed_labels_are_tried_again_rejected_ones_never(tmp_path):
    with History(tmp_path) as history:
        _begin(history)
        for item in CRYSTALS[2:]:
            history.append(Labelled(round=0, attempt=0, label=label(item)))
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[0], "rejected")))
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[1], "failed")))
        entry = history.state.rounds[0]
        assert entry.missing(retries=0) == []
        assert entry.missing(retries=1) == [(CRYSTALS[1], 1)]
        history.append(Labelled(round=0, attempt=1, label=label(CRYSTALS[1], "failed")))
        assert entry.missing(retries=1) == []


def _append_for_ever(folder: Path) -> None:
    with History(folder) as history:
        _begin(history)
        attempt = 0
        while True:
            for item in CRYSTALS:
                history.append(Labelled(round=0, attempt=attempt, label=label(item)))
            attempt += 1


def test_a_killed_writer_leaves_a_readable_history_and_no_lock(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_append_for_ever, args=(tmp_path,))
    process.start()
    path = tmp_path / "history.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with History(tmp_path) as history:
        assert set(history.state.rounds[0].labels) == {item.id for item in CRYSTALS}
    assert path.read_bytes().endswith(b"\n")


def test_the_table_has_a_row_a_candidate(tmp_path):
    with History(tmp_path) as history:
        _begin(history)
        history.append(Labelled(round=0, attempt=0, label=label(CRYSTALS[3], gap=1.5)))
        frame = history.state.to_frame()
    assert frame["id"].tolist() == [item.id for item in CRYSTALS]
    assert frame["status"].tolist() == ["unlabelled"] * 3 + ["ok", "unlabelled"]
    assert frame.loc[3, "labelled_band_gap"] == 1.5
    assert frame.loc[3, "proposal_formation_energy_per_atom"] == pytest.approx(-0.95)


def test_the_table_tells_a_look_from_what_the_surrogate_said_and_from_what_was_believed(tmp_path):
    plain = candidate(CRYSTALS[0])
    look = Screening(formation_energy_per_atom=Value(value=0.4, level_of_theory="potential"), surrogate=plain.prediction)
    believed = corrected_prediction(plain.prediction, 0.3, 0.05)
    screened = candidate(CRYSTALS[1]).model_copy(update={"prediction": believed, "screening": look})
    with History(tmp_path) as history:
        history.append(Start(campaign="x", facts={}))
        history.append(Picks(round=0, candidates=[plain, screened]))
    row = read(tmp_path / "history.jsonl").to_frame().iloc[1]
    energy = "formation_energy_per_atom"
    assert (row[f"screened_{energy}"], row[f"surrogate_{energy}"], row[f"predicted_{energy}"]) == (0.4, -1.0, 0.3)
    assert row["surrogate_band_gap"] == row["predicted_band_gap"] == 1.0
