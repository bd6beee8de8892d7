"""The network: attention over the elements of a crystal, several heads on one trunk, and a strain energy that starts at the best cell.

The energy of a crystal in its cell is ``E(composition, space group, source) + strain(cell | composition, space group)``: the first
part never sees the cell, so that supplying one earns nothing, and the second is zero at the cell that the network expects and rises
away from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from surrogates.features import COUNT_FEATURES, SHAPE_FEATURES, element_table, space_group_table
from surrogates.inputs import CRYSTAL_FEATURES, TOKEN_FEATURES, Inputs, Packed

SOURCES = ("unknown", "matbench", "mp-20", "mpts-52", "other")
"""Where a training row comes from: tables differ in how stable their crystals are. A sampler's crystal is ``unknown``.

Energies are on the Materials Project's scale of 2020, but for the source ``matbench``: told that, a network speaks as MatBench does, on
the scale of 2018."""
OLDER = SOURCES.index("matbench")
OUTPUTS = 5  # energy, gap, log scale of either error, logit of a gap
SMALLEST_LOG_VOLUME = -2.5
NATURAL_ENERGY = 0.1
"""eV/atom; strain energies are compared as log(1 + energy / NATURAL_ENERGY): relative where large, absolute where small."""


class NetworkSettings(BaseModel):
    """Size of one trunk and its heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=96, ge=8, description="numbers per element token")
    layers: int = Field(default=2, ge=0, description="mixing layers over the elements")
    hidden: int = Field(default=256, ge=8, description="numbers that describe a whole crystal")
    head_hidden: int = Field(default=96, ge=8, description="hidden numbers of a head")
    cell_hidden: int = Field(default=48, ge=8, description="hidden numbers of the strain network")
    heads: int = Field(default=3, ge=1, description="members that share the trunk")
    dropout: float = Field(default=0.15, ge=0, lt=1, description="share of the trunk's numbers dropped in pretraining")
    element_dropout: float = Field(default=0.15, ge=0, lt=1, description="share of the elements whose learned vector a training step drops")


class Output(NamedTuple):
    """What the heads of one trunk say; every tensor is ``(heads, n)``.

    ``energy`` (eV/atom) and ``gap`` (eV) are those of the crystal at its best cell, ``strain`` (eV/atom, >= 0) is what its cell
    costs (0 where unknown), the scales are logs of the expected absolute errors, ``volume`` is the log of the expected volume per
    atom over the composition's estimate, ``gap_logit`` the logit that there is a gap.
    """

    energy: torch.Tensor
    gap: torch.Tensor
    log_scale_energy: torch.Tensor
    log_scale_gap: torch.Tensor
    gap_logit: torch.Tensor
    strain: torch.Tensor
    volume: torch.Tensor


def mean_strain(strain: torch.Tensor) -> torch.Tensor:
    """``(n,)`` eV/atom: the members' strain energies ``(s, n)`` averaged as they are compared, so that one wild member does not decide."""
    return NATURAL_ENERGY * torch.expm1(torch.log1p(strain / NATURAL_ENERGY).mean(0))


class Dropout(nn.Module):
    """Dropout from seven random bits a number: several times faster than torch's, whose generator is drawn from once a number."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = round(share * 128)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Zero a share of the numbers while training, and scale the others up."""
        if not self.training or not self.dropped:
            return values
        bits = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_().view(torch.uint8)[: values.numel()]
        kept = bits.bitwise_and_(127) >= self.dropped
        return values * kept.view(values.shape).to(values.dtype).mul_(128 / (128 - self.dropped))


class MixingLayer(nn.Module):
    """Attention without pairs over the elements of a crystal, then a two-layer perceptron on each.

    Every element receives the same average of values, weighted channel by channel with ``fraction * exp(key)``, through a gate of
    its own ("AFT-simple", Zhai et al., An Attention Free Transformer, 2021): linear in the number of elements, no small products.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.second_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, tokens: torch.Tensor, packed: Packed) -> torch.Tensor:
        """``tokens`` (tokens, width) of the packed crystals; same shape back."""
        gate, key, value = self.attend(self.norm(tokens)).chunk(3, dim=1)
        key = key + packed.log_fraction
        context = [(k.softmax(dim=1) * v).sum(1, keepdim=True).expand_as(v) for k, v in packed.groups(key, value)]
        mixed = torch.cat([part.reshape(-1, tokens.shape[1]) for part in context])
        tokens = tokens + self.project(gate.contiguous().sigmoid() * mixed)  # strided sigmoids are slow
        return tokens + self.contract(self.dropout(functional.silu(self.expand(self.second_norm(tokens)))))


class Strain(nn.Module):
    """The energy of a cell above the best one, from a description of the crystal and the cell's shape and volume.

    Volume: ``B (exp(-c r) - 1 + c r) / c^2`` with r the log of the volume over the expected one, stiffness B and hardness c of the
    crystal (another c on the stretched side): zero slope at r = 0, convex, exponential under compression, as equations of state
    are. Shape: a network of the shape and r, never negative.
    """

    def __init__(self, hidden: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.context = nn.Linear(hidden, width * heads)
        self.shape = nn.Linear(SHAPE_FEATURES, width * heads)
        self.weight = nn.Parameter(torch.randn(heads, width, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(heads, 1, width))
        self.expected = nn.Parameter(torch.randn(heads, width, 1) * 0.1 / width**0.5)
        self.stiffness = nn.Parameter(torch.randn(heads, width, 3) * 0.1 / width**0.5)
        self.stiffness_bias = nn.Parameter(torch.tensor([1.5, 0.7, 0.0]).repeat(heads, 1, 1))
        self.second = nn.Parameter(torch.randn(heads, width + 3, width) / width**0.5)
        self.second_bias = nn.Parameter(torch.zeros(heads, 1, width))
        self.last = nn.Parameter(torch.randn(heads, width, 1) / width**0.5)
        self.last_bias = nn.Parameter(torch.full((heads, 1, 1), -4.0))

    def forward(self, crystal: torch.Tensor, shape: torch.Tensor, log_volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``crystal`` (n, hidden), ``shape`` (n, SHAPE_FEATURES), ``log_volume`` (n,): strain and expected log volume, (heads, n)."""
        n = crystal.shape[0]
        mixed = functional.silu(self.context(crystal) + self.shape(shape)).view(n, self.heads, -1).transpose(0, 1)
        mixed = functional.silu(mixed @ self.weight + self.bias)
        volume, expected, features = self.volume(mixed, log_volume)
        features = functional.silu(torch.cat([mixed, features], dim=2) @ self.second + self.second_bias)
        return self.energy(volume, features), expected

    def volume(self, mixed: torch.Tensor, log_volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of ``mixed`` (heads, n, width), with the formula above: what the volume costs, eV/atom (heads, n), the expected log of the volume
        per atom over the composition's estimate (heads, n), and what the cost of the shape depends on (heads, n, 3)."""
        expected, stiffness = (mixed @ torch.cat([self.expected, self.stiffness], dim=2)).split([1, 3], dim=2)
        r = log_volume[None, :, None] - expected
        beyond = (SMALLEST_LOG_VOLUME - r).clamp(min=0)
        r = r.clamp(SMALLEST_LOG_VOLUME, -2 * SMALLEST_LOG_VOLUME)
        log_b, log_c, log_d = (stiffness + self.stiffness_bias).clamp(-4, 4).split(1, dim=2)
        c = torch.where(r < 0, log_c.clamp(max=2.2), log_d.clamp(max=2.2)).exp()
        volume = log_b.exp() * (torch.expm1(-c * r) + c * r) / (c * c) + 10 * beyond
        features = torch.cat([r, r.square(), torch.exp(-r.clamp(min=-1.5)) - 1], dim=2)
        return volume[..., 0], expected[..., 0], features

    def energy(self, volume: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """``(heads, n)`` eV/atom: what the volume costs, and what the shape does, of the second layer's ``features`` (heads, n, width)."""
        return volume + functional.softplus(features @ self.last + self.last_bias)[..., 0]


class Network(nn.Module):
    """One trunk with several heads. For predictions it is laid out anew by :class:`surrogates.compiled.Compiled`."""

    properties: torch.Tensor
    facts: torch.Tensor

    def __init__(self, settings: NetworkSettings, levels: int = 0) -> None:
        super().__init__()
        self.settings = settings
        width, hidden, heads, head_hidden = settings.width, settings.hidden, settings.heads, settings.head_hidden
        self.register_buffer("properties", element_table().clone(), persistent=False)
        self.register_buffer("facts", space_group_table().clone(), persistent=False)
        count = self.properties.shape[1]
        self.element = nn.Embedding(len(self.properties), width)
        self.element_properties = nn.Linear(count, width)
        self.space_group = nn.Embedding(len(self.facts), 32)
        self.space_group_token = nn.Linear(32 + self.facts.shape[1], width)
        self.space_group_crystal = nn.Linear(32 + self.facts.shape[1], hidden)
        self.counts = nn.Linear(TOKEN_FEATURES, width)
        self.layers = nn.ModuleList([MixingLayer(width, settings.dropout) for _ in range(settings.layers)])
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.source = nn.Embedding(len(SOURCES), hidden)
        self.gather = nn.Linear(2 * width + 4 * count + CRYSTAL_FEATURES, hidden)
        self.hidden_norm = nn.LayerNorm(hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, heads * head_hidden)
        self.head_weight = nn.Parameter(torch.randn(heads, head_hidden, OUTPUTS) * 0.3 / head_hidden**0.5)
        self.head_bias = nn.Parameter(torch.tensor([-1.0, 0.8, -2.5, -1.5, 0.0]).repeat(heads, 1, 1))
        self.level = nn.Parameter(torch.zeros(levels, heads, head_hidden, 2))
        self.older_scale = nn.Parameter(torch.zeros(len(self.properties), 2))
        self.strain = Strain(hidden, settings.cell_hidden, heads)
        for embedding in (self.element, self.space_group, self.source):
            nn.init.normal_(embedding.weight, std=0.1)

    def tables(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is looked up by atomic number (width numbers a row) and by space group (width, hidden)."""
        groups = torch.cat([self.space_group.weight, self.facts], dim=1)
        learned, dropped = self.element.weight, self.settings.element_dropout
        if self.training and dropped:
            learned = learned * (torch.rand(len(learned), 1) >= dropped) / (1 - dropped)
        elements = learned + self.element_properties(self.properties)
        return elements, self.space_group_token(groups), self.space_group_crystal(groups)

    def trunk(self, inputs: Inputs, source: torch.Tensor) -> torch.Tensor:
        """``(n, hidden)`` description of each crystal without its cell; ``source`` is (n,) indices into :data:`SOURCES`."""
        elements, group_tokens, group_crystals = self.tables()
        tokens = elements[inputs.elements] + group_tokens[inputs.space_group[inputs.packed.crystal]]
        tokens = tokens + self.counts(inputs.tokens)
        for layer in self.layers:
            tokens = layer(tokens, inputs.packed)
        mean, highest = inputs.packed.pool(self.norm(tokens))
        crystal = self.gather(self.dropout(torch.cat([mean, highest, inputs.crystal], dim=1)))
        crystal = functional.silu(crystal + group_crystals[inputs.space_group] + self.source(source))
        return crystal + functional.silu(self.hidden(self.dropout(self.hidden_norm(crystal))))

    def shift(self, inputs: Inputs, source: torch.Tensor) -> torch.Tensor:
        """``(n,)`` eV/atom that lead to the scale of the source: linear in the amounts of anions and cations for "matbench", else 0."""
        older = source == OLDER
        if not older.any():
            return torch.zeros(len(source))
        role = inputs.tokens[:, COUNT_FEATURES]  # -1 for an anion, 1 for a cation
        each = self.older_scale[inputs.elements, (role > 0).long()] * role.abs() * inputs.packed.log_fraction[:, 0].exp()
        return torch.where(older, torch.zeros(len(source)).index_add(0, inputs.packed.crystal, each), 0.0)

    def cell(self, crystal: torch.Tensor, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Strain energy (eV/atom, 0 where the cell is unknown) and expected log volume ratio, ``(heads, n)`` each."""
        strain, expected = self.strain(crystal, inputs.shape, inputs.log_volume)
        return torch.where(inputs.known, strain, 0.0), expected

    def forward(self, inputs: Inputs, source: torch.Tensor, level: int = 0) -> Output:
        """All outputs for ``n`` crystals; ``source`` is (n,) indices into :data:`SOURCES`, ``level`` 0 or a learned level of theory."""
        crystal = self.trunk(inputs, source)
        strain, expected = self.cell(crystal, inputs)
        output, hidden = self.outputs(crystal, strain, expected)
        output = output._replace(energy=output.energy + self.shift(inputs, source))
        if level:
            energy, gap = (hidden @ self.level[level - 1]).unbind(2)
            output = output._replace(energy=output.energy + energy, gap=output.gap + gap)
        return output

    def corrections(self, hidden: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """``(heads, n, 2)``: what is added to energy and gap at the levels of theory ``level`` (n, 2) of each label, 0 at level 0."""
        none = torch.zeros(1, *self.level.shape[1:])
        all_levels = torch.einsum("hnc,lhck->lhnk", hidden, torch.cat([none, self.level]))
        return all_levels.gather(0, level[None, None].expand(1, len(hidden), -1, -1))[0]

    def outputs(self, crystal: torch.Tensor, strain: torch.Tensor, expected: torch.Tensor) -> tuple[Output, torch.Tensor]:
        """The heads on a trunk's description ``(n, hidden)``, and their hidden numbers ``(heads, n, head_hidden)``."""
        hidden = functional.silu(self.head(crystal)).view(len(crystal), self.settings.heads, -1).transpose(0, 1)
        energy, gap, scale_energy, scale_gap, logit = (hidden @ self.head_weight + self.head_bias).unbind(2)
        return Output(energy, gap, scale_energy, scale_gap, logit, strain, expected), hidden

    def add_levels(self, number: int) -> None:
        """Append zero corrections for ``number`` further levels of theory."""
        self.level = nn.Parameter(torch.cat([self.level.detach(), torch.zeros(number, *self.level.shape[1:])]))
