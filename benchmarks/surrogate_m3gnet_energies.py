"""M3GNet for ``python -m surrogates.wrong_cells`` and ``surrogates.inventions``: of atoms as they stand, of atoms and of crystals at rest.

From the repository's root; the weights are found as everywhere ($AL_CRYSTAL_MODELS or matgl's hub). With HERE for
``benchmarks.surrogate_m3gnet_energies``: ``--energies HERE:energies --at-rest HERE:energies_at_rest`` and ``--relax HERE:relaxed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import Crystal, Value
from oracles.formation_energy import reference_energies
from oracles.labelling import crystal_of
from oracles.potentials import load, resolve
from oracles.relaxation import Relaxed, relax_all
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

if TYPE_CHECKING:
    from pymatgen.core import Structure

RELAXED = RelaxationSettings(fmax=0.1, max_stress=0.3, max_steps=60, patience=30, kink=0.002, volume_ratio=(0.3, 3.0))
AT_REST = RelaxationSettings(fmax=0.15, max_steps=25, patience=15)


def energies(structures: Sequence[Structure]) -> np.ndarray:
    """``(n,)`` eV/atom of each structure by the tested M3GNet."""
    return load(resolve("M3GNet")).evaluate(structures).energies_per_atom


def energies_at_rest(structures: Sequence[Structure]) -> np.ndarray:
    """``(n,)`` eV/atom after at most 25 steps of the atoms in the given cell, symmetry kept; NaN where that is unphysical."""
    cells = [SymmetricCell.from_structure(structure, fixed_cell=True) for structure in structures]
    found = relax_all(cells, load(resolve("M3GNet")), AT_REST)
    return np.array([one.energy_per_atom if one.outcome != "unphysical" else np.nan for one in found])


def relaxed(structures: Sequence[Structure]) -> list[tuple[Crystal, Value] | None]:
    """Each crystal relaxed with its symmetry, and its formation energy on the Materials Project's scale; None where it came to no rest."""
    potential = load(resolve("M3GNet"))
    references = reference_energies(potential.level_of_theory)

    def crystal_and_energy(one: Relaxed) -> tuple[Crystal, Value] | None:
        if one.outcome != "converged":
            return None
        try:
            crystal = crystal_of(one.cell.to_structure(), symprec=0.01)
            return crystal, references.formation_energy(crystal.composition, one.energy_per_atom)
        except (KeyError, ValueError):  # no symmetry, or an element without a reference
            return None

    cells = [SymmetricCell.from_structure(structure) for structure in structures]
    return [crystal_and_energy(one) for one in relax_all(cells, potential, RELAXED)]
