"""The forward and backward policies: networks, and the distributions they parametrise.

Both are multilayer perceptrons over the same description of a state: one-hots of lattice system, point symmetry and space group (as rows
of an embedding table, which is the same linear layer), atom counts, which elements are present, the six cube coordinates, and whether the
lattice has begun. The forward network has a head for each subspace and only the head of the active one is evaluated; the backward network
serves the lattice, the only subspace in which a crystal can be reached in more than one way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
LOG_RANGE = float(np.log(LARGEST / SMALLEST))
UNIFORM_RAW = float(np.log(1 / 2))
"""sigmoid of it is 1/3, so that an untrained head gives 0.1 * 1000^(1/3) = 1: the uniform distribution."""


def symmetry_rows(system: np.ndarray, point: np.ndarray, group: np.ndarray | int = 0) -> np.ndarray:
    """``(n, 3)`` rows of the embedding table for attributes ``(n,)``; unset ones are ``SYSTEMS``, ``POINTS`` and 0."""
    return np.stack([system, SYSTEMS + 1 + point, np.full_like(system, SYSTEMS + POINTS + 2) + group], axis=1)


ROWS_OF_GROUP = symmetry_rows(SYSTEM_OF, POINT_OF, np.arange(GROUPS + 1))
"""``(231, 3)`` by space-group number."""


class Trunk(nn.Module):
    """The body of a policy: states to features ``(n, hidden units)``."""

    def __init__(self, elements: int, largest_count: int, settings: SamplerSettings) -> None:
        super().__init__()
        width = settings.hidden_units
        self.elements, self.scale = elements, 1.0 / largest_count
        self.symmetry = nn.Embedding(SYSTEMS + POINTS + GROUPS + 3, width)
        self.numbers = nn.Linear(2 * elements + DIMENSIONS + 1, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(settings.hidden_layers - 1)])
        nn.init.normal_(self.symmetry.weight, std=0.3)

    def describe(self, counts: np.ndarray, points: np.ndarray | None = None) -> np.ndarray:
        """The numbers of states, ``(n, 2 elements + 7)``: counts, presence, and of the lattice ``points`` ``(n, 7)``: coordinates, then 1
        once it has begun."""
        numbers = np.zeros((len(counts), 2 * self.elements + DIMENSIONS + 1), dtype=np.float32)
        numbers[:, : self.elements] = counts
        numbers[:, : self.elements] *= self.scale
        numbers[:, self.elements : 2 * self.elements] = counts > 0
        if points is not None:
            numbers[:, 2 * self.elements :] = points
        return numbers

    def embed(self, symmetry: np.ndarray) -> torch.Tensor:
        """``(n, hidden units)``: the part of the first layer that the symmetry decides, from rows ``(n, 3)`` of the embedding table (see
        :func:`symmetry_rows`)."""
        return functional.embedding_bag(torch.from_numpy(symmetry), self.symmetry.weight, mode="sum")

    def forward(self, embedded: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
        """Features of states from their embedded symmetry and their description."""
        features = embedded + functional.linear(torch.from_numpy(numbers), self.numbers.weight, self.numbers.bias)
        for layer in self.hidden:
            features = layer(functional.leaky_relu(features))
        return functional.leaky_relu(features)


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
            betas[:, :, 0] = UNIFORM_RAW + spread
            betas[:, :, 1] = UNIFORM_RAW - spread

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw parameters ``(n, 6, components, 3)`` and logits ``(n,)``."""
        raw = functional.linear(features, self.linear.weight, self.linear.bias)
        return raw[:, :-1].view(-1, DIMENSIONS, self.components, 3), raw[:, -1]


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

    def symmetry_logits(self, features: torch.Tensor, allowed: np.ndarray) -> torch.Tensor:
        """``(states, 243)`` logits of the space-group subspace from the features of its states, -inf where not ``allowed``."""
        logits = functional.linear(features, self.symmetry_head.weight, self.symmetry_head.bias)
        return logits.masked_fill(torch.from_numpy(~allowed), -torch.inf)

    def composition_logits(self, features: torch.Tensor) -> torch.Tensor:
        """``(n, actions)`` logits of the composition subspace, without any mask."""
        return functional.linear(features, self.composition_head.weight, self.composition_head.bias)

    def backward_outputs(self, symmetry: np.ndarray, numbers: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw parameters and logits of the backward policy of the lattice; constants where it is uniform."""
        if self.settings.backward == "learned":
            return self.backward_head(self.backward_trunk(self.backward_trunk.embed(symmetry), numbers))
        raw = torch.zeros(len(symmetry), DIMENSIONS, self.settings.mixture_components, 3)
        raw[..., 0:2] = UNIFORM_RAW
        return raw, torch.zeros(len(symmetry))


class _seeded:
    """Initialise layers from a generator, leaving torch's global state as it was."""

    def __init__(self, generator: torch.Generator) -> None:
        self.seed = int(torch.randint(2**62, (1,), generator=generator))

    def __enter__(self) -> None:
        self.state = torch.random.get_rng_state()
        torch.random.default_generator.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.state)


def log_mixture(raw: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Log-density of mixtures of Betas, raw ``(m, components, 3)``, at values in (0, 1) ``(m,)``.

    The parameters of the Betas are log-uniform in [0.1, 100] in the sigmoid of the raw outputs.
    """
    shapes = SMALLEST * torch.exp(LOG_RANGE * torch.sigmoid(raw[..., 0:2]))
    log_beta = torch.lgamma(shapes).sum(-1) - torch.lgamma(shapes.sum(-1))
    logs = torch.stack([torch.log(value), torch.log1p(-value)], dim=1)[:, None]
    return torch.logsumexp(torch.log_softmax(raw[..., 2], dim=-1) + ((shapes - 1) * logs).sum(-1) - log_beta, dim=-1)
