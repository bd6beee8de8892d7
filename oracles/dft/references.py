"""The elements at rest, which formation energies are counted from.

Crystals are those of the Delta project at their PBE volumes (Lejaeghere et al., Science 351, aad3000, 2016; ASE's ``dcdft``); H2, N2, O2
and F2 are molecules in a box (ASE's ``g2``), and sulphur is its ring of eight (bonds of 2.055 Å, angles of 108.2 degrees: Rettig and
Trotter, Acta Cryst. C 43, 2260, 1987), because its crystal has 32 atoms in the primitive cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from al_crystal.crystal import AtomicStructure, Value

if TYPE_CHECKING:
    from ase import Atoms

VACUUM = 3.0  # Å on each side of a molecule
MOLECULES = ("H", "N", "O", "F", "S")
NOT_THE_GROUND_STATE = ("Mn", "Hg")
"""The Delta project calculates these in a simpler structure than that of their ground state."""
UNPAIRED = {"O": 1.0}  # Bohr magnetons per atom of the molecules that are no singlets
SULPHUR_BOND, SULPHUR_ANGLE = 2.055, 108.2


class NoReference(ValueError):
    """There is no reference state of an element here; its formation energies are withheld."""


def reference_structure(element: str) -> AtomicStructure:
    """The reference state of an element: a primitive cell, or a molecule in a box.

    Raises:
        NoReference: for elements that the Delta project does not have (lanthanides, actinides) or not in their ground state.
    """
    from ase.build import molecule
    from ase.collections import dcdft
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    if element in MOLECULES:
        atoms = _ring_of_sulphur() if element == "S" else molecule(f"{element}2")
        atoms.center(vacuum=VACUUM)
        atoms.pbc = True
        return AtomicStructure.from_pymatgen(AseAtomsAdaptor.get_structure(atoms))
    if element not in dcdft.names or element in NOT_THE_GROUND_STATE:
        raise NoReference(f"{element}: no simple ground state is known here; allowed: {', '.join((*MOLECULES, *_crystals()))}")
    structure = AseAtomsAdaptor.get_structure(dcdft[element])
    return AtomicStructure.from_pymatgen(SpacegroupAnalyzer(structure, symprec=0.001).find_primitive() or structure)


def _crystals() -> list[str]:
    from ase.collections import dcdft

    return [name for name in dcdft.names if name not in (*MOLECULES, *NOT_THE_GROUND_STATE)]


def _ring_of_sulphur() -> Atoms:
    """The crown of S8: two squares, one above the other, turned by 45 degrees."""
    import numpy as np
    from ase import Atoms

    side = 2 * SULPHUR_BOND * np.sin(np.radians(SULPHUR_ANGLE / 2))  # second neighbours
    radius = side / np.sqrt(2)
    height = np.sqrt(SULPHUR_BOND**2 - (2 * radius * np.sin(np.pi / 8)) ** 2)
    turn = np.arange(8) * np.pi / 4
    return Atoms("S8", np.stack([radius * np.cos(turn), radius * np.sin(turn), height * (np.arange(8) % 2)], axis=1))


def is_molecule(element: str) -> bool:
    """Whether the reference state is a molecule in a box: Gamma alone, and spin polarised where it is no singlet."""
    return element in MOLECULES


def formation_energy(composition: Mapping[str, float], energy_per_atom: Value, elements: Mapping[str, Value]) -> Value:
    """Formation energy per atom (eV/atom) against the elements.

    Args:
        composition: amounts by element.
        energy_per_atom: of the crystal, eV/atom.
        elements: energies of the reference states, eV/atom.

    Raises:
        KeyError: for an element without a reference.
        ValueError: when crystal and references are not of one level of theory (the geometry aside, which the level names last).
    """
    settings, _, geometry = energy_per_atom.level_of_theory.partition(", at the geometry of ")
    strangers = {value.level_of_theory for value in elements.values()} - {f"{settings}, at the geometry of the element"}
    if strangers:
        raise ValueError(f"references of another level of theory: {', '.join(sorted(strangers))}; the crystal's is {settings}")
    total = sum(composition.values())
    reference = sum(amount * elements[element].value for element, amount in composition.items()) / total
    return Value(
        value=energy_per_atom.value - reference,
        level_of_theory=f"{settings}, at the geometry of {geometry}, uncorrected formation energy",
    )
