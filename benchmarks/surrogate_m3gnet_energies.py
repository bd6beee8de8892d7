"""M3GNet's energies for ``python -m surrogates.wrong_cells OUT.jsonl --energies benchmarks.surrogate_m3gnet_energies:energies``.

Run it from the repository's root; the weights are found as everywhere ($AL_CRYSTAL_MODELS or matgl's hub).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oracles.potentials import load, resolve

if TYPE_CHECKING:
    from pymatgen.core import Structure


def energies(structures: Sequence[Structure]) -> np.ndarray:
    """``(n,)`` eV/atom of each structure by the tested M3GNet."""
    return load(resolve("M3GNet")).evaluate(structures).energies_per_atom
