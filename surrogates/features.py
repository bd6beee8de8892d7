"""Crystals as tensors for the networks: a set of elements with counts, a space group, and a cell that may be unknown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from al_crystal.crystal import element_volumes
from surrogates import input_kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from al_crystal.crystal import CrystalBatch

DATA = Path(__file__).parent / "data"
CRYSTAL_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
SPARSE_PROPERTIES = ("p_orbital_energy_eV", "s_orbital_energy_eV", "solid_state_energy_eV")
"""Known for less than two thirds of the elements: left out."""
SHAPE_FEATURES = 8
GLOBAL_FEATURES = 9
COUNT_FEATURES = 6
OCCUPATION_FEATURES = 13
FRACTION_FEATURES = 103
"""Hydrogen to lawrencium."""


@cache
def element_facts() -> dict[str, dict[str, float | None]]:
    """Properties by symbol, hydrogen to lawrencium (see :mod:`surrogates.tabulate`)."""
    return json.loads((DATA / "elements.json").read_text())["elements"]


@cache
def space_groups() -> dict[int, dict[str, Any]]:
    """Symmetry facts by space-group number (see :mod:`surrogates.tabulate`)."""
    return {int(number): facts for number, facts in json.loads((DATA / "space_groups.json").read_text())["space_groups"].items()}


@cache
def element_table() -> torch.Tensor:
    """``(104, properties)`` standardised properties by atomic number (row 0 is padding, zeros); missing values are the mean, 0."""
    rows = list(element_facts().values())
    names = [name for name in rows[0] if name not in SPARSE_PROPERTIES]
    values = np.array([[np.nan if row[name] is None else row[name] for name in names] for row in rows], dtype=float)
    values = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    return torch.tensor(np.vstack([np.zeros(len(names)), np.nan_to_num(values)]), dtype=torch.float32)


@cache
def space_group_table() -> torch.Tensor:
    """``(231, facts)`` one-hot crystal system, point group and centring, flags and scaled sizes by number (row 0 is zeros)."""
    facts = space_groups()
    point_groups = sorted({row["point_group"] for row in facts.values()})
    centrings = sorted({row["centring"] for row in facts.values()})
    rows = [[0.0] * (len(CRYSTAL_SYSTEMS) + len(point_groups) + len(centrings) + 8)]
    for row in facts.values():
        one_hot = [float(row["crystal_system"] == name) for name in CRYSTAL_SYSTEMS]
        one_hot += [float(row["point_group"] == name) for name in point_groups] + [float(row["centring"] == name) for name in centrings]
        flags = [float(row[name]) for name in ("centrosymmetric", "polar", "chiral")]
        sizes = [np.log(row["general_multiplicity"]) / 3, np.log(row["smallest_multiplicity"]) / 3]
        sizes += [
            row["fixed_positions"] / 4,
            np.log(row["positions"]) / 2,
            float(row["smallest_multiplicity"] < row["general_multiplicity"]),
        ]
        rows.append([*one_hot, *flags, *sizes])
    return torch.tensor(rows, dtype=torch.float32)


@cache
def _element_volumes() -> torch.Tensor:
    """``(104,)`` element volumes in Å3 by atomic number; 0 for the padding."""
    volumes = element_volumes()
    return torch.tensor([0.0] + [volumes[symbol] for symbol in element_facts()], dtype=torch.float32)


@cache
def _lattice_points() -> torch.Tensor:
    return torch.tensor([1.0] + [float(row["lattice_points"]) for row in space_groups().values()])


@cache
def _general_positions() -> torch.Tensor:
    """``(231,)`` multiplicity of the general position in the primitive cell."""
    return torch.tensor([1.0] + [float(row["general_multiplicity"]) for row in space_groups().values()]) / _lattice_points()


@dataclass(frozen=True)
class Rows:
    """Crystals as the networks read them.

    Attributes:
        elements: ``(n, most_elements)`` int64 atomic numbers, ascending, 0 where a crystal has fewer.
        counts: ``(n, most_elements)`` float32 atoms in the **primitive** cell (conventional count / lattice points), 0 for padding.
        space_group: ``(n,)`` int64.
        lattice_parameters: ``(n, 6)`` float32 of the conventional cell in Å and degrees; NaN where unknown.
    """

    elements: torch.Tensor
    counts: torch.Tensor
    space_group: torch.Tensor
    lattice_parameters: torch.Tensor

    def __len__(self) -> int:
        return int(self.space_group.shape[0])

    def __getitem__(self, index: Any) -> Rows:
        rows = Rows(*(getattr(self, field.name)[index] for field in fields(self)))
        most = max(1, int((rows.elements > 0).sum(1).max())) if len(rows) else 1
        return Rows(rows.elements[:, :most], rows.counts[:, :most], rows.space_group, rows.lattice_parameters)

    @classmethod
    def from_batch(cls, batch: CrystalBatch) -> Rows:
        """Of a batch of crystals, whose counts are those of the conventional cell.

        Raises:
            ValueError: for an empty composition, a space group outside 1-230 or an element beyond atomic number 103.
        """
        present = batch.counts > 0
        sizes = present.sum(1)
        if len(batch) and (not bool(sizes.all()) or int(batch.space_group.min()) < 1 or int(batch.space_group.max()) > 230):
            raise ValueError("every crystal needs at least one element and a space group from 1 to 230")
        if max(batch.elements, default=1) >= len(element_table()):
            raise ValueError(f"atomic number {max(batch.elements)} given; elements 1 to {len(element_table()) - 1} are tabulated")
        most = int(sizes.max()) if len(batch) else 1
        order = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        counts = batch.counts.gather(1, order).float()
        elements = torch.tensor(batch.elements, dtype=torch.int64)[order] * (counts > 0)
        lattice = batch.lattice_parameters.float()
        return cls(elements, counts / _lattice_points()[batch.space_group, None], batch.space_group, lattice)

    @classmethod
    def from_compositions(
        cls,
        compositions: Sequence[dict[int, float]],
        space_group: Sequence[int] | np.ndarray,
        lattice_parameters: np.ndarray | None = None,
        conventional: bool = True,
    ) -> Rows:
        """Of compositions {atomic number: atoms} of the conventional cell or, where ``conventional`` is false, the primitive one."""
        most = max(len(composition) for composition in compositions)
        elements = np.zeros((len(compositions), most), dtype=np.int64)
        counts = np.zeros((len(compositions), most), dtype=np.float32)
        for row, composition in enumerate(compositions):
            for column, (number, count) in enumerate(sorted(composition.items())):
                elements[row, column], counts[row, column] = number, count
        group = torch.tensor(np.asarray(space_group), dtype=torch.int64)
        amounts = torch.from_numpy(counts)
        if conventional:
            amounts = amounts / _lattice_points()[group, None]
        if lattice_parameters is None:
            lattice_parameters = np.full((len(compositions), 6), np.nan)
        return cls(torch.from_numpy(elements), amounts, group, torch.tensor(lattice_parameters, dtype=torch.float32))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """All rows of several, padded to the most elements."""
    most = max(part.elements.shape[1] for part in parts)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(tensor, (0, most - tensor.shape[1]))

    return Rows(
        torch.cat([padded(part.elements) for part in parts]),
        torch.cat([padded(part.counts) for part in parts]),
        torch.cat([part.space_group for part in parts]),
        torch.cat([part.lattice_parameters for part in parts]),
    )


def cell_features(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """What the cell says, free of its setting.

    Returns:
        ``(n,)`` log of the volume per atom over the composition's estimate, and ``(n, SHAPE_FEATURES)`` of the cell's shape: the
        sorted log lengths about their mean, the sines' defects |cos| of the angles, log(abc / volume), and the log of the atoms in the
        cell. No length stands in it: with one a network would read the volume that it is asked to expect. Both are 0 where the cell is
        unknown; a cell whose angles close no body counts as flat (volume floor of 1e-3 abc).
    """
    log_volume = torch.empty(len(rows), dtype=torch.float32)
    shape = torch.empty(len(rows), SHAPE_FEATURES, dtype=torch.float32)
    tables = _lattice_points().numpy(), _element_volumes().numpy()
    input_kernels.cell(rows.lattice_parameters.contiguous().numpy(), *_arrays(rows), *tables, log_volume.numpy(), shape.numpy())
    return log_volume, shape


def count_features(rows: Rows) -> torch.Tensor:
    """``(n, most_elements, COUNT_FEATURES)``: fraction, its root, log count, log count per general position, parity, is whole."""
    features = torch.zeros(*rows.counts.shape, COUNT_FEATURES, dtype=torch.float32)
    _, counts, group = _arrays(rows)
    input_kernels.count_elements(counts, group, _general_positions().numpy(), features.numpy())
    return features


def pooled_properties(rows: Rows, properties: torch.Tensor) -> torch.Tensor:
    """``(n, 4 p)``: mean and standard deviation by fraction, highest and lowest over the elements; ``properties`` ``(numbers, p)``."""
    pooled = torch.empty(len(rows), 4 * properties.shape[1], dtype=torch.float32)
    fraction = rows.counts / rows.counts.sum(1, keepdim=True).clamp(min=1e-6)
    input_kernels.pool_properties(properties.numpy(), rows.elements.contiguous().numpy(), fraction.numpy(), pooled.numpy())
    return pooled


@cache
def _positions() -> torch.Tensor:
    """``(231, 5)`` by space group: smallest multiplicity, that of positions with freedom, the general one; fixed and all positions."""
    names = ("smallest_multiplicity", "smallest_free_multiplicity", "general_multiplicity", "fixed_positions", "positions")
    return torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]] + [[float(row[name]) for name in names] for row in space_groups().values()])


def occupation_features(rows: Rows) -> torch.Tensor:
    """``(n, OCCUPATION_FEATURES)``: how the counts of the elements compare with the multiplicities of the Wyckoff positions.

    Whether atoms find room in a cell depends on it: elements that do not fill general positions sit on special ones (``broken``), those
    with fewer atoms than any position with freedom on fixed ones (``bound``).
    """
    smallest, free, general, fixed, positions = _positions()[rows.space_group].unbind(1)
    counts = rows.counts * _lattice_points()[rows.space_group, None]
    present = counts > 0
    orbits = torch.where(present, counts / general[:, None], torch.nan)
    broken = (present & ((orbits - orbits.round()).abs() > 1e-3)).sum(1).float()
    bound = (present & (counts < free[:, None] - 1e-3)).sum(1).float()
    number = present.sum(1).clamp(min=1).float()
    several = [orbits.nan_to_num(torch.inf).amin(1), orbits.nansum(1) / number, orbits.nan_to_num(-torch.inf).amax(1)]
    logs = [smallest, free, general, general / smallest, positions, *several, counts.sum(1)]
    return torch.stack([*(value.clamp(min=1e-4).log() for value in logs), fixed, broken, bound, number], dim=1)


def element_fractions(rows: Rows) -> torch.Tensor:
    """``(n, FRACTION_FEATURES)``: the fraction of each element, by atomic number from hydrogen on."""
    fraction = rows.counts / rows.counts.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.zeros(len(rows), FRACTION_FEATURES + 1).scatter_add(1, rows.elements, fraction)[:, 1:]


def global_features(rows: Rows) -> torch.Tensor:
    """``(n, GLOBAL_FEATURES)``: sizes, norms of the fractions, number of elements, parity of the electrons in the primitive cell."""
    features = torch.empty(len(rows), GLOBAL_FEATURES, dtype=torch.float32)
    input_kernels.size(*_arrays(rows), _lattice_points().numpy(), features.numpy())
    return features


def _arrays(rows: Rows) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Elements, counts and space groups as kernels take them."""
    return rows.elements.contiguous().numpy(), rows.counts.contiguous().numpy(), rows.space_group.contiguous().numpy()
