"""M3GNet's energies for ``python -m surrogates.wrong_cells``: as the atoms stand, or with the atoms at rest in the given cell.

``--energies benchmarks.surrogate_m3gnet_energies:energies --at-rest benchmarks.surrogate_m3gnet_energies:energies_at_rest``, from the
repository's root; the weights are found as everywhere ($AL_CRYSTAL_MODELS or matgl's hub).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oracles.potentials import load, resolve
from oracles.relaxation import relax_all
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

if TYPE_CHECKING:
    from pymatgen.core import Structure

AT_REST = RelaxationSettings(fmax=0.15, max_steps=25, patience=15)


def energies(structures: Sequence[Structure]) -> np.ndarray:
    """``(n,)`` eV/atom of each structure by the tested M3GNet."""
    return load(resolve("M3GNet")).evaluate(structures).energies_per_atom


def energies_at_rest(structures: Sequence[Structure]) -> np.ndarray:
    """``(n,)`` eV/atom after at most 25 steps of the atoms in the given cell, symmetry kept; NaN where that is unphysical."""
    cells = [SymmetricCell.from_structure(structure, fixed_cell=True) for structure in structures]
    found = relax_all(cells, load(resolve("M3GNet")), AT_REST)
    return np.array([one.energy_per_atom if one.outcome != "unphysical" else np.nan for one in found])
