"""What the band-gap head sees of a composition: elements, their properties, charge balance and the parity of the electrons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import ATOMIC_NUMBER, ELEMENTS

if TYPE_CHECKING:
    from pymatgen.core import Structure

NUMBER_OF_ELEMENTS = 94
BALANCE_FEATURES = 5
MOST_ASSIGNMENTS = 5000  # of oxidation states to the elements of one composition; beyond, the charge counts as unbalanced
UNBALANCED = 9.0
SYMMETRY_PRECISION = 0.1  # Å, for finding the primitive cell of a relaxed structure


@dataclass(frozen=True)
class ElementTable:
    """Facts about the elements, kept with the weights so that what the network reads does not change with a library.

    Attributes:
        properties: ``(94, width)`` by atomic number - 1.
        oxidation_states: the common oxidation states of each element.
    """

    properties: np.ndarray
    oxidation_states: Mapping[str, tuple[int, ...]]

    @property
    def width(self) -> int:
        """Number of features of a composition."""
        return NUMBER_OF_ELEMENTS + 4 * self.properties.shape[1] + BALANCE_FEATURES

    @classmethod
    def from_pymatgen(cls) -> ElementTable:
        """As pymatgen knows the elements today (done once, when a head is trained)."""
        symbols = ELEMENTS[:NUMBER_OF_ELEMENTS]
        return cls(np.array([_properties(symbol) for symbol in symbols]), {symbol: _oxidation_states(symbol) for symbol in symbols})

    def features(self, composition: Mapping[str, float]) -> np.ndarray:
        """``(width,)`` features of the composition (element: count) of a primitive cell.

        Raises:
            KeyError: for an element beyond plutonium.
        """
        unknown = [element for element in composition if ATOMIC_NUMBER.get(element, NUMBER_OF_ELEMENTS + 1) > NUMBER_OF_ELEMENTS]
        if unknown:
            raise KeyError(f"the band-gap head does not know {', '.join(unknown)}")
        index = np.array([ATOMIC_NUMBER[element] - 1 for element in composition])
        counts = np.array(list(composition.values()), dtype=float)
        fractions = counts / counts.sum()
        row = np.zeros(NUMBER_OF_ELEMENTS)
        row[index] = fractions
        values = self.properties[index]
        mean = fractions @ values
        spread = np.sqrt(np.maximum(fractions @ (values - mean) ** 2, 0.0))
        return np.concatenate([row, mean, spread, values.max(0), values.min(0), self._balance(composition)])

    def _balance(self, composition: Mapping[str, float]) -> list[float]:
        """Least charge per atom with one common oxidation state per element, whether it vanishes (nearly), odd electrons, size."""
        total = sum(composition.values())
        states = [self.oxidation_states[element] for element in composition]
        imbalance = UNBALANCED
        if np.prod([len(choices) for choices in states]) <= MOST_ASSIGNMENTS:
            counts = list(composition.values())
            imbalance = min(
                abs(sum(state * count for state, count in zip(assignment, counts, strict=True))) / total for assignment in product(*states)
            )
        electrons = sum(ATOMIC_NUMBER[element] * count for element, count in composition.items())
        return [imbalance, float(imbalance < 1e-6), float(imbalance < 0.05), float(round(electrons) % 2), float(np.log(total))]


def primitive_composition(structure: Structure) -> dict[str, float]:
    """Counts in the primitive cell that spglib finds, in the cell as it is where it finds none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        primitive = SpacegroupAnalyzer(structure, symprec=SYMMETRY_PRECISION).find_primitive()
    except SymmetryUndeterminedError:
        primitive = None
    return (structure if primitive is None else primitive).composition.get_el_amt_dict()


def _properties(symbol: str) -> list[float]:
    """Electronegativity, position in the table, radius, electron affinity, ionisation energy, valence electrons, oxidation range."""
    import warnings

    from pymatgen.core import Element

    element = Element(symbol)
    group = element.group
    valence = group if group <= 2 else group - 10 if group >= 13 else group
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = [
            element.Z / 50,
            element.X,
            group / 10,
            element.row,
            element.atomic_radius,
            element.mendeleev_no / 50,
            *(float(element.block == block) for block in "spdf"),
            element.electron_affinity,
            (element.ionization_energy or 0.0) / 10,
            valence / 5,
            min(element.common_oxidation_states, default=0),
            max(element.common_oxidation_states, default=0),
        ]
    return [0.0 if number is None or number != number else float(number) for number in numbers]


def _oxidation_states(symbol: str) -> tuple[int, ...]:
    from pymatgen.core import Element

    return tuple(int(state) for state in Element(symbol).common_oxidation_states) or (0,)
