from __future__ import annotations

import pandas as pd
from pymatgen.core import Lattice, Structure

from al_crystal.crystal import AtomicStructure, Crystal
from al_crystal.identity import KnownCrystals, distinct_structures


def _rock_salt(edge: float, cation: str = "Na") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), [cation, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_the_same_structure_in_another_cell_is_the_same():
    structures = {
        "conventional": AtomicStructure.from_pymatgen(_rock_salt(5.64)),
        "primitive": AtomicStructure.from_pymatgen(_rock_salt(5.70).get_primitive_structure()),
        "caesium chloride": AtomicStructure.from_pymatgen(Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])),
        "other metal": AtomicStructure.from_pymatgen(_rock_salt(6.3, "K")),
    }
    same = distinct_structures(structures)
    assert same["primitive"] == "conventional"
    assert [key for key, first in same.items() if key == first] == ["conventional", "caesium chloride", "other metal"]


def test_known_crystals_are_told_by_formula_and_group(tmp_path):
    path = tmp_path / "known.csv"
    pd.DataFrame({"formula": ["Na4Cl4", "NaN"], "space_group_number": [225, 2]}).to_csv(path, index=False)
    known = KnownCrystals.read(path)
    salt = Crystal(space_group=225, composition={"Na": 4, "Cl": 4}, lattice_parameters=(5.6, 5.6, 5.6, 90, 90, 90))
    assert known.knows(salt)
    assert not known.knows(salt.model_copy(update={"space_group": 221}))
    assert known.knows(Crystal(space_group=2, composition={"Na": 2, "N": 2}, lattice_parameters=(5, 5, 5, 90, 90, 90)))
    pd.DataFrame({"formula": ["NaCl"]}).to_csv(path, index=False)
    assert KnownCrystals.read(path).knows(salt.model_copy(update={"space_group": 221}))
