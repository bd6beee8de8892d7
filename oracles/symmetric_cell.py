"""A crystal as its asymmetric unit: representative atoms, and for each atom of the primitive cell the operation that makes it.

Energies of a network whose features are invariant need to look at the representatives only (equivalent atoms have equal features),
and a relaxation that keeps the symmetry has only the freedom of the Wyckoff positions and of the lattice system. Without
symmetry every atom is its own representative, so both kinds of relaxation are the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC = 1e-3
"""Å; structures built from Wyckoff positions are exact to far less than this."""
STRAIN_LENGTH = 4.0  # Å that a strain of 1 is worth when a crystal is stirred


@dataclass(frozen=True)
class SymmetricCell:
    """Representative atoms of a (primitive) cell and the operations that generate the others.

    Attributes:
        lattice: ``(3, 3)`` Å, rows are the lattice vectors.
        positions: ``(orbits, 3)`` fractional coordinates of the representatives.
        numbers: ``(orbits,)`` atomic numbers.
        orbit: ``(atoms,)`` the representative each atom belongs to.
        rotations: ``(atoms, 3, 3)`` and translations: ``(atoms, 3)``: atom = rotation @ representative + translation (fractional).
        site_projectors: ``(orbits, 3, 3)`` fractional; the displacements that the site symmetry leaves free.
        point_group: ``(operations, 3, 3)`` rotations of the whole crystal, fractional.
        fixed_cell: whether a relaxation leaves the lattice alone.
    """

    lattice: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    orbit: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    site_projectors: np.ndarray
    point_group: np.ndarray
    fixed_cell: bool = False

    @classmethod
    def from_structure(cls, structure: Structure, *, symprec: float | None = SYMPREC, fixed_cell: bool = False) -> SymmetricCell:
        """The symmetrised primitive cell of a structure, or with ``symprec=None`` the structure as it is, without symmetry.

        ``symprec`` is in Å, the tolerance that spglib finds the symmetry with; where it finds none, the structure is taken as it is.
        """
        numbers = np.array([site.specie.Z for site in structure])
        cell = (structure.lattice.matrix, structure.frac_coords, numbers)
        return cls.from_arrays(*cell, symprec=symprec, fixed_cell=fixed_cell)

    @classmethod
    def from_arrays(
        cls, lattice: np.ndarray, positions: np.ndarray, numbers: np.ndarray, *, symprec: float | None = SYMPREC, fixed_cell: bool = False
    ) -> SymmetricCell:
        """As :meth:`from_structure`, of lattice vectors (rows, Å), fractional coordinates and atomic numbers."""
        import spglib

        if symprec is not None:
            try:
                cell: Any = (lattice, positions, numbers)
                primitive: Any = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=symprec)
                symmetry = spglib.get_symmetry(primitive, symprec=symprec) if primitive is not None else None
            except spglib.SpglibError:
                symmetry = None
            if symmetry is not None:
                rotations = np.asarray(symmetry["rotations"], dtype=float)
                translations = np.asarray(symmetry["translations"])
                basis, coordinates, kinds = primitive
                return cls._from_operations(basis, coordinates, kinds, rotations, translations, symmetry["equivalent_atoms"], fixed_cell)
        identity = np.eye(3)[None]
        return cls._from_operations(lattice, positions, numbers, identity, np.zeros((1, 3)), np.arange(len(numbers)), fixed_cell)

    @classmethod
    def _from_operations(
        cls,
        lattice: np.ndarray,
        positions: np.ndarray,
        numbers: np.ndarray,
        rotations: np.ndarray,
        translations: np.ndarray,
        equivalent: np.ndarray,
        fixed_cell: bool,
    ) -> SymmetricCell:
        """Find, for each atom, an operation that makes it from its representative, and the free displacements of each representative."""
        representatives, orbit = np.unique(equivalent, return_inverse=True)
        images = np.einsum("oij,aj->oai", rotations, positions[representatives]) + translations[:, None]  # (operations, orbits, 3)
        atom_rotations = np.empty((len(numbers), 3, 3))
        atom_translations = np.empty((len(numbers), 3))
        for atom, own in enumerate(orbit):
            difference = images[:, own] - positions[atom]
            shift = np.round(difference)
            operation = int(np.argmin(np.linalg.norm((difference - shift) @ lattice, axis=1)))
            atom_rotations[atom] = rotations[operation]
            atom_translations[atom] = translations[operation] - shift[operation]
        projectors = np.empty((len(representatives), 3, 3))
        for own, representative in enumerate(representatives):
            difference = images[:, own] - positions[representative]
            stabiliser = np.linalg.norm((difference - np.round(difference)) @ lattice, axis=1) < 0.05
            projectors[own] = rotations[stabiliser].mean(axis=0)
        return cls(
            lattice=np.array(lattice, dtype=float),
            positions=np.array(positions[representatives], dtype=float),
            numbers=np.array(numbers[representatives]),
            orbit=orbit,
            rotations=atom_rotations,
            translations=atom_translations,
            site_projectors=projectors,
            point_group=np.unique(rotations, axis=0),
            fixed_cell=fixed_cell,
        )

    @property
    def number_of_atoms(self) -> int:
        """Atoms in the (primitive) cell."""
        return len(self.orbit)

    @cached_property
    def multiplicities(self) -> np.ndarray:
        """``(orbits,)`` atoms that each representative stands for."""
        return np.bincount(self.orbit)

    @property
    def volume(self) -> float:
        """Å3 of the (primitive) cell."""
        return abs(float(np.linalg.det(self.lattice)))

    @cached_property
    def atom_positions(self) -> np.ndarray:
        """``(atoms, 3)`` fractional coordinates of all atoms, not wrapped into the cell."""
        return np.einsum("aij,aj->ai", self.rotations, self.positions[self.orbit]) + self.translations

    def moved(self, lattice: np.ndarray, positions: np.ndarray) -> SymmetricCell:
        """The same crystal with another lattice and other representative positions (fractional)."""
        return replace(self, lattice=lattice, positions=positions)

    def without_symmetry(self) -> SymmetricCell:
        """The same atoms, each its own representative."""
        numbers = self.numbers[self.orbit]
        return self.from_arrays(self.lattice, self.atom_positions, numbers, symprec=None, fixed_cell=self.fixed_cell)

    def to_structure(self) -> Structure:
        """All atoms as a pymatgen ``Structure``."""
        from pymatgen.core import Element, Structure

        species = [Element.from_Z(int(number)) for number in self.numbers[self.orbit]]
        return Structure(self.lattice, species, self.atom_positions, to_unit_cell=True)

    def to_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lattice, fractional coordinates and atomic numbers of all atoms: the cell that spglib takes."""
        return self.lattice, self.atom_positions, self.numbers[self.orbit]

    def on_representatives(self, forces: np.ndarray) -> np.ndarray:
        """Cartesian vectors on all atoms ``(atoms, 3)``, averaged over each orbit in the frame of its representative, ``(orbits, 3)``."""
        columns = self.lattice.T
        cartesian = np.einsum("ij,ajk,kl->ail", columns, self.rotations, np.linalg.inv(columns))
        turned_back = np.einsum("aji,aj->ai", cartesian, forces)  # the inverse of an orthogonal matrix is its transpose
        totals = np.zeros((len(self.numbers), 3))
        np.add.at(totals, self.orbit, turned_back)
        return totals / self.multiplicities[:, None]

    @cached_property
    def strain_projector(self) -> np.ndarray:
        """``(9, 9)`` on flattened 3x3 tensors: symmetric strains that the point group leaves unchanged (at the present lattice)."""
        cartesian = self.point_group_cartesian
        averaged = np.einsum("oik,ojl->ijkl", cartesian, cartesian) / len(cartesian)
        symmetrised = (averaged + averaged.transpose(0, 1, 3, 2)) / 2
        return symmetrised.reshape(9, 9)

    @cached_property
    def point_group_cartesian(self) -> np.ndarray:
        """``(operations, 3, 3)`` rotations acting on Cartesian column vectors."""
        columns = self.lattice.T
        return np.einsum("ij,ojk,kl->oil", columns, self.point_group, np.linalg.inv(columns))

    def symmetric_stress(self, stress: np.ndarray) -> np.ndarray:
        """The part of a ``(3, 3)`` tensor that the point group leaves unchanged."""
        return (self.strain_projector @ stress.reshape(9)).reshape(3, 3)

    def symmetric_forces(self, forces: np.ndarray) -> np.ndarray:
        """The part of Cartesian forces on the representatives ``(orbits, 3)`` that their site symmetry allows."""
        inverse = np.linalg.inv(self.lattice)
        return np.einsum("oij,oj->oi", self.site_projectors, forces @ inverse) @ self.lattice


def conventional(cell: SymmetricCell) -> SymmetricCell:
    """The conventional cell that spglib finds, without symmetry; the cell itself, likewise, where it finds none."""
    import spglib

    arrays: Any = cell.to_arrays()
    try:
        found: Any = spglib.standardize_cell(arrays, to_primitive=False, no_idealize=False, symprec=0.01)
    except spglib.SpglibError:
        found = None
    if found is None:
        return cell.without_symmetry()
    return SymmetricCell.from_arrays(*found, symprec=None, fixed_cell=cell.fixed_cell)


def stirred(cell: SymmetricCell, generator: np.random.Generator, amplitude: float) -> SymmetricCell:
    """The crystal with its symmetry forgotten and disturbed, so that it can leave a saddle point.

    Its atoms are moved by up to ``amplitude`` Å along each axis, its cell strained by up to ``amplitude`` / 4 Å.
    """
    free = cell.without_symmetry()
    strain = generator.uniform(-amplitude, amplitude, size=(3, 3)) / STRAIN_LENGTH
    lattice = free.lattice @ (np.eye(3) + (strain + strain.T) / 2)
    moves = generator.uniform(-amplitude, amplitude, size=free.positions.shape)
    return replace(free, lattice=lattice, positions=free.positions + moves @ np.linalg.inv(lattice))
