"""The environment: space group, then composition, then lattice, with the masks of every hard constraint."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from al_crystal.crystal import ATOMIC_NUMBER, Crystal, CrystalBatch
from gfn.checks import violations
from gfn.composition import CompositionSpace
from gfn.constraints import EmptySpace, Space
from gfn.lattice import LatticeSpace
from gfn.space_group import SYSTEM_OF, SpaceGroupSpace

if TYPE_CHECKING:
    from gfn.constraints import Restriction


class CrystalEnvironment:
    """The three subspaces of a :class:`~gfn.constraints.Space` in sequence. Stateless: batches of states are handed in and out.

    ``layout`` is the space whose elements and counts number the actions; it differs from ``space`` in restricted sampling, where one policy
    serves a part of the space it was trained in.

    Raises:
        EmptySpace: when no crystal satisfies the constraints; the message says which constraint empties the space.
    """

    def __init__(self, space: Space, layout: Space | None = None) -> None:
        self.space, self.layout = space, layout or space
        self.lattice = LatticeSpace(space.lattice, self.layout.elements)
        self.composition = CompositionSpace(space, self.lattice, self.layout)
        feasible = self.composition.group_feasible.copy()
        if not feasible.any():
            raise EmptySpace(_explain(space))
        self.space_group = SpaceGroupSpace(feasible)
        self.elements = tuple(ATOMIC_NUMBER[symbol] for symbol in self.layout.elements)

    @property
    def fingerprint(self) -> str:
        """A hash of the space: a policy belongs to it."""
        return hashlib.sha256(self.space.model_dump_json().encode()).hexdigest()[:16]

    def restricted(self, restriction: Restriction | None) -> CrystalEnvironment:
        """The environment of the part of the space inside a restriction, with actions numbered as in this one.

        Raises:
            EmptySpace: when nothing is left, saying which constraint empties it.
        """
        return self if restriction is None else CrystalEnvironment(self.space.restricted(restriction), self.layout)

    def batch(self, groups: np.ndarray, counts: np.ndarray, cube: np.ndarray) -> CrystalBatch:
        """The crystals of finished states: groups ``(n,)``, counts ``(n, elements)``, cube coordinates ``(n, 6)``."""
        import torch

        cells = self.lattice.decode(cube, SYSTEM_OF[groups], counts)
        return CrystalBatch(self.elements, torch.from_numpy(groups.astype(np.int64)), torch.from_numpy(counts), torch.from_numpy(cells))

    def states(self, batch: CrystalBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups, counts in this space's columns and cube coordinates of crystals inside the space (the inverse of :meth:`batch`)."""
        groups = batch.space_group.numpy()
        counts = np.zeros((len(batch), len(self.elements)), dtype=np.int64)
        columns = {number: i for i, number in enumerate(self.elements)}
        given = batch.counts.numpy()
        for i, number in enumerate(batch.elements):
            if number in columns:
                counts[:, columns[number]] = given[:, i]
            elif given[:, i].any():
                raise ValueError(f"the batch has atoms of element {number}, which the space does not have")
        return groups, counts, self.lattice.encode(batch.lattice_parameters.double().numpy(), SYSTEM_OF[groups], counts)

    def contains(self, crystal: Crystal) -> list[str]:
        """The constraints a crystal violates, in sentences; empty inside the space. Independent of the masks."""
        return violations(self.space, crystal)


WIDE_CELLS: dict[str, dict[str, Any]] = {
    "lattice lengths": {"lengths": (1.0, 200.0)},
    "lattice angles": {"angles": (30.0, 150.0)},
    "lattice volume_ratio": {"volume_ratio": (0.1, 10.0)},
    "lattice volume_per_atom": {"volume_per_atom": None},
}
"""Windows of the cell, each lifted."""


def _explain(space: Space) -> str:
    """Which constraint empties the space: each is lifted in turn.

    The windows of the cell are lifted first, all together, which is cheap: only where that helps are they the cause.
    """
    wide: dict[str, Any] = {"lattice": {name: window for change in WIDE_CELLS.values() for name, window in change.items()}}
    if _leaves_some(space, wide):
        culprits = [name for name, change in WIDE_CELLS.items() if _leaves_some(space, {"lattice": change})]
        place = "Without the windows of the cell there would be some. "
    else:
        lifted = _discrete_lifted(space).items()
        culprits = [name for name, change in lifted if _leaves_some(space, change | wide) and _leaves_some(space, change)]
        place = ""
    many = len(space.space_groups) > 5
    groups = f"any of the {len(space.space_groups)} space groups" if many else f"space groups {list(space.space_groups)}"
    many = len(space.elements) > 30
    elements = f"{len(space.elements)} elements" if many else f"elements {', '.join(space.elements)}"
    reason = (
        f"Lifting one of these alone would leave some: {'; '.join(culprits)}."
        if culprits
        else "No single constraint is the cause: at least two of them must be widened."
    )
    return f"No crystal satisfies all constraints in {groups} with the {elements}. {place}{reason}"


def _discrete_lifted(space: Space) -> dict[str, dict[str, Any]]:
    """Changes that lift one of the constraints of group and composition."""
    most = max(space.number_of_elements[1] + 1, len(space.required_elements))
    return {
        "charge_neutrality (with electronegativity)": {"charge_neutrality": None, "electronegativity": False},
        "electronegativity": {"electronegativity": False},
        "number_of_elements": {"number_of_elements": (1, most)},
        "atoms": {"atoms": (1, 10_000)},
        "atoms_per_element and atoms_of": {"atoms_per_element": (1, 24), "atoms_of": {}},
        "required_elements": {"required_elements": ()},
        "excluded_combinations": {"excluded_combinations": ()},
        "space_groups (their Wyckoff positions)": {"space_groups": "all"},
    }


def _leaves_some(space: Space, change: dict[str, Any]) -> bool:
    """Whether the space has crystals once some fields are changed."""
    fields = space.model_dump()
    for key, value in change.items():
        fields[key] = fields[key] | value if key == "lattice" else value
    changed = Space.model_validate(fields)
    return bool(CompositionSpace(changed, LatticeSpace(changed.lattice, changed.elements), changed).group_feasible.any())
