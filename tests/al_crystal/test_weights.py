"""The weights command: what it finds, what it copies, and what it says when there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from al_crystal.weights import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_where_names_the_source_and_its_sha256() -> None:
    code, said = run("where", "CHGNet")
    assert code == 0
    assert "weights from its wheel" in said
    assert len(said.split("sha256 ")[1].strip()) == 64


def test_where_there_is_nothing(tmp_path: Path) -> None:
    code, said = run("where", "M3GNet", "--folder", str(tmp_path))
    assert code == 1
    assert "M3GNet: not here" in said
    assert str(tmp_path) in said


@pytest.mark.models
def test_fetch_copies_what_the_campaign_then_finds(models_folder: Path, tmp_path: Path) -> None:
    code, said = run("fetch", str(tmp_path / "weights"), "M3GNet")
    assert code == 0, said
    assert run("where", "M3GNet", "--folder", str(tmp_path / "weights"))[0] == 0
    code, said = run("verify", "M3GNet", "--folder", str(tmp_path / "weights"))
    assert code == 0
    assert "passes the self-test" in said


@pytest.mark.models
def test_damaged_weights_are_refused(models_folder: Path, tmp_path: Path) -> None:
    run("fetch", str(tmp_path), "M3GNet")
    (state,) = tmp_path.glob("*/state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    code, said = run("verify", "M3GNet", "--folder", str(tmp_path))
    assert code == 1
    assert "must not label" in said
