"""The development data as training rows, with an account of what was left out and what contradicts itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from al_crystal.crystal import ATOMIC_NUMBER, LATTICE_PARAMETERS
from surrogates.features import Rows, concatenate
from surrogates.network import SOURCES

if TYPE_CHECKING:
    import pandas as pd

PROPERTIES = ("formation_energy_per_atom", "band_gap")
REFERENCE_LEVEL = "PBE"
"""The level of theory of the development data (PBE or PBE+U with the Materials Project's corrections)."""
KEPT_APART = ("wbm_val10k", "jarvis_dft_2500")
"""Seed sources that never train: WBM tests other chemistry, JARVIS is another level of theory (OptB88vdW)."""
OLDER_SCALE = ("matbench_join",)
"""Labels of the seed that were joined from MatBench: on the Materials Project's scale of 2018, as MatBench and WBM are."""
FOLDS = 10
TRAIN_FOLDS, CALIBRATION_FOLDS, TEST_FOLDS = tuple(range(3, FOLDS)), (2,), (0, 1)
"""The chemical systems are dealt into folds (:func:`fold_of`): some train, one calibrates, two are never touched."""
CONFLICT = (0.1, 0.5)
"""Two labels of the same composition and space group conflict when they differ by more than this (eV/atom, eV)."""


@dataclass(frozen=True)
class Table:
    """Crystals with labels.

    Attributes:
        rows: the crystals.
        targets: ``(n, 2)`` formation energy (eV/atom) and band gap (eV), NaN where missing.
        noise: ``(n, 2)`` one standard deviation of each label's error, 0 where none is stated.
        source: ``(n,)`` int64 indices into :data:`surrogates.network.SOURCES`.
        level: ``(n, 2)`` int64 for each label, 0 for :data:`REFERENCE_LEVEL`, otherwise one more than the index into ``levels``.
        levels: names of the other levels of theory.
        columns: further numpy columns by name, ``(n,)`` each (fold, in_22el, published_energy, ...).
    """

    rows: Rows
    targets: torch.Tensor
    noise: torch.Tensor
    source: torch.Tensor
    level: torch.Tensor
    levels: tuple[str, ...] = ()
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Table:
        where = torch.as_tensor(index)
        return replace(
            self,
            rows=self.rows[where],
            targets=self.targets[where],
            noise=self.noise[where],
            source=self.source[where],
            level=self.level[where],
            columns={name: column[where.numpy()] for name, column in self.columns.items()},
        )

    def of_folds(self, folds: tuple[int, ...]) -> Table:
        """The rows of these folds (column ``fold``)."""
        return self[torch.isin(torch.tensor(self.columns["fold"]).long(), torch.tensor(folds))]

    def without(self, origins: tuple[str, ...]) -> Table:
        """The rows that do not come from these sources (column ``origin``)."""
        return self[~torch.tensor([origin in origins for origin in self.columns["origin"]])]

    def without_cells(self) -> Table:
        """The same rows with the cell unknown."""
        return replace(self, rows=replace(self.rows, lattice_parameters=torch.full_like(self.rows.lattice_parameters, torch.nan)))

    def as_published(self) -> Table:
        """The same rows with the formation energies as their table states them (column ``published_energy``), whatever its scale.

        Without that column there is one scale only, and the rows are as they are.
        """
        if "published_energy" not in self.columns:
            return self
        published = torch.tensor(self.columns["published_energy"], dtype=torch.float32)
        return replace(self, targets=torch.stack([published, self.targets[:, 1]], dim=1))


def fold_of(symbols: Iterable[str]) -> int:
    """The fold of a chemical system in every table of the development data: the md5 of its sorted symbols modulo FOLDS."""
    return int(hashlib.md5("-".join(sorted(symbols)).encode()).hexdigest(), 16) % FOLDS


def join(tables: list[Table]) -> Table:
    """All rows of several tables; columns that all of them have are kept. Levels must agree."""
    if len({table.levels for table in tables}) > 1:
        raise ValueError(f"tables of different levels of theory cannot be joined: {[table.levels for table in tables]}")
    names = set.intersection(*(set(table.columns) for table in tables))
    return Table(
        rows=concatenate([table.rows for table in tables]),
        targets=torch.cat([table.targets for table in tables]),
        noise=torch.cat([table.noise for table in tables]),
        source=torch.cat([table.source for table in tables]),
        level=torch.cat([table.level for table in tables]),
        levels=tables[0].levels,
        columns={name: np.concatenate([table.columns[name] for table in tables]) for name in sorted(names)},
    )


def _table(rows: Rows, energy: Any, gap: Any, source: np.ndarray, columns: dict[str, np.ndarray]) -> Table:
    targets = torch.tensor(np.stack([np.asarray(energy, dtype=float), np.asarray(gap, dtype=float)], axis=1), dtype=torch.float32)
    zeros = torch.zeros_like(targets)
    return Table(rows, targets, zeros, torch.tensor(source, dtype=torch.int64), zeros.long(), (), columns)


def _source_of(name: str) -> int:
    for key, source in (("mp_20", "mp-20"), ("chemeleon_mp40", "mp-20"), ("mpts_52", "mpts-52")):
        if name.startswith(key):
            return SOURCES.index(source)
    return SOURCES.index("unknown" if name in KEPT_APART else "other")


Shift = Callable[[Mapping[str, float]], float]
"""From a composition to the eV per atom that lead from the Materials Project's formation energies of 2018 to those of 2020."""


def on_one_scale(frame: pd.DataFrame, older: Any, shift: Shift | None, name: str, report: dict[str, int]) -> Any:
    """``(n,)`` formation energies of ``frame`` (columns ``elements``: counts by symbol, and the property) on the scale of 2020.

    Until 2021 the Materials Project used other corrections: the two scales differ by up to 0.5 eV per atom of an anion (Wang et al.,
    Sci. Rep. 11, 15496 (2021)). ``older`` (n,) marks the rows on the scale of 2018; without a ``shift`` nothing is changed.
    """
    energies = frame[PROPERTIES[0]].to_numpy(float).copy()
    report[f"{name}: energies on the older scale, {'converted' if shift else 'not converted'}"] = int(older.sum())
    if shift is not None:
        energies[older] += np.array([shift(composition) for composition in frame["elements"][older]])
    return energies


def seed_table(data: Path, report: dict[str, int], shift: Shift | None = None) -> Table:
    """The seed crystals, cells known; rows without any label are counted in ``report`` and left out."""
    import pandas as pd

    frame = pd.read_parquet(data / "seed_crystals.parquet")
    empty = frame[list(PROPERTIES)].isna().all(axis=1)
    report["seed rows"], report["seed rows without a label, left out"] = len(frame), int(empty.sum())
    frame = frame[~empty].reset_index(drop=True)
    for name in KEPT_APART:
        report[f"seed rows of {name}, never trained on"] = int((frame["source"] == name).sum())
    _count_conflicts(frame, "composition", "space_group_number", "seed", report)
    frame["elements"] = [json.loads(text) for text in frame["composition"]]
    compositions = [{ATOMIC_NUMBER[symbol]: count for symbol, count in elements.items()} for elements in frame["elements"]]
    rows = Rows.from_compositions(compositions, frame["space_group_number"].to_numpy(), frame[list(LATTICE_PARAMETERS)].to_numpy(float))
    names = frame["source"].astype(str).to_numpy()
    older = (names == "wbm_val10k") | frame["ef_src"].isin(OLDER_SCALE).to_numpy()
    columns = {name: frame[name].to_numpy() for name in ("fold", "in_22el")} | {
        "origin": names,
        "formula": frame["formula"].to_numpy(object),
        "published_energy": frame[PROPERTIES[0]].to_numpy(float),
    }
    energies = on_one_scale(frame, older, shift, "seed", report)
    return _table(rows, energies, frame[PROPERTIES[1]], np.array([_source_of(name) for name in names]), columns)


def matbench_table(data: Path, report: dict[str, int], shift: Shift | None = None) -> Table:
    """The two MatBench tables, cells unknown; a composition and space group that is once in each becomes one row with both labels."""
    import pandas as pd

    energy = pd.read_parquet(data / "matbench_mp_e_form_comp_sg.parquet").rename(columns={"e_form": PROPERTIES[0]})
    gap = pd.read_parquet(data / "matbench_mp_gap_comp_sg.parquet").rename(columns={"band_gap_pbe": PROPERTIES[1]})
    keys = ["composition", "spg_num"]
    once = [frame[~frame.duplicated(keys, keep=False)] for frame in (energy, gap)]
    both = once[0].merge(once[1][[*keys, PROPERTIES[1]]], on=keys)
    taken = pd.MultiIndex.from_frame(both[keys])
    rest = [frame[~pd.MultiIndex.from_frame(frame[keys]).isin(taken)] for frame in (energy, gap)]
    for frame in (energy, gap):
        _count_conflicts(frame, "composition", "spg_num", "MatBench", report)
    frame = pd.concat([both, *rest], ignore_index=True)
    report["MatBench rows, energies"], report["MatBench rows, gaps"] = len(energy), len(gap)
    report["MatBench rows that carry both"] = len(both)
    frame["elements"] = [_parse(text) for text in frame["composition"]]
    compositions = [{ATOMIC_NUMBER[symbol]: count for symbol, count in elements.items()} for elements in frame["elements"]]
    rows = Rows.from_compositions(compositions, frame["spg_num"].to_numpy(), conventional=False)
    inside = {ATOMIC_NUMBER[symbol] for symbol in "H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se".split()}
    columns = {
        "fold": frame["fold"].to_numpy(),
        "in_22el": np.array([set(composition) <= inside for composition in compositions]),
        "origin": np.full(len(frame), "matbench", dtype=object),
        "formula": frame["formula"].to_numpy(object),
        "published_energy": frame[PROPERTIES[0]].to_numpy(float),
    }
    energies = on_one_scale(frame, np.ones(len(frame), dtype=bool), shift, "MatBench", report)
    return _table(rows, energies, frame[PROPERTIES[1]], np.full(len(frame), SOURCES.index("matbench")), columns)


def _parse(text: str) -> dict[str, float]:
    return {symbol: float(count) for symbol, count in re.findall(r"([A-Z][a-z]?)([0-9.]+)", text)}


def _count_conflicts(frame: pd.DataFrame, composition: str, group: str, name: str, report: dict[str, int]) -> None:
    for column, size in zip(PROPERTIES, CONFLICT, strict=True):
        if column in frame:
            spread = frame.groupby([composition, group], observed=True)[column].agg(lambda values: values.max() - values.min())
            report[f"{name}: composition and space group with {column} differing by more than {size}"] = int((spread > size).sum())


@dataclass(frozen=True)
class Deformations:
    """Relaxed crystals with wrong cells of each and what they cost.

    Attributes:
        rows: ``m`` crystals in their relaxed cells.
        crystal: ``(n,)`` int64, which crystal each cell belongs to.
        cells: ``(n, 6)`` lattice parameters in Å and degrees; the first of each crystal is its relaxed cell.
        energies: ``(n,)`` eV/atom above the relaxed cell.
        fold: ``(m,)``.
        in_22el: ``(m,)`` booleans.
    """

    rows: Rows
    crystal: torch.Tensor
    cells: torch.Tensor
    energies: torch.Tensor
    fold: np.ndarray
    in_22el: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: Any) -> Deformations:
        """The crystals that are marked in ``chosen`` (m,), booleans, with their cells."""
        mask = torch.as_tensor(chosen)
        kept = mask.numpy()
        where = mask[self.crystal]
        crystal = (mask.cumsum(0) - 1)[self.crystal[where]]
        return Deformations(self.rows[mask], crystal, self.cells[where], self.energies[where], self.fold[kept], self.in_22el[kept])

    def of_folds(self, folds: tuple[int, ...]) -> Deformations:
        """The crystals of these folds with their cells."""
        return self[np.isin(self.fold, folds)]

    def deformed(self) -> Rows:
        """``n`` rows: every crystal in each of its cells."""
        rows = self.rows[self.crystal]
        return replace(rows, lattice_parameters=self.cells)


def deformations(file: Path, report: dict[str, int]) -> Deformations:
    """The output of :mod:`surrogates.wrong_cells`; other shapes whose atoms did not come to rest are left out.

    So are crystals with a cell that has no energy, counted in ``report``: at twice the volume atoms may be out of reach of one another,
    in a loose crystal even in its own cell, and then no cell of it is left.
    """
    from surrogates.wrong_cells import other_shapes, read

    found = list(read(file))
    lines = [line for line in found if line["cells"] and np.isfinite(line["strain_energy_per_atom"]).all()]
    report["crystals with wrong cells"] = len(found)
    report["crystals with a cell that has no energy, left out"] = len(found) - len(lines)
    for line in lines:
        kept = np.full(len(line["cells"]), True) if line.get("at_rest") else ~other_shapes(np.array(line["cells"]))
        for name in ("cells", "strain_energy_per_atom"):
            line[name] = [value for value, keep in zip(line[name], kept, strict=True) if keep]
    compositions = [{ATOMIC_NUMBER[symbol]: count for symbol, count in line["composition"].items()} for line in lines]
    relaxed = np.array([line["cells"][0] for line in lines])
    sizes = [len(line["cells"]) for line in lines]
    return Deformations(
        Rows.from_compositions(compositions, [line["space_group_number"] for line in lines], relaxed),
        torch.tensor(np.repeat(np.arange(len(lines)), sizes)),
        torch.tensor(np.concatenate([line["cells"] for line in lines]), dtype=torch.float32),
        torch.tensor(np.concatenate([line["strain_energy_per_atom"] for line in lines]), dtype=torch.float32),
        np.array([line["fold"] for line in lines]),
        np.array([line["in_22el"] for line in lines]),
    )
