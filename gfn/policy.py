"""The forward and backward policies: networks, and the distributions they parametrise.

Both are multilayer perceptrons over the same description of a state: one-hots of lattice system, point symmetry and space group (as rows
of embedding tables, which is the same linear layer), atom counts, the six cube coordinates, and whether the lattice has begun. The
forward network has a head for each subspace and only the head of the active one is evaluated; the backward network serves the lattice, the
only subspace in which a crystal can be reached in more than one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gfn.lattice import DIMENSIONS
from gfn.space_group import GROUPS, NUMBER_OF_ACTIONS, POINT_OF, POINTS, SYSTEM_OF, SYSTEMS

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment
    from gfn.settings import SamplerSettings

SMALLEST, LARGEST = 0.1, 100.0
"""Bounds of the parameters of the Beta distributions."""
_UNIFORM_BIAS = float(np.log(1 / 2))
"""sigmoid(bias) = 1/3, so that an untrained head gives 0.1 * 1000^(1/3) = 1: the uniform distribution."""


class Trunk(nn.Module):
    """The body of a policy: states to features ``(n, hidden units)``."""

    def __init__(self, elements: int, largest_count: int, settings: SamplerSettings) -> None:
        super().__init__()
        width = settings.hidden_units
        self.scale = 1.0 / largest_count
        self.system = nn.Embedding(SYSTEMS + 1, width)
        self.point = nn.Embedding(POINTS + 1, width)
        self.group = nn.Embedding(GROUPS + 1, width)
        self.composition = nn.Linear(elements, width)
        self.cube = nn.Linear(DIMENSIONS + 1, width, bias=False)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(settings.hidden_layers - 1)])
        for table in (self.system, self.point, self.group):
            nn.init.normal_(table.weight, std=0.3)
        self.register_buffer("system_of", torch.from_numpy(SYSTEM_OF), persistent=False)
        self.register_buffer("point_of", torch.from_numpy(POINT_OF), persistent=False)

    def symmetry(self, system: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        """Features of states whose group is not set."""
        none = torch.zeros_like(system)
        return self._deep(self.system(system) + self.point(point) + self.group(none) + self.composition.bias)

    def group_table(self) -> torch.Tensor:
        """``(231, width)``: the part of the first layer that the space group decides, once for all rows of a batch."""
        return self.system(self.system_of) + self.point(self.point_of) + self.group.weight + self.composition.bias

    def forward(self, table: torch.Tensor, groups: torch.Tensor, counts: torch.Tensor, cube: torch.Tensor | None = None) -> torch.Tensor:
        """Features of states with a group: counts ``(n, elements)``, cube ``(n, 7)`` (coordinates, then 1 once the lattice has begun)."""
        first = table.index_select(0, groups) + functional.linear(counts * self.scale, self.composition.weight)
        if cube is not None:
            first = first + functional.linear(cube, self.cube.weight)
        return self._deep(first)

    def _deep(self, first: torch.Tensor) -> torch.Tensor:
        features = functional.leaky_relu(first)
        for layer in self.hidden:
            features = functional.leaky_relu(layer(features))
        return features


class LatticeHead(nn.Module):
    """Features to a mixture of Betas for each cube coordinate and a logit (to stop, or to go back to the source)."""

    def __init__(self, settings: SamplerSettings) -> None:
        super().__init__()
        self.components = settings.mixture_components
        self.linear = nn.Linear(settings.hidden_units, DIMENSIONS * self.components * 3 + 1)
        with torch.no_grad():
            self.linear.weight *= 0.1
            self.linear.bias.zero_()
            betas = self.linear.bias[:-1].view(DIMENSIONS, self.components, 3)
            # Components that start alike would stay alike; a spread around the uniform distribution tells them apart.
            spread = torch.linspace(-0.3, 0.3, self.components) if self.components > 1 else torch.zeros(1)
            betas[:, :, 0] = _UNIFORM_BIAS + spread
            betas[:, :, 1] = _UNIFORM_BIAS - spread

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw parameters ``(n, 6, components, 3)`` and logits ``(n,)``."""
        raw = functional.linear(features, self.linear.weight, self.linear.bias)
        return raw[:, :-1].view(-1, DIMENSIONS, self.components, 3), raw[:, -1]


class Prepared(NamedTuple):
    """The parts of a policy that do not depend on the trajectories: computed once per batch, shared by sampling and loss.

    ``symmetry`` ``(states, 243)`` logits of the space-group subspace, -inf where forbidden; ``forward`` and ``backward`` ``(231, width)``
    the group tables of the two trunks.
    """

    symmetry: torch.Tensor
    forward: torch.Tensor
    backward: torch.Tensor


class Policy(nn.Module):
    """Forward policy, backward policy and log-partition function.

    The log-partition function is the sum of 16 weights, as in the reference, so that it moves fast at a moderate step size.
    """

    def __init__(self, environment: CrystalEnvironment, settings: SamplerSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        composition = environment.composition
        width = settings.hidden_units
        with _seeded(generator):
            self.trunk = Trunk(len(composition.symbols), composition.largest, settings)
            self.symmetry_head = nn.Linear(width, NUMBER_OF_ACTIONS)
            self.composition_head = nn.Linear(width, composition.number_of_actions)
            self.lattice_head = LatticeHead(settings)
            self.backward_trunk = Trunk(len(composition.symbols), composition.largest, settings)
            self.backward_head = LatticeHead(settings)
        with torch.no_grad():
            for head in (self.symmetry_head, self.composition_head):
                head.weight *= 0.1
                head.bias.zero_()
        self.log_z_weights = nn.Parameter(torch.zeros(16))

    @property
    def log_z(self) -> torch.Tensor:
        """Logarithm of the partition function."""
        return self.log_z_weights.sum()

    def prepare(self, environment: CrystalEnvironment) -> Prepared:
        """What every batch needs once, with its graph."""
        space = environment.space_group
        logits = self.symmetry_head(self.trunk.symmetry(torch.from_numpy(space.system), torch.from_numpy(space.point)))
        forbidden = torch.from_numpy(~space.allowed)
        return Prepared(logits.masked_fill(forbidden, -torch.inf), self.trunk.group_table(), self.backward_trunk.group_table())


class _seeded:
    """Initialise layers from a generator, leaving torch's global state as it was."""

    def __init__(self, generator: torch.Generator) -> None:
        self.seed = int(torch.randint(2**62, (1,), generator=generator))

    def __enter__(self) -> None:
        self.state = torch.random.get_rng_state()
        torch.random.default_generator.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.state)


def beta_parameters(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw outputs ``(..., components, 3)`` to alpha, beta (log-uniform in [0.1, 100]) and log-weights, each ``(..., components)``."""
    scale = float(np.log(LARGEST / SMALLEST))
    shapes = SMALLEST * torch.exp(scale * torch.sigmoid(raw[..., 0:2]))
    return shapes[..., 0], shapes[..., 1], torch.log_softmax(raw[..., 2], dim=-1)


def log_mixture(raw: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Log-density of mixtures of Betas, raw ``(m, components, 3)``, at values in (0, 1) ``(m,)``."""
    alpha, beta, log_weight = beta_parameters(raw)
    log_beta = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    x = value.unsqueeze(-1)
    return torch.logsumexp(log_weight + (alpha - 1) * torch.log(x) + (beta - 1) * torch.log1p(-x) - log_beta, dim=-1)
