"""The elements at rest, which formation energies are counted from: ASE's table of reference states at their measured lattice constants."""

from __future__ import annotations

from collections.abc import Mapping

from al_crystal.crystal import AtomicStructure, Value

VACUUM = 3.0  # Å on each side of a molecule
BULK = ("bcc", "fcc", "hcp", "diamond")
UNPAIRED = {"O": 1.0}  # Bohr magnetons per atom of the molecules that are no singlets


class NoReference(ValueError):
    """There is no simple reference state of an element; its formation energies are withheld."""


def reference_structure(element: str) -> AtomicStructure:
    """The reference state of an element: a primitive metal or diamond cell, or a diatomic molecule in a box.

    Raises:
        NoReference: for elements whose ground state is neither (S, P, Cl, Br, I, Ga, ...).
    """
    from ase.build import bulk, molecule
    from ase.data import atomic_numbers, reference_states
    from pymatgen.io.ase import AseAtomsAdaptor

    state = reference_states[atomic_numbers[element]] or {}
    symmetry = state.get("symmetry")
    if symmetry in BULK:
        atoms = bulk(element)
    elif symmetry == "diatom":
        atoms = molecule(f"{element}2", vacuum=VACUUM, pbc=True)
    else:
        raise NoReference(
            f"{element}: its ground state ({symmetry or 'unknown'}) is not among the references that are computed "
            f"({', '.join(BULK)} and diatomic molecules)"
        )
    return AtomicStructure.from_pymatgen(AseAtomsAdaptor.get_structure(atoms))


def is_molecule(element: str) -> bool:
    """Whether the reference state is a molecule in a box: Gamma alone, and spin polarised where it is no singlet."""
    from ase.data import atomic_numbers, reference_states

    return (reference_states[atomic_numbers[element]] or {}).get("symmetry") == "diatom"


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
