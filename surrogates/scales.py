"""The last layer of the error scales, fitted again on rows that no network was trained on.

What a network learns about its own errors while it is trained it learns from rows that it half knows by heart. The trunk is kept, and
of the heads only the weights that say how large an error will be are fitted to the errors on rows kept apart.
"""

from __future__ import annotations

import copy

import torch

from surrogates.inputs import Inputs
from surrogates.network import Network, Output, mean_strain
from surrogates.tables import Table

FIRST_SCALE = 2  # the outputs of a head are energy, gap, log scale of either error, logit of a gap
STEPS, RATE, PRIOR = 300, 5e-3, 1e-3
SMALLEST_ERROR = 3e-3


def refitted(networks: tuple[Network, ...], table: Table) -> tuple[Network, ...]:
    """Copies of the networks whose log scales fit the absolute errors of their ensemble on ``table``, as served (source unknown).

    Laplace likelihood; a weak prior holds the weights where they were. Gaps are fitted on non-metals: how wrong the gap of a metal is
    says little about the others.
    """
    hidden, values = _forward(networks, table)
    weight = torch.cat([network.head_weight.detach()[:, :, FIRST_SCALE : FIRST_SCALE + 2] for network in networks])
    bias = torch.cat([network.head_bias.detach()[:, 0, FIRST_SCALE : FIRST_SCALE + 2] for network in networks])
    for column in range(2):
        error = (values[:, column] - table.targets[:, column]).abs()
        known = ~error.isnan() & ((table.targets[:, column] > 0) | (column == 0))
        weight[:, :, column], bias[:, column] = _fit(hidden[:, known], error[known], weight[:, :, column], bias[:, column])
    made, first = [], 0
    for network in networks:
        changed, last = copy.deepcopy(network), first + network.settings.heads
        with torch.no_grad():
            changed.head_weight[:, :, FIRST_SCALE : FIRST_SCALE + 2] = weight[first:last]
            changed.head_bias[:, 0, FIRST_SCALE : FIRST_SCALE + 2] = bias[first:last]
        made.append(changed)
        first = last
    return tuple(made)


def _forward(networks: tuple[Network, ...], table: Table, chunk: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden numbers ``(s, n, hidden)`` of all heads, and the ensemble's energies and gaps ``(n, 2)``."""
    hidden, values = [], []
    with torch.no_grad():
        for where in torch.arange(len(table)).split(chunk):
            inputs = Inputs.of(table.rows[where])
            outputs = []
            for network in networks:
                crystal = network.trunk(inputs, torch.zeros(len(where), dtype=torch.int64))
                outputs.append(network.outputs(crystal, *network.cell(crystal, inputs)))
            hidden.append(torch.cat([numbers for _, numbers in outputs]))
            said = Output(*(torch.cat(parts) for parts in zip(*(output for output, _ in outputs), strict=True)))
            values.append(torch.stack([said.energy.mean(0) + mean_strain(said.strain), said.gap.clamp(min=0).mean(0)], dim=1))
    return torch.cat(hidden, dim=1), torch.cat(values)


def _fit(hidden: torch.Tensor, error: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """New weights ``(s, hidden)`` and biases ``(s,)`` of log scales for the errors ``(n,)``."""
    start = weight.clone()
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=RATE)
    for _ in range(STEPS):
        scale = ((hidden @ weight[:, :, None])[..., 0] + bias[:, None]).clamp(-7, 3)
        loss = (scale + (error + SMALLEST_ERROR) * torch.exp(-scale)).mean() + PRIOR * (weight - start).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weight.detach(), bias.detach()
