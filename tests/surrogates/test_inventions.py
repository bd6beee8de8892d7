import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from al_crystal.crystal import Value, expected_volume_per_atom
from surrogates import inventions
from surrogates.inventions import exchanged, invention_table, labelled, parents
from surrogates.tables import CALIBRATION_FOLDS, TEST_FOLDS, fold_of
from tests.surrogates.helpers import ROCK_SALT

SCALE = {"Li": 1.0, "Na": 2.0, "K": 3.0, "O": 80.0, "S": 81.0, "Cl": 90.0}


@pytest.fixture
def rock_salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_elements_are_exchanged_for_similar_ones_and_the_pattern_stays(rock_salt):
    drawn = [exchanged(rock_salt, SCALE, np.random.default_rng(seed)) for seed in range(300)]
    assert any(child is None for child in drawn)  # nothing changed
    pairs = []
    for child in (child for child in drawn if child is not None):
        symbols = {site.specie.symbol for site in child}
        assert len(symbols) == 2, "two elements never become one"
        assert child.composition.reduced_formula != "NaCl"
        assert child.get_space_group_info()[1] == 225
        assert child.volume / len(child) / expected_volume_per_atom(child.composition.get_el_amt_dict()) == pytest.approx(
            rock_salt.volume / len(rock_salt) / expected_volume_per_atom({"Na": 1, "Cl": 1}), rel=1e-6
        )
        pairs.append(symbols)
    assert sum("Li" in pair or "K" in pair for pair in pairs) > 100, "neighbours of sodium"
    assert sum({"Na", "Li", "K"} >= pair for pair in pairs) < 10, "chlorine hardly ever becomes a metal"


@pytest.mark.data
def test_no_parent_is_of_a_test_fold_and_every_child_is_of_the_fold_that_calibrates(data_folder):
    known, scale = parents(data_folder)
    assert len(known) > 1000
    assert all(fold_of({site.specie.symbol for site in known[number]}) not in TEST_FOLDS for number in range(0, len(known), 97))
    drawn = inventions.inventions(known, scale, 0)
    first = [next(drawn) for _ in range(30)]
    assert all(fold_of({site.specie.symbol for site in child}) in CALIBRATION_FOLDS for _, child in first)
    again = inventions.inventions(known, scale, first[10][0])
    for number, child in first[10:]:
        other, same = next(again)
        assert other == number
        assert same == child


def relax(structures):
    """Refuses structures of three atoms, six, ...; all others become rock salt."""
    value = Value(value=-0.25, level_of_theory="M3GNet", standard_deviation=0.05)
    return [None if len(structure) % 3 == 0 else (ROCK_SALT, value) for structure in structures]


def test_lines_become_rows_whose_noise_is_the_potentials(tmp_path, rock_salt):
    lines = list(labelled(iter([(4, rock_salt), (9, Structure(Lattice.cubic(4), ["Cu"] * 3, np.eye(3) / 2))]), relax))
    assert lines[1] is None
    file = tmp_path / "inventions.jsonl"
    file.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[0] | {"source_id": "5"}) + "\n")
    table = invention_table(file)
    assert len(table) == 2
    assert table.targets[0, 0] == -0.25
    assert table.targets[:, 1].isnan().all()
    assert table.noise.tolist() == [[pytest.approx(0.05), 0.0]] * 2
    assert table.rows.elements[0].tolist() == [8, 12]
    assert table.rows.lattice_parameters[0].tolist() == pytest.approx(list(ROCK_SALT.lattice_parameters))


def test_a_file_without_inventions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no inventions in"):
        invention_table(tmp_path / "nothing.jsonl")


def test_the_command_goes_on_behind_the_last_line(tmp_path, monkeypatch, rock_salt):
    monkeypatch.setattr(inventions, "parents", lambda data: ([rock_salt], SCALE))
    monkeypatch.setattr(inventions, "fold_of", lambda symbols: CALIBRATION_FOLDS[0])
    monkeypatch.setattr(inventions, "load_function", lambda path: relax)
    import typer

    app = typer.Typer()
    app.command()(inventions.main)

    def run(name: str, number: int) -> list[str]:
        result = CliRunner().invoke(app, [str(tmp_path / name), "--relax", "x:y", "--data", str(tmp_path), "--number", str(number)])
        assert result.exit_code == 0, result.output
        return (tmp_path / name).read_text().splitlines()

    run("a.jsonl", 5)
    (tmp_path / "a.jsonl").open("a").write('{"source": "torn')
    assert run("a.jsonl", 30) == run("b.jsonl", 30)
