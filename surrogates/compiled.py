"""A network laid out for predicting: matrix products by torch, all that lies between them in compiled kernels.

The same numbers as :class:`surrogates.network.Network` in evaluation mode, to rounding, in half the time; no gradients.
"""

from __future__ import annotations

import copy
import math
import threading
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from surrogates import kernels
from surrogates.network import OUTPUTS, Network, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surrogates.inputs import Inputs
    from surrogates.network import MixingLayer


class Memory(threading.local):
    """Room for what lies between two products, by name, used again from call to call: fresh memory costs a page fault every 4 kB."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        """A tensor of that shape with anything in it, until the next call with this name in this thread."""
        size = math.prod(shape)
        if name not in self.kept or len(self.kept[name]) < size:
            with torch.inference_mode(False):  # tensors that are made in inference mode may not be written to outside of it
                self.kept[name] = torch.empty(size, dtype=torch.float32)
        return self.kept[name][:size].view(shape)


MEMORY = Memory()


class Product:
    """A dense layer as the matrix ``(in, out)`` that a product takes from the right, and its bias as an array for a kernel to add.

    A layer norm before it gives its affine part away: ``W (g x + b) + c = (W g) x + (W b + c)``.
    """

    def __init__(self, layer: nn.Linear, norm: nn.LayerNorm | None = None) -> None:
        weight, bias = layer.weight.detach(), layer.bias.detach()
        if norm is not None:
            weight, bias = weight * norm.weight.detach(), bias + weight @ norm.bias.detach()
        self.matrix = weight.T.contiguous()
        self.bias = bias.numpy()

    def __call__(self, values: torch.Tensor, name: str) -> torch.Tensor:
        """``(m, in)`` to ``(m, out)``, without the bias, in :data:`MEMORY` of that name."""
        return _product(values, self.matrix, name)


class Compiled:
    """What a network says of crystals, fast.

    Args:
        network: is copied, never changed.
    """

    @torch.no_grad()
    def __init__(self, network: Network) -> None:
        network = copy.deepcopy(network).eval().requires_grad_(False)
        self.settings, self.network = network.settings, network
        elements, group_tokens, group_crystals = network.tables()
        mixing = cast("list[MixingLayer]", list(network.layers))
        self.layers = [
            (Product(layer.attend, layer.norm), Product(layer.project), Product(layer.expand, layer.second_norm), Product(layer.contract))
            for layer in mixing
        ]
        width = network.settings.width
        first = self.layers[0][0].matrix if self.layers else torch.eye(width)
        first = first - first.mean(0)  # takes the mean of a token out, as normalising does
        added = (elements + network.counts.bias, group_tokens, network.counts.weight.T)
        beside = [torch.cat([part, part @ first], dim=1).contiguous() for part in added]
        self.elements, self.groups, self.counts = beside[0].numpy(), beside[1].numpy(), beside[2]
        self.norm = _array(network.norm.weight), _array(network.norm.bias)
        parts = network.gather.weight.detach().tensor_split([2 * width], dim=1)
        self.gather_pooled, self.gather_crystal = (part.T.contiguous() for part in parts)
        self.group_crystals = _array(group_crystals)
        self.sources = _array(network.source.weight + network.gather.bias)
        self.hidden, self.head = Product(network.hidden, network.hidden_norm), Product(network.head)
        self.head_offset = _array(network.head_bias[:, 0])
        corrections = functional.pad(torch.cat([torch.zeros(1, *network.level.shape[1:]), network.level]), (0, OUTPUTS - 2))
        self.head_weights = [_array((network.head_weight + correction).transpose(1, 2)) for correction in corrections]
        strain = network.strain
        self.context, self.shape = (layer.weight.detach().T.contiguous() for layer in (strain.context, strain.shape))
        self.context_bias = _array(strain.context.bias + strain.shape.bias)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, source: torch.Tensor, level: int = 0) -> Output:
        """As :meth:`Network.forward`."""
        crystals = self.trunk(inputs, source)
        energy, gap, scale_energy, scale_gap, logit = self.outputs(crystals, level).unbind(1)
        strain, expected = self.cell(crystals, inputs)
        return Output(energy + self.network.shift(inputs, source), gap, scale_energy, scale_gap, logit, strain, expected)

    def trunk(self, inputs: Inputs, source: torch.Tensor) -> torch.Tensor:
        """As :meth:`Network.trunk`."""
        packed, groups = inputs.packed, inputs.space_group.numpy()
        fraction, starts = packed.log_fraction[:, 0].exp().numpy(), packed.starts.numpy()
        product = _product(inputs.tokens, self.counts, "expanded")
        number, width = len(product), self.settings.width
        tokens, normed, mixed = (MEMORY(name, number, width) for name in ("tokens", "normed", "mixed"))
        attended = MEMORY("attended", number, product.shape[1] - width) if self.layers else normed
        row, into, here = tokens.numpy(), normed.numpy(), groups[packed.crystal.numpy()]
        kernels.embed(product.numpy(), self.elements, self.groups, inputs.elements.numpy(), here, row, attended.numpy())
        for index, (attend, project, expand, contract) in enumerate(self.layers):
            attended = attend(normed, "attended") if index else attended  # the first is in the tables
            kernels.mix(attended.numpy(), attend.bias, fraction, starts, mixed.numpy())
            kernels.add_and_normalise(row, project(mixed, "added").numpy(), project.bias, into)
            wide = expand(normed, "expanded")
            kernels.silu(wide.numpy(), expand.bias)
            kernels.add_and_normalise(row, contract(wide, "added").numpy(), contract.bias, into)
        pooled = MEMORY("pooled", len(groups), 2 * width)
        kernels.pool(into, *self.norm, fraction, starts, packed.order.numpy(), pooled.numpy())
        crystals = _product(inputs.crystal, self.gather_crystal, "crystals").addmm_(pooled, self.gather_pooled)
        normed = MEMORY("normed", *crystals.shape)
        kernels.describe(crystals.numpy(), self.group_crystals, self.sources, groups, source.numpy(), normed.numpy())
        kernels.add_silu(crystals.numpy(), self.hidden(normed, "added").numpy(), self.hidden.bias)
        return crystals

    def outputs(self, crystals: torch.Tensor, level: int) -> torch.Tensor:
        """``(heads, OUTPUTS, n)`` of the heads, at a level of theory."""
        outputs = torch.empty(self.settings.heads, OUTPUTS, len(crystals), dtype=torch.float32)
        product = self.head(crystals, "expanded").numpy()
        kernels.heads(product, self.head.bias, self.head_weights[level], self.head_offset, outputs.numpy())
        return outputs

    def cell(self, crystals: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Network.cell`."""
        strain = self.network.strain
        product = _product(crystals, self.context, "expanded").addmm_(inputs.shape, self.shape)
        mixed = MEMORY("mixed", self.settings.heads, len(crystals), self.settings.cell_hidden)
        kernels.by_head(product.numpy(), self.context_bias, mixed.numpy())
        mixed = mixed @ strain.weight
        _silu(mixed, strain.bias)
        volume, expected, features = strain.volume(mixed, inputs.log_volume)
        features = torch.cat([mixed, features], dim=2) @ strain.second
        _silu(features, strain.second_bias)
        energy = strain.energy(volume, features)
        return torch.where(inputs.known, energy, 0.0), expected


def _product(values: torch.Tensor, matrix: torch.Tensor, name: str) -> torch.Tensor:
    return torch.mm(values, matrix, out=MEMORY(name, len(values), matrix.shape[1]))


def _silu(values: torch.Tensor, bias: torch.Tensor) -> None:
    """``silu(values + bias)`` in place; ``(heads, n, width)`` and ``(heads, 1, width)``."""
    for own, added in zip(values.numpy(), bias[:, 0].numpy(), strict=True):
        kernels.silu(own, added)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()
