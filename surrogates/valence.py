"""Who gives electrons to whom: ionic charges that a composition suggests, and what is missing to balance them.

Whether a compound has a gap, and in which oxidation state a transition metal is, hangs on integers that a smooth network of counts does
not see. The elements of a crystal are sorted by electronegativity; the k most electronegative ones take their anion charge, the
others give between their lowest and highest cation charge. The k is taken that leaves the least charge unbalanced.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from surrogates.features import element_facts

if TYPE_CHECKING:
    from surrogates.features import Rows

TOKEN_FEATURES = 4
CRYSTAL_FEATURES = 4
LARGEST_CHARGE = 8.0
IMPOSSIBLE = 50.0


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
    fraction = rows.counts / rows.counts.sum(1, keepdim=True).clamp(min=1e-6)
    present = rows.elements > 0
    order = charges()[:, 0][rows.elements].argsort(dim=1, descending=True, stable=True)
    _, anion, low, high, usual = charges()[rows.elements.gather(1, order)].unbind(2)
    amount, here = fraction.gather(1, order), present.gather(1, order)
    taken = (amount * anion).cumsum(1)[:, :-1]
    least = (amount * low).sum(1, keepdim=True) - (amount * low).cumsum(1)[:, :-1]
    most = (amount * high).sum(1, keepdim=True) - (amount * high).cumsum(1)[:, :-1]
    possible = (anion < 0).long().cumprod(1)[:, :-1].bool() & here[:, 1:]
    possible &= ~((high <= 0) & here).flip(1).cumsum(1).flip(1)[:, 1:].bool()
    excess = (taken + least).clamp(min=0) + (taken + most).clamp(max=0)
    if excess.shape[1] == 0:
        return Valences(torch.zeros(*rows.elements.shape, TOKEN_FEATURES), torch.zeros(len(rows), CRYSTAL_FEATURES))
    k = torch.where(possible, excess.abs(), IMPOSSIBLE).argmin(1, keepdim=True)
    some = possible.gather(1, k)
    chosen = torch.where(some, excess.gather(1, k), 0.0)
    width = torch.where(some, (most - least).gather(1, k), 0.0)
    is_anion = torch.arange(order.shape[1]) <= k
    charge = torch.where(is_anion, anion, usual)
    unbalanced = (amount * charge).sum(1, keepdim=True)
    needed = (charge - unbalanced / amount.clamp(min=1e-3)).clamp(-LARGEST_CHARGE, LARGEST_CHARGE)
    outside = (needed - torch.where(is_anion, 0.0, high)).clamp(min=0) + (needed - torch.where(is_anion, anion, low)).clamp(max=0)
    sign = torch.where(is_anion, -1.0, 1.0)
    token = torch.stack([sign, charge / 3, needed / 3, outside / 3], dim=2) * (here & some)[:, :, None]
    crystal = torch.cat([some.float(), chosen, chosen.abs().sqrt(), width / 3], dim=1)
    return Valences(torch.zeros_like(token).scatter(1, order[:, :, None].expand_as(token), token), crystal)
