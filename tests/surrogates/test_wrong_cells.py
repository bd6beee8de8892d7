import gzip
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from al_crystal.crystal import LATTICE_PARAMETERS, cell_volume
from surrogates.tables import deformations
from surrogates.wrong_cells import (
    FREE_PARAMETERS,
    TEST_VOLUMES,
    at_rest,
    candidates,
    deformed,
    load_function,
    read,
    scaled,
    sheared,
    wrong_cells,
)

CELLS = {
    "triclinic": [5, 6, 7, 80, 95, 102],
    "monoclinic": [5, 6, 7, 90, 101, 90],
    "orthorhombic": [5, 6, 7, 90, 90, 90],
    "tetragonal": [5, 5, 7, 90, 90, 90],
    "trigonal": [5, 5, 9, 90, 90, 120],
    "hexagonal": [5, 5, 9, 90, 90, 120],
    "cubic": [5, 5, 5, 90, 90, 90],
}


def nothing(structures):
    return np.zeros(len(structures))


@pytest.mark.parametrize("system", CELLS)
def test_wrong_cells_stay_in_their_crystal_system(system):
    relaxed = np.array(CELLS[system], dtype=float)
    cells = wrong_cells(relaxed, system, False, np.random.default_rng(0))
    np.testing.assert_array_equal(cells[0], relaxed)
    assert len(cells) == (7 if system == "cubic" else len(cells))
    fixed = set(range(6)) - {index for tied in FREE_PARAMETERS[system] for index in tied}
    for cell in cells:
        assert cell_volume(cell.tolist()) > 0
        assert all(cell[index] == relaxed[index] for index in fixed)
        for tied in FREE_PARAMETERS[system]:
            assert np.allclose(cell[list(tied)], cell[tied[0]])


@pytest.mark.parametrize("system", [name for name in CELLS if name != "cubic"])
def test_shear_keeps_the_volume(system):
    relaxed = np.array(CELLS[system], dtype=float)
    for seed in range(20):
        cell = sheared(relaxed, system, 0.2, np.random.default_rng(seed))
        if cell is not None:
            assert cell_volume(cell.tolist()) == pytest.approx(cell_volume(relaxed.tolist()))
    assert sheared(np.array(CELLS["cubic"], dtype=float), "cubic", 0.2, np.random.default_rng(0)) is None


def test_deformed_structures_have_the_cells_asked_for():
    from pymatgen.core import Lattice, Structure

    rutile = Structure.from_spacegroup(136, Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
    relaxed = np.array([4.6, 4.6, 2.96, 90, 90, 90])
    cells = [relaxed, scaled(relaxed, 1.7), sheared(relaxed, "tetragonal", 0.2, np.random.default_rng(1))]
    structures, space_group = deformed(rutile, cells)
    assert space_group == 136
    for structure, cell in zip(structures, cells, strict=True):
        assert structure.volume == pytest.approx(cell_volume(cell.tolist()), rel=1e-6)
        assert sorted(structure.lattice.abc) == pytest.approx(sorted(cell[:3]), rel=1e-6)
        assert structure.get_space_group_info()[1] == 136
    assert structures[0].matches(rutile)


def test_deformed_primitive_cells_follow_the_conventional_one():
    from pymatgen.core import Lattice, Structure

    salt = Structure.from_spacegroup(225, Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    cubic = np.array([5.6, 5.6, 5.6, 90, 90, 90])
    structures, _ = deformed(salt, [cubic, scaled(cubic, 0.5)])
    assert [len(structure) for structure in structures] == [2, 2]
    assert structures[1].volume == pytest.approx(5.6**3 / 8)


def test_only_other_shapes_are_brought_to_rest():
    from pymatgen.core import Lattice, Structure

    rutile = Structure.from_spacegroup(136, Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
    relaxed = [4.6, 4.6, 2.96, 90, 90, 90]
    sheared_cell = [4.4, 4.4, 3.2, 90, 90, 90]
    squeezed = scaled(np.array(relaxed, dtype=float), 0.8).tolist()
    hopeless = [1.0, 1.0, 60.0, 90, 90, 90]
    line = {"cells": [relaxed, squeezed, sheared_cell, hopeless], "strain_energy_per_atom": [0.0, 0.4, 0.5, 9.0], "at_rest": False}
    seen = []

    def energies(structures):
        seen.extend(structure.lattice.c for structure in structures)
        return np.array([-8.0, -7.9, np.nan])

    found = at_rest(line, rutile, energies)
    assert len(seen) == 3
    assert found["cells"] == [relaxed, squeezed, sheared_cell]
    assert found["strain_energy_per_atom"] == pytest.approx([0.0, 0.4, 0.1])
    assert found["at_rest"]


def test_shapes_with_frozen_atoms_do_not_train(tmp_path):
    cells = [[4.6, 4.6, 2.96, 90, 90, 90], [4.4, 4.4, 3.2, 90, 90, 90]]
    line = {"source": "x", "source_id": "1", "fold": 3, "in_22el": True, "space_group_number": 136, "composition": {"Ti": 2, "O": 4}}
    line |= {"cells": cells, "strain_energy_per_atom": [0.0, 0.5], "at_rest": False}
    rested = line | {"source_id": "2", "at_rest": True}
    file = tmp_path / "cells.jsonl"
    torn = line | {"source_id": "3", "strain_energy_per_atom": [0.0, float("nan")]}  # atoms out of reach of one another
    loose = line | {"source_id": "4", "cells": [], "strain_energy_per_atom": [], "at_rest": True}  # out of reach in its own cell
    file.write_text("".join(json.dumps(one) + "\n" for one in (line, torn, loose, rested | {"at_rest": False}, rested)))
    report: dict[str, int] = {}
    found = deformations(file, report)
    assert report == {"crystals with wrong cells": 4, "crystals with a cell that has no energy, left out": 2}
    assert len(found) == 2
    assert found.crystal.tolist() == [0, 1, 1]


def fake_data(folder, number=6):
    (folder / "structures").mkdir(parents=True)
    lengths = [4 + 0.1 * index for index in range(number)]
    row = {"source": "mpts_52_val", "composition": json.dumps({"Na": 4, "Cl": 4}), "space_group_number": 225, "has_structure": True}
    row |= {"cell_setting": "spglib", "n_atoms_prim": 2, "in_22el": True}
    frame = pd.DataFrame([row | {"source_id": str(i), "formula": f"NaCl{i}", "fold": i % 4} for i in range(number)])
    for name in LATTICE_PARAMETERS:
        frame[name] = lengths if name in "abc" else 90.0
    frame.to_parquet(folder / "seed_crystals.parquet")
    with gzip.open(folder / "structures" / "a.jsonl.gz", "wt") as lines:
        for i, length in enumerate(lengths):
            positions = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
            other = [[(x + 0.5) % 1 for x in position] for position in positions]
            text = {
                "src": "mpts_52_val",
                "id": str(i),
                "lat": [length] * 3 + [90] * 3,
                "sp": ["Na"] * 4 + ["Cl"] * 4,
                "fc": positions + other,
            }
            lines.write(json.dumps(text) + "\n")


def test_command_goes_on_where_it_was_killed(tmp_path):
    import typer

    from surrogates.wrong_cells import main

    app = typer.Typer()
    app.command()(main)
    fake_data(tmp_path)
    output = tmp_path / "cells.jsonl"
    command = [str(output), "--energies", "tests.surrogates.test_wrong_cells:nothing", "--data", str(tmp_path)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    whole = {line["source_id"]: line for line in read(output)}
    assert len(whole) == 6
    lines = output.read_text().splitlines(keepends=True)
    output.write_text("".join(lines[:2]) + lines[2][:40])
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "4 crystals labelled" in result.output
    assert {line["source_id"]: line for line in read(output)} == whole
    found = deformations(output, {})
    assert len(found.of_folds((0, 1))) == 4
    assert len(found.of_folds((0, 1)).cells) == 4 * len(TEST_VOLUMES)


def test_crystals_to_test_on_are_drawn_as_they_come_and_large_ones_do_not_train(tmp_path):
    fake_data(tmp_path, 40)
    frame = pd.read_parquet(tmp_path / "seed_crystals.parquet")
    frame["n_atoms_prim"] = [40 if index % 8 < 4 else 2 for index in range(40)]  # in every fold half of the crystals are large
    frame["in_22el"] = frame["fold"].isin([0, 2])
    frame.to_parquet(tmp_path / "seed_crystals.parquet")
    rows = candidates(tmp_path, train=4, calibration=4, test=100, largest=16)
    assert sorted(row["fold"] for row in rows) == [0] * 10 + [1] * 10 + [2] * 2 + [3] * 4
    assert {row["n_atoms_prim"] for row in rows if row["fold"] < 2} == {2, 40}
    assert {row["n_atoms_prim"] for row in rows if row["fold"] >= 2} == {2}
    assert len(candidates(tmp_path, train=0, calibration=0, test=7, largest=16)) == 7


@pytest.mark.parametrize("path", ["math", "math:nothing_like_that"])
def test_energy_functions_that_are_not_there_are_refused(path):
    with pytest.raises(ValueError, match="names no function"):
        load_function(path)
