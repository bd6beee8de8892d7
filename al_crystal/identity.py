"""Are two crystals the same? Proposed ones by their id, relaxed ones by formula and then by StructureMatcher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .crystal import AtomicStructure, Crystal


def distinct_structures(structures: Mapping[str, AtomicStructure]) -> dict[str, str]:
    """For each key the key of the first structure that it equals (itself, if it is the first of its kind).

    Structures of one reduced formula are compared by pymatgen's StructureMatcher at its default tolerances (0.2 of the mean
    free length per atom, 0.3 for site distances, 5 degrees), primitive cells, volumes scaled.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    firsts: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    same: dict[str, str] = {}
    for key, atoms in structures.items():
        structure = atoms.to_pymatgen()
        kin = firsts[structure.composition.reduced_formula]
        same[key] = next((first for first, other in kin if matcher.fit(structure, other)), key)
        if same[key] == key:
            kin.append((key, structure))
    return same


class KnownCrystals:
    """What is known already: (reduced formula, space group) pairs of a reference table, or formulas alone where it has no groups."""

    def __init__(self, pairs: Iterable[tuple[str, int | None]], source: str) -> None:
        self.source = source
        self._pairs = set(pairs)

    @classmethod
    def read(cls, path: Path) -> KnownCrystals:
        """Of a csv or parquet table with a column ``formula`` and, where known, ``space_group_number``."""
        import pandas as pd
        from pymatgen.core import Composition

        # "NaN" is sodium nitride
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
        groups: Sequence[int | None] = (
            frame["space_group_number"].astype(int).tolist() if "space_group_number" in frame else [None] * len(frame)
        )
        formulas = {text: Composition(text).reduced_formula for text in frame["formula"].unique()}
        return cls(((formulas[text], group) for text, group in zip(frame["formula"], groups, strict=True)), str(path))

    @cached_property
    def _formulas(self) -> set[str]:
        return {formula for formula, _ in self._pairs}

    @cached_property
    def _with_groups(self) -> bool:
        return any(group is not None for _, group in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def knows(self, crystal: Crystal) -> bool:
        """Whether the reference has the crystal's formula in its space group (its formula, where the reference has no groups)."""
        return (crystal.formula, crystal.space_group) in self._pairs if self._with_groups else crystal.formula in self._formulas
