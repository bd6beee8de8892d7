"""Ways to put a composition on the Wyckoff positions of a space group, and the atoms of each way.

The tables are PyXtal's (International Tables, conventional cell, hexagonal axes for the rhombohedral groups); cells are built in the
primitive setting, with the operations of the group itself, so that no symmetry has to be found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import islice

import numpy as np

from al_crystal.crystal import ATOMIC_NUMBER, Crystal
from oracles.symmetric_cell import SymmetricCell

PRIMITIVE_VECTORS: dict[str, list[list[float]]] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]],
    "C": [[1 / 2, -1 / 2, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]],
    "I": [[-1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [1 / 2, 1 / 2, -1 / 2]],
    "F": [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}
"""Rows: primitive lattice vectors in terms of the conventional ones, by centring (obverse setting for R)."""

RESTARTS = 30
"""How often a sample of ways starts anew from the top of its search tree."""


@dataclass(frozen=True)
class Site:
    """A Wyckoff position of one space group, in the primitive setting.

    Attributes:
        letter: Wyckoff letter. multiplicity: atoms in the conventional cell. freedom: number of free coordinates.
        affine: ``(3, 4)``; representative = affine[:, :3] @ p + affine[:, 3] for any p in the unit cube.
        rotations, translations: ``(atoms, 3, 3)`` and ``(atoms, 3)``; they make the atoms of the primitive cell from the representative.
        projector: ``(3, 3)`` displacements of the representative that its site symmetry leaves free.
    """

    letter: str
    multiplicity: int
    freedom: int
    affine: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    projector: np.ndarray


@dataclass(frozen=True)
class GroupSites:
    """The Wyckoff positions of a space group, most general first, and its point group, in the primitive setting."""

    space_group: int
    primitive: np.ndarray
    rotations: np.ndarray
    sites: tuple[Site, ...]


@cache
def group_sites(space_group: int) -> GroupSites:
    """The sites of a space group (1 to 230)."""
    from pyxtal.symmetry import Group

    group = Group(space_group)
    positions = group.Wyckoff_positions
    primitive = np.array(PRIMITIVE_VECTORS[group.symbol[0]], dtype=float)
    to_primitive = np.linalg.inv(primitive.T)  # fractional column vectors, conventional -> primitive
    rotations, translations = _coset_representatives(positions[0].ops, to_primitive)
    sites = []
    for position in positions:
        matrix = np.array(position.ops[0].affine_matrix, dtype=np.float64)
        affine = np.column_stack([to_primitive @ matrix[:3, :3], to_primitive @ matrix[:3, 3]])
        sites.append(_site(position, affine, rotations, translations))
    return GroupSites(space_group, primitive, np.unique(rotations, axis=0), tuple(sites))


def _coset_representatives(operations: Sequence[object], to_primitive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One operation per rotation, in the primitive setting: the group modulo its (primitive) lattice translations."""
    from_primitive = np.linalg.inv(to_primitive)
    rotations: list[np.ndarray] = []
    translations: list[np.ndarray] = []
    for operation in operations:
        matrix = np.array(operation.affine_matrix, dtype=np.float64)  # type: ignore[attr-defined]
        rotation = np.round(to_primitive @ matrix[:3, :3] @ from_primitive)
        if not any(np.array_equal(rotation, other) for other in rotations):
            rotations.append(rotation)
            translations.append(to_primitive @ matrix[:3, 3])
    return np.array(rotations), np.array(translations)


def _site(position: object, affine: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> Site:
    """Which operations make distinct atoms of a Wyckoff position, and which leave its representative where it is."""
    generic = affine[:, :3] @ np.array([0.1357, 0.2468, 0.3719]) + affine[:, 3]
    images = np.einsum("oij,j->oi", rotations, generic) + translations
    difference = images[:, None] - images[None]
    same = (np.abs(difference - np.round(difference)) < 1e-6).all(axis=2)
    distinct = [index for index in range(len(images)) if not same[index, :index].any()]
    offset = images - generic
    stabiliser = (np.abs(offset - np.round(offset)) < 1e-6).all(axis=1)
    return Site(
        letter=position.letter,  # type: ignore[attr-defined]
        multiplicity=int(position.multiplicity),  # type: ignore[attr-defined]
        freedom=int(np.linalg.matrix_rank(affine[:, :3])),
        affine=affine,
        rotations=rotations[distinct],
        translations=translations[distinct],
        projector=rotations[stabiliser].mean(axis=0),
    )


@dataclass(frozen=True)
class Assignment:
    """One way to put a composition on Wyckoff positions: (element symbol, index of the site) for each occupied site."""

    space_group: int
    occupied: tuple[tuple[str, int], ...]

    @cached_property
    def sites(self) -> list[Site]:
        """The occupied sites."""
        table = group_sites(self.space_group).sites
        return [table[index] for _, index in self.occupied]

    @property
    def freedom(self) -> int:
        """Free coordinates altogether."""
        table = group_sites(self.space_group).sites  # not self.sites: of tens of thousands of ways most are only counted
        return sum(table[index].freedom for _, index in self.occupied)

    @property
    def label(self) -> str:
        """Such as ``Mg:a O:b``."""
        return " ".join(f"{symbol}:{site.letter}" for (symbol, _), site in zip(self.occupied, self.sites, strict=True))

    def template(self, lattice: np.ndarray, fixed_cell: bool) -> SymmetricCell:
        """A cell with the lattice (conventional, rows, Å) whose representatives are still to be placed."""
        group = group_sites(self.space_group)
        return SymmetricCell(
            lattice=group.primitive @ lattice,
            positions=np.zeros((len(self.sites), 3)),
            numbers=np.array([ATOMIC_NUMBER[symbol] for symbol, _ in self.occupied]),
            orbit=np.repeat(np.arange(len(self.sites)), [len(site.rotations) for site in self.sites]),
            rotations=np.concatenate([site.rotations for site in self.sites]),
            translations=np.concatenate([site.translations for site in self.sites]),
            site_projectors=np.stack([site.projector for site in self.sites]),
            point_group=group.rotations,
            fixed_cell=fixed_cell,
        )

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """``(count, sites, 3)`` random representatives (fractional, primitive setting)."""
        cube = generator.random((count, len(self.sites), 3))
        linear = np.stack([site.affine[:, :3] for site in self.sites])
        constant = np.stack([site.affine[:, 3] for site in self.sites])
        return np.einsum("sij,csj->csi", linear, cube) + constant


def conventional_lattice(crystal: Crystal) -> np.ndarray:
    """``(3, 3)`` rows: the lattice vectors of a crystal's conventional cell in Å."""
    from pymatgen.core import Lattice

    return np.array(Lattice.from_parameters(*crystal.lattice_parameters).matrix)


def assignments(
    space_group: int, composition: Mapping[str, int], limit: int, generator: np.random.Generator | None = None
) -> list[Assignment]:
    """All ways to put a composition (atoms in the conventional cell) on the Wyckoff positions, or ``limit`` of them at random.

    A position without free coordinates holds one set of atoms at most; the others any number. With more than ``limit`` ways, the
    search visits its branches in random order (``generator``) and leaves each after a few, so that what it returns is a sample.
    """
    remaining = tuple((symbol, composition[symbol]) for symbol in sorted(composition, key=lambda symbol: composition[symbol]))
    every = _every(space_group, remaining, limit)
    if len(every) <= limit or generator is None:
        return list(every[:limit])
    sites = group_sites(space_group).sites
    sampled: set[tuple[tuple[str, int], ...]] = set()
    for _ in range(RESTARTS):
        for occupied in islice(_fill(sites, remaining, frozenset(), generator, [20 * limit]), max(1, limit // RESTARTS)):
            sampled.add(tuple(occupied))
    return [Assignment(space_group, occupied) for occupied in sorted(sampled)]


@lru_cache(maxsize=2)  # a label asks four times for those of one crystal, and there may be tens of thousands
def _every(space_group: int, remaining: tuple[tuple[str, int], ...], limit: int) -> tuple[Assignment, ...]:
    """The first ``limit`` ways to put what remains on the sites of a group, and one more where there are more."""
    found = _fill(group_sites(space_group).sites, remaining, frozenset(), None, [20 * limit + 20_000])
    return tuple(Assignment(space_group, tuple(occupied)) for occupied in islice(found, limit + 1))


def _fill(
    sites: Sequence[Site],
    remaining: Sequence[tuple[str, int]],
    taken: frozenset[int],
    generator: np.random.Generator | None,
    budget: list[int],
) -> Iterator[list[tuple[str, int]]]:
    """Depth first: all choices of sites for the first element, then for the others on what is left."""
    if not remaining:
        yield []
        return
    (symbol, count), others = remaining[0], remaining[1:]
    for chosen in _partitions(sites, count, 0, taken, generator, budget):
        now_taken = taken | {index for index in chosen if sites[index].freedom == 0}
        for rest in _fill(sites, others, now_taken, generator, budget):
            yield [(symbol, index) for index in chosen] + rest
            if generator is not None and others and generator.random() < 0.5:
                break  # a sample should not spend itself on the last elements of one branch


def _partitions(
    sites: Sequence[Site],
    count: int,
    first: int,
    taken: frozenset[int],
    generator: np.random.Generator | None,
    budget: list[int],
) -> Iterator[tuple[int, ...]]:
    """Multisets of sites (indices ascending from ``first``) whose multiplicities add up to ``count``."""
    if count == 0:
        yield ()
        return
    order: Iterable[int] = range(first, len(sites))
    if generator is not None:
        shuffled = np.arange(first, len(sites))
        generator.shuffle(shuffled)
        order = shuffled.tolist()
    for index in order:
        site = sites[index]
        if site.multiplicity > count or index in taken:
            continue
        budget[0] -= 1
        if budget[0] < 0:
            return
        following = index + (1 if site.freedom == 0 else 0)
        for rest in _partitions(sites, count - site.multiplicity, following, taken, generator, budget):
            yield (index, *rest)
