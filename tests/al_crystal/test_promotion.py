"""Promotion rules: conditions, retries, references, and the lines that the history keeps of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from al_crystal.crystal import AtomicStructure, Label, Value
from al_crystal.history import History, Labelled, Picks, Start, read
from al_crystal.promotion import PromotionRule, conditions, missing, references, with_formation_energy
from al_crystal.results import promoted_above_hull
from oracles.dft.labelling import Promoted
from oracles.dft.settings import GpawSettings

from .examples import candidate, crystal

LEVEL = "PBE, at the geometry of {}"


def rule(**settings: Any) -> PromotionRule:
    return PromotionRule(to=GpawSettings(), **settings)


def magnesium_oxide() -> AtomicStructure:
    return AtomicStructure(
        lattice=((0.0, 2.1, 2.1), (2.1, 0.0, 2.1), (2.1, 2.1, 0.0)),
        species=("Mg", "O"),
        fractional_coordinates=((0, 0, 0), (0.5, 0.5, 0.5)),
    )


def dft_label(key: str, status: str = "ok", energy: float = -6.0, geometry: str = "M3GNet", attempt: int = 0) -> Label:
    value = Value(value=energy, level_of_theory=LEVEL.format(geometry))
    properties = {"energy_per_atom": value} if status == "ok" else {}
    return Label(
        crystal_id=key, status=status, reason="", properties=properties, structure=magnesium_oxide(), provenance={"attempt": attempt}
    )


def test_conditions_are_read_and_applied() -> None:
    assert conditions("e_above_hull < 0.05 and band_gap >= 1e-1") == [("e_above_hull", "<", 0.05), ("band_gap", ">=", 0.1)]
    assert conditions("") == []
    picky = rule(when="e_above_hull < 0.05 and number_of_atoms <= 8")
    assert picky.admits({"e_above_hull": 0.01, "number_of_atoms": 8})
    assert not picky.admits({"e_above_hull": 0.05, "number_of_atoms": 8})
    assert not picky.admits({"e_above_hull": None, "number_of_atoms": 8})
    assert not picky.admits({"e_above_hull": float("nan"), "number_of_atoms": 8})


@pytest.mark.parametrize(
    ("when", "said"),
    [("band_gap", "is not a condition"), ("gap < 1", "'gap' is not known here; allowed: "), ("band_gap < 1 or x", "not a condition")],
)
def test_unreadable_conditions_are_refused(when: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rule(when=when)


def test_promotions_are_lines_of_their_own(tmp_path: Path) -> None:
    picked = candidate(crystal())
    potential = Label(crystal_id=picked.id, status="ok", reason="relaxed")
    with History(tmp_path) as history:
        history.append(Start(campaign="x", facts={}))
        history.append(Picks(round=0, candidates=[picked]))
        history.append(Labelled(round=0, attempt=0, label=potential))
        history.append(Labelled(round=0, attempt=0, label=dft_label(picked.id, "failed"), promotion="gpaw"))
    state = read(tmp_path / "history.jsonl")
    entry = state.rounds[0]
    assert entry.labels[picked.id] == potential  # the potential's label stays
    promoted = [Promoted(id=picked.id, structure=magnesium_oxide())]
    assert missing(rule(), entry, promoted, retries=1) == [(promoted[0], 1)]
    assert missing(rule(), entry, promoted, retries=0) == []
    state.add(Labelled(round=0, attempt=1, label=dft_label(picked.id), promotion="gpaw"))
    assert missing(rule(), entry, promoted, retries=1) == []
    row = state.to_frame().iloc[0]
    assert (row["status"], row["gpaw_status"], row["gpaw_energy_per_atom"]) == ("ok", "ok", -6.0)
    assert state.observations() == []  # another level of theory teaches the surrogate nothing


def test_references_are_computed_once_and_retried_when_they_failed(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def compute(tasks: Iterable[tuple[Promoted, int]]) -> Iterable[Label]:
        for one, attempt in tasks:
            asked.append((one.id, attempt))
            status = "failed" if one.id == "reference-O" and attempt == 0 else "ok"
            yield dft_label(one.id, status, geometry="the element", attempt=attempt)

    assert set(references({"Mg", "O", "Mn"}, tmp_path, 1, compute)) == {"Mg", "O"}  # Mn has no simple reference state
    labels = references({"Mg", "O", "Mn"}, tmp_path, 1, compute)
    assert {key: label.status for key, label in labels.items()} == {"Mg": "ok", "O": "ok"}
    references({"Mg", "O"}, tmp_path, 1, compute)
    assert asked == [("reference-Mg", 0), ("reference-O", 0), ("reference-O", 1)]


def test_formation_energy_or_the_reason_why_not() -> None:
    elements = {symbol: dft_label(symbol, energy=energy, geometry="the element") for symbol, energy in {"Mg": -1.6, "O": -4.8}.items()}
    value = with_formation_energy(dft_label("MgO"), elements).properties["formation_energy_per_atom"]
    assert value.value == pytest.approx(-6.0 + (1.6 + 4.8) / 2)
    assert value.level_of_theory == "PBE, at the geometry of M3GNet, uncorrected formation energy"
    assert "references: withhold" in with_formation_energy(dft_label("MgO"), None).checks["formation_energy_per_atom"]
    assert "no reference energy of O" in with_formation_energy(dft_label("MgO"), {"Mg": elements["Mg"]}).checks["formation_energy_per_atom"]
    failed = {**elements, "O": dft_label("O", "failed")}
    assert "no reference energy of O" in with_formation_energy(dft_label("MgO"), failed).checks["formation_energy_per_atom"]


def test_hull_of_promoted_labels_holds_one_level_and_the_elements(tmp_path: Path) -> None:
    """MgO at -3 eV/atom; another label of the same composition lies above it, one of another level does not see it."""
    picks = [candidate(crystal(index)) for index in range(3)]
    with History(tmp_path) as history:
        history.append(Start(campaign="x", facts={}))
        history.append(Picks(round=0, candidates=picks))
        for picked, energy, level in zip(picks, (-3.0, -2.8, -2.5), ("PBE", "PBE", "r2SCAN"), strict=True):
            value = Value(value=energy, level_of_theory=level)
            label = dft_label(picked.id).model_copy(update={"properties": {"formation_energy_per_atom": value}})
            history.append(Labelled(round=0, attempt=0, label=label, promotion="gpaw"))
    above = promoted_above_hull(history.state)["gpaw"]
    assert [above[picked.id] for picked in picks] == pytest.approx([0.0, 0.2, 0.0], abs=1e-6)
