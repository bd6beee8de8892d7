"""What the networks compute from: everything about a batch of crystals that no weight touches, made once for all networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from surrogates import valence
from surrogates.features import (
    COUNT_FEATURES,
    GLOBAL_FEATURES,
    Rows,
    cell_features,
    count_features,
    element_table,
    global_features,
    pooled_properties,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKEN_FEATURES = COUNT_FEATURES + valence.TOKEN_FEATURES
CRYSTAL_FEATURES = GLOBAL_FEATURES + valence.CRYSTAL_FEATURES


class Packed:
    """The element tokens of many crystals in one row, crystals of one element first, then of two, ...: no padding anywhere.

    Attributes:
        order: ``(n,)`` crystals in the order of their tokens.
        crystal: ``(tokens,)`` the crystal of each token, numbered as given.
        slot: ``(tokens,)`` flat position of each token in the padded ``(n, most_elements)`` tensors.
        log_fraction: ``(tokens, 1)``.
        starts: ``(n + 1,)`` where in the row the tokens of each crystal begin, in the order of ``order``, and where the last ones end.
        sizes: (crystals, elements) of each group.
    """

    def __init__(self, rows: Rows) -> None:
        present = rows.elements > 0
        number = present.sum(1)
        self.order = number.argsort(stable=True)
        crystal, column = present[self.order].nonzero().unbind(1)
        self.crystal = self.order[crystal]
        self.slot = self.crystal * rows.elements.shape[1] + column
        fraction = (rows.counts / rows.counts.sum(1, keepdim=True)).flatten()[self.slot]
        self.log_fraction = fraction.clamp(min=1e-12).log()[:, None]
        self.starts = functional.pad(number[self.order].cumsum(0), (1, 0))
        self.sizes = [(crystals, elements) for elements, crystals in enumerate(number.bincount().tolist()) if crystals]

    def pool(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean by fraction and maximum over the elements, ``(n, width)`` each, crystals as given."""
        weighted = tokens * self.log_fraction.exp()
        pairs = [(mean.sum(1), part.amax(1)) for mean, part in self.groups(weighted, tokens)]
        back = self.order.argsort()
        mean, highest = (torch.cat(parts)[back] for parts in zip(*pairs, strict=True))
        return mean, highest

    def groups(self, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each number of elements the ``(crystals, elements, width)`` part of every ``(tokens, width)`` tensor."""
        start = 0
        for crystals, elements in self.sizes:
            stop = start + crystals * elements
            yield tuple(tensor[start:stop].view(crystals, elements, -1) for tensor in tensors)
            start = stop


class Arrays(NamedTuple):
    """What kernels read of the inputs, under the same names; ``token_group`` is the space group and ``fraction`` that of each token."""

    elements: NDArray[Any]
    token_group: NDArray[Any]
    fraction: NDArray[Any]
    starts: NDArray[Any]
    order: NDArray[Any]
    space_group: NDArray[Any]
    log_volume: NDArray[Any]
    known: NDArray[Any]


@dataclass(frozen=True)
class Inputs:
    """A batch of ``n`` crystals, ready for any network.

    Attributes:
        packed: the element tokens.
        elements: ``(tokens,)`` atomic numbers.
        tokens: ``(tokens, TOKEN_FEATURES)`` counts and charges of each element in its crystal.
        space_group: ``(n,)``.
        crystal: ``(n, 4 properties + CRYSTAL_FEATURES)`` pooled element properties, sizes and balance of charges.
        log_volume: ``(n,)`` log of the volume per atom over the composition's estimate, 0 where the cell is unknown.
        shape: ``(n, SHAPE_FEATURES)``.
        known: ``(n,)`` booleans, whether the cell is known.
    """

    packed: Packed
    elements: torch.Tensor
    tokens: torch.Tensor
    space_group: torch.Tensor
    crystal: torch.Tensor
    log_volume: torch.Tensor
    shape: torch.Tensor
    known: torch.Tensor

    @classmethod
    def of(cls, rows: Rows) -> Inputs:
        """The inputs of some crystals."""
        packed = Packed(rows)
        pooled = pooled_properties(rows, element_table())
        log_volume, shape = cell_features(rows)
        charges = valence.valences(rows)
        return cls(
            packed=packed,
            elements=rows.elements.flatten()[packed.slot],
            tokens=torch.cat([count_features(rows), charges.token], dim=2).flatten(0, 1)[packed.slot],
            space_group=rows.space_group,
            crystal=torch.cat([pooled, global_features(rows), charges.crystal], dim=1),
            log_volume=log_volume,
            shape=shape,
            known=~rows.lattice_parameters.isnan().any(1),
        )

    @cached_property
    def arrays(self) -> Arrays:
        """For kernels, made once for all networks."""
        packed = self.packed
        fraction, token_group = packed.log_fraction[:, 0].exp(), self.space_group[packed.crystal]
        given = (self.elements, token_group, fraction, packed.starts, packed.order, self.space_group, self.log_volume, self.known)
        return Arrays(*(values.contiguous().numpy() for values in given))
