"""Energies of structures with their atoms at rest in the cell as it is given: what a cell costs, whatever its atoms were doing.

A prediction for a proposed crystal is the property of *its* cell with the atoms at rest in it; this labels such cells when some
arrangement of the atoms is known, such as a relaxed crystal that was squeezed, stretched or sheared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oracles.settings import RelaxationSettings

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from oracles.potentials import Potential

SETTINGS = RelaxationSettings(max_steps=150, kink=0.002)
SYMPREC = 0.01


def energies_at_rest(
    structures: Sequence[Structure], potential: Potential | None = None, settings: RelaxationSettings = SETTINGS
) -> np.ndarray:
    """Relax the atoms and nothing else, all structures in one batch; the symmetry of each structure as given is kept.

    Args:
        structures: any cells (primitive or conventional, from one atom on); a structure and its supercell have the same answer.
        potential: what to ask; by default the one that ``potential: auto`` takes, loaded once per process.
        settings: when atoms are at rest; stress and volume play no part.

    Returns:
        ``(n,)`` raw energy of the potential in eV/atom; NaN where the atoms do not come to rest (step limit) or a guard ends the walk.
    """
    from oracles.potentials import load, resolve
    from oracles.relaxation import relax_all
    from oracles.symmetric_cell import SymmetricCell

    potential = potential or load(resolve())
    potential.check_elements(structures)
    cells = [SymmetricCell.from_structure(structure, symprec=SYMPREC, fixed_cell=True) for structure in structures]
    found = relax_all(cells, potential, settings)
    return np.array([one.energy_per_atom if one.outcome == "converged" else np.nan for one in found])
