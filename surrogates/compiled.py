"""A network laid out for predicting: matrix products by torch, all that lies between them in compiled kernels.

The same numbers as :class:`surrogates.network.Network` in evaluation mode, to rounding, in half the time; no gradients.
"""

from __future__ import annotations

import copy
import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from surrogates import kernels
from surrogates.network import OUTPUTS, Network, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surrogates.inputs import Inputs
    from surrogates.network import MixingLayer


class Room(NamedTuple):
    """The same numbers for torch and for a kernel."""

    tensor: torch.Tensor
    array: NDArray[Any]


class Memory(threading.local):
    """Room for what lies between two products, by name, used again from call to call: fresh memory costs a page fault every 4 kB."""

    MOST = 64
    """Rooms of so many names and shapes are kept: a call asks for a dozen, the next one for others if its crystals have more elements."""

    def __init__(self) -> None:
        self.whole: dict[str, torch.Tensor] = {}
        self.rooms: dict[tuple[Any, ...], Room] = {}

    def __call__(self, *key: Any) -> Room:
        """Room of that name and shape, with anything in it, until the next call with this name in this thread."""
        return self.rooms.get(key) or self._made(*key)

    def _made(self, name: str, *shape: int) -> Room:
        size = math.prod(shape)
        if name not in self.whole or self.whole[name].numel() < size:
            with torch.inference_mode(False):  # tensors that are made in inference mode may not be written to outside of it
                self.whole[name] = torch.empty(size, dtype=torch.float32)
            self.rooms = {key: room for key, room in self.rooms.items() if key[0] != name}
        if len(self.rooms) == self.MOST:
            self.rooms.clear()
        tensor = self.whole[name][:size].view(shape)
        room = self.rooms[name, *shape] = Room(tensor, tensor.numpy())
        return room


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

    def __call__(self, values: torch.Tensor, name: str) -> Room:
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
        self.mixing, self.second = strain.weight.detach(), strain.second.detach()
        self.mixing_bias, self.second_bias = _array(strain.bias[:, 0]), _array(strain.second_bias[:, 0])
        self.volume = _array(torch.cat([strain.expected, strain.stiffness], dim=2).transpose(1, 2))
        self.volume_offset = _array(functional.pad(strain.stiffness_bias[:, 0], (1, 0)))
        self.last, self.last_offset = _array(strain.last[..., 0]), _array(strain.last_bias[:, 0, 0])

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, source: torch.Tensor, level: int = 0) -> Output:
        """As :meth:`Network.forward`."""
        crystals = self.trunk(inputs, source)
        energy, gap, scale_energy, scale_gap, logit = self.outputs(crystals, level).unbind(1)
        strain, expected = self.cell(crystals, inputs)
        return Output(energy + self.network.shift(inputs, source), gap, scale_energy, scale_gap, logit, strain, expected)

    def trunk(self, inputs: Inputs, source: torch.Tensor) -> torch.Tensor:
        """As :meth:`Network.trunk`."""
        given, groups = inputs.arrays, inputs.arrays.space_group
        product = _product(inputs.tokens, self.counts, "expanded")
        number, width = len(product.array), self.settings.width
        tokens, normed, mixed = (MEMORY(name, number, width) for name in ("tokens", "normed", "mixed"))
        attended = MEMORY("attended", number, product.array.shape[1] - width) if self.layers else normed
        row, into = tokens.array, normed.array
        kernels.embed(product.array, self.elements, self.groups, given.elements, given.token_group, row, attended.array)
        for index, (attend, project, expand, contract) in enumerate(self.layers):
            attended = attend(normed.tensor, "attended") if index else attended  # the first is in the tables
            kernels.mix(attended.array, attend.bias, given.fraction, given.starts, mixed.array)
            kernels.add_and_normalise(row, project(mixed.tensor, "added").array, project.bias, into)
            wide = expand(normed.tensor, "expanded")
            kernels.silu(wide.array, expand.bias)
            kernels.add_and_normalise(row, contract(wide.tensor, "added").array, contract.bias, into)
        pooled = MEMORY("pooled", len(groups), 2 * width)
        kernels.pool(into, *self.norm, given.fraction, given.starts, given.order, pooled.array)
        crystals = _product(inputs.crystal, self.gather_crystal, "crystals")
        crystals.tensor.addmm_(pooled.tensor, self.gather_pooled)
        normed = MEMORY("normed", *crystals.array.shape)
        kernels.describe(crystals.array, self.group_crystals, self.sources, groups, source.numpy(), normed.array)
        kernels.add_silu(crystals.array, self.hidden(normed.tensor, "added").array, self.hidden.bias)
        return crystals.tensor

    def outputs(self, crystals: torch.Tensor, level: int) -> torch.Tensor:
        """``(heads, OUTPUTS, n)`` of the heads, at a level of theory."""
        outputs = torch.empty(self.settings.heads, OUTPUTS, len(crystals), dtype=torch.float32)
        product = self.head(crystals, "expanded")
        kernels.heads(product.array, self.head.bias, self.head_weights[level], self.head_offset, outputs.numpy())
        return outputs

    def cell(self, crystals: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Network.cell`."""
        heads, number, width = self.settings.heads, len(crystals), self.settings.cell_hidden
        product = _product(crystals, self.context, "expanded")
        product.tensor.addmm_(inputs.shape, self.shape)
        mixed, added = MEMORY("mixed", heads, number, width), MEMORY("added", heads, number, width)
        joined = MEMORY("joined", heads, number, width + 3)
        strain, expected = torch.empty(2, heads, number, dtype=torch.float32)
        kernels.by_head(product.array, self.context_bias, mixed.array)
        torch.bmm(mixed.tensor, self.mixing, out=added.tensor)
        into = joined.array, strain.numpy(), expected.numpy()
        kernels.strain_of_volume(added.array, self.mixing_bias, self.volume, self.volume_offset, inputs.arrays.log_volume, *into)
        torch.bmm(joined.tensor, self.second, out=added.tensor)
        kernels.strain_of_shape(added.array, self.second_bias, self.last, self.last_offset, inputs.arrays.known, strain.numpy())
        return strain, expected


def _product(values: torch.Tensor, matrix: torch.Tensor, name: str) -> Room:
    room = MEMORY(name, values.shape[0], matrix.shape[1])
    torch.mm(values, matrix, out=room.tensor)
    return room


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.detach().contiguous().numpy()
