"""Who gives electrons to whom: ionic charges that a composition suggests, and what is missing to balance them.

Whether a compound has a gap, and in which oxidation state a transition metal is, hangs on integers that a smooth network of counts does
not see. The elements of a crystal are sorted by electronegativity; the k most electronegative ones take their anion charge, the
others give between their lowest and highest cation charge. The k is taken that leaves the least charge unbalanced.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numba import njit

from surrogates.features import element_facts

if TYPE_CHECKING:
    from surrogates.features import Rows

TOKEN_FEATURES = 4
CRYSTAL_FEATURES = 4
LARGEST_CHARGE = np.float32(8)
SMALLEST_AMOUNT = np.float32(1e-3)
"""Share of the atoms; fewer need no more charge each than these."""


class Valences(NamedTuple):
    """``token`` (n, most_elements, TOKEN_FEATURES) and ``crystal`` (n, CRYSTAL_FEATURES), see :func:`valences`."""

    token: torch.Tensor
    crystal: torch.Tensor


@cache
def charges() -> torch.Tensor:
    """``(104, 5)`` by atomic number: Pauling electronegativity (-1 for padding), anion, lowest, highest and usual cation charge.

    Charges are in units of the elementary charge, from pymatgen's oxidation states (see :mod:`surrogates.tabulate`).
    """
    names = ("electronegativity_pauling", "anion_charge", "lowest_cation_charge", "highest_cation_charge", "usual_cation_charge")
    rows = [[-1.0, 0.0, 0.0, 0.0, 0.0]]
    rows += [[float(facts[name] or 0.0) for name in names] for facts in element_facts().values()]
    return torch.tensor(rows, dtype=torch.float32)


def valences(rows: Rows) -> Valences:
    """Charges and imbalances of crystals, in elementary charges (imbalances per atom). The rule is our own, described above.

    Returns:
        for every element: whether it is an anion (-1) or a cation (1; 0 in an elemental crystal), its usual charge, the charge it would
        need for the crystal to be neutral if all others have theirs, and how far that is outside of its range; for every crystal: whether
        any assignment is possible, electrons too many (> 0) or too few per atom, their amount, and the width of the cations' range.
    """
    token = torch.zeros(*rows.elements.shape, TOKEN_FEATURES, dtype=torch.float32)
    crystal = torch.zeros(len(rows), CRYSTAL_FEATURES, dtype=torch.float32)
    _assign(rows.elements.contiguous().numpy(), rows.counts.contiguous().numpy(), charges().numpy(), token.numpy(), crystal.numpy())
    return Valences(token, crystal)


@njit(cache=True, error_model="numpy")
def _assign(elements, counts, charges, token, crystal):
    """:func:`valences` into ``token`` and ``crystal``, which hold zeros; where no assignment is possible they stay."""
    most = elements.shape[1]
    order, amount = np.empty(most, np.int64), np.empty(most, np.float32)
    for i in range(elements.shape[0]):
        number, total = 0, np.float32(0)
        for j in range(most):
            if elements[i, j] > 0:  # sorted in by electronegativity, highest first
                k = number
                while k > 0 and charges[elements[i, order[k - 1]], 0] < charges[elements[i, j], 0]:
                    order[k] = order[k - 1]
                    k -= 1
                order[k] = j
                number += 1
                total += counts[i, j]
        lowest, highest = np.float32(0), np.float32(0)  # charge that all give
        first_to_give = 0  # as a cation; behind the last element that cannot be one
        for k in range(number):
            amount[k] = counts[i, order[k]] / total
            _, _, low, high, _ = charges[elements[i, order[k]]]
            lowest += amount[k] * low
            highest += amount[k] * high
            if high <= 0:
                first_to_give = k + 1
        taken, low_taken, high_taken = np.float32(0), np.float32(0), np.float32(0)
        excess, width, anions = np.float32(np.inf), np.float32(0), 0
        for k in range(number - 1):
            _, anion, low, high, _ = charges[elements[i, order[k]]]
            if anion >= 0:
                break
            taken += amount[k] * anion
            low_taken += amount[k] * low
            high_taken += amount[k] * high
            least, greatest = lowest - low_taken, highest - high_taken  # charge that the others give
            unbalanced = max(taken + least, np.float32(0)) + min(taken + greatest, np.float32(0))
            if k + 1 >= first_to_give and abs(unbalanced) < abs(excess):
                excess, width, anions = unbalanced, greatest - least, k + 1
        if not anions:
            continue
        unbalanced = np.float32(0)
        for k in range(number):
            _, anion, _, _, usual = charges[elements[i, order[k]]]
            unbalanced += amount[k] * (anion if k < anions else usual)
        for k in range(number):
            _, anion, low, high, usual = charges[elements[i, order[k]]]
            charge, low, high = (anion, anion, np.float32(0)) if k < anions else (usual, low, high)
            needed = charge - unbalanced / max(amount[k], SMALLEST_AMOUNT)
            needed = min(max(needed, -LARGEST_CHARGE), LARGEST_CHARGE)
            out = token[i, order[k]]
            out[0] = -1 if k < anions else 1
            out[1] = charge / 3
            out[2] = needed / 3
            out[3] = (max(needed - high, np.float32(0)) + min(needed - low, np.float32(0))) / 3
        out = crystal[i]
        out[0], out[1], out[2], out[3] = 1, excess, np.sqrt(abs(excess)), width / 3
