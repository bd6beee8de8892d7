"""Training of one network: losses, batches and the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from surrogates.inputs import Inputs
from surrogates.network import Network, NetworkSettings, Output
from surrogates.tables import Deformations, Table

NATURAL_ENERGY = 0.1
"""eV/atom; strain energies are compared as log(1 + energy / NATURAL_ENERGY): relative where large, absolute where small."""


class TrainingSettings(BaseModel):
    """How a network is trained from nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSettings = Field(default=NetworkSettings(), description="size of the network")
    epochs: float = Field(default=22, gt=0, description="passes over the rows")
    batch_size: int = Field(default=256, ge=1, description="rows per step")
    deformed_batch: int = Field(default=16, ge=0, description="crystals with wrong cells per step")
    learning_rate: float = Field(default=2e-3, gt=0, description="highest rate of AdamW, reached after the warm-up")
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(default=0.02, ge=0, description="decoupled weight decay")
    average: float = Field(default=0.998, ge=0, lt=1, description="decay per step of the exponential average of the weights")
    hide_source: float = Field(default=0.5, ge=0, le=1, description="share of rows served with the source unknown and no cell")
    energy_elbow: float = Field(default=0.15, gt=0, description="eV/atom; errors below it count squared, above it linearly")
    gap_elbow: float = Field(default=0.3, gt=0, description="eV; likewise for gaps")
    gap_weight: float = Field(default=0.35, ge=0, description="weight of the gap loss against the energy loss")
    unstable_weight: float = Field(default=2.5, ge=0, description="weight of rows with a formation energy above zero")


def huber(error: torch.Tensor, elbow: float) -> torch.Tensor:
    """|error| beyond the elbow and a parabola below it, with the same value and slope where they meet (in units of the error)."""
    size = error.abs()
    return torch.where(size < elbow, 0.5 * size.square() / elbow, size - 0.5 * elbow)


def log_strain(energy: torch.Tensor) -> torch.Tensor:
    """log(1 + energy / NATURAL_ENERGY), odd in the energy."""
    return energy.sign() * torch.log1p(energy.abs() / NATURAL_ENERGY)


def row_loss(
    output: Output, inputs: Inputs, table: Table, settings: TrainingSettings, with_cell: torch.Tensor, real: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of a batch: energies, gaps, whether there is a gap, the scale of each error and the expected volume, mean over heads.

    ``with_cell`` (n,) says for which rows the strain of the cell counts towards the energy, ``real`` (n,) which cells are those of
    relaxed crystals (they teach the expected volume, and that their strain is small). Labels with noise s count less, by
    ``1 / (1 + (s / elbow)^2)``.
    """
    energy_known, gap_known = (~table.targets.isnan()).unbind(1)
    target_energy, target_gap = table.targets.nan_to_num().unbind(1)
    weight = 1 / (1 + (table.noise / torch.tensor([settings.energy_elbow, settings.gap_elbow])).square())
    weight_energy = weight[:, 0] * energy_known * torch.where(target_energy > 0, settings.unstable_weight, 1.0)
    weight_gap = weight[:, 1] * gap_known
    error = output.energy + torch.where(with_cell, output.strain, 0.0) - target_energy
    energy = (huber(error, settings.energy_elbow) * weight_energy).sum() / weight_energy.sum().clamp(min=1)
    metal = target_gap <= 0
    gap_error = torch.where(metal, functional.relu(output.gap), output.gap) - target_gap
    gap = (huber(gap_error, settings.gap_elbow) * weight_gap).sum() / weight_gap.sum().clamp(min=1)
    kind = functional.binary_cross_entropy_with_logits(output.gap_logit, (~metal).float().expand_as(output.gap_logit), reduction="none")
    scales = []
    for errors, log_scale, known in (
        (error.detach(), output.log_scale_energy, energy_known),
        (output.gap.detach().clamp(min=0) - target_gap, output.log_scale_gap, gap_known),
    ):
        scale = log_scale.clamp(-7, 3)
        scales.append(((scale + (errors.abs() + 3e-3) * torch.exp(-scale)) * known).sum() / known.sum().clamp(min=1))
    volume = ((output.volume - inputs.log_volume).abs() * real).sum() / real.sum().clamp(min=1)
    heads = len(output.energy)
    parts = {
        "energy": energy / heads,
        "gap": settings.gap_weight * gap / heads,
        "kind": 0.05 * (kind * gap_known).sum() / gap_known.sum().clamp(min=1) / heads,
        "scales": 0.02 * (scales[0] + scales[1]) / heads,
        "volume": 0.4 * volume / heads,
        "real cells": 0.05 * (log_strain(output.strain) * real).sum() / real.sum().clamp(min=1) / heads,
    }
    return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


def strain_loss(network: Network, batch: Deformations) -> torch.Tensor:
    """Loss of wrong cells: the strain energy against the potential's, as :func:`log_strain`, mean over cells and heads."""
    crystal = network.trunk(Inputs.of(batch.rows), torch.zeros(len(batch), dtype=torch.int64))
    strain, _ = network.cell(crystal[batch.crystal], Inputs.of(batch.deformed()))
    return 0.1 * huber(log_strain(strain) - log_strain(batch.energies), 0.3).mean()


def batches(table: Table, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Index batches of one pass in random order."""
    yield from torch.randperm(len(table), generator=generator).split(size)


def pick(deformed: Deformations, number: int, generator: torch.Generator) -> Deformations:
    """A random batch of crystals with all their cells."""
    chosen = torch.randperm(len(deformed), generator=generator)[:number]
    position = torch.full((len(deformed),), -1).scatter(0, chosen, torch.arange(len(chosen)))
    crystal = position[deformed.crystal]
    where = crystal >= 0
    index = chosen.numpy()
    return Deformations(
        deformed.rows[chosen],
        crystal[where],
        deformed.cells[where],
        deformed.energies[where],
        deformed.fold[index],
        deformed.in_22el[index],
    )


def rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """The learning rate's share of its highest value: a linear rise, then half a cosine."""
    rise = max(1.0, settings.warm_up * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise)))


def train_network(
    table: Table,
    deformed: Deformations | None,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda line: None,
) -> Network:
    """Train one network from nothing; the exponential average of its weights is returned.

    Deterministic for a generator state and thread count.
    """
    with torch.random.fork_rng():  # torch's initialisers and dropout read the global state only: lend it one, and give it back
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return _train(table, deformed, settings, generator, progress)


def _train(
    table: Table,
    deformed: Deformations | None,
    settings: TrainingSettings,
    generator: torch.Generator,
    progress: Callable[[str], None],
) -> Network:
    network = Network(settings.network)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    decayed = [p for p in network.parameters() if p.ndim > 1]
    other = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    per_pass = math.ceil(len(table) / settings.batch_size)
    steps = math.ceil(settings.epochs * per_pass)
    step = 0
    while step < steps:
        sums: dict[str, float] = {}
        for index in batches(table, settings.batch_size, generator):
            if step == steps:
                break
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate(step, steps, settings)
            loss, parts = _step_loss(network, table[index], deformed, settings, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            decay = min(settings.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), list(network.state_dict().values()), 1 - decay)
            sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
            step += 1
        progress(f"step {step}/{steps} " + " ".join(f"{name} {value / per_pass:.4f}" for name, value in sums.items()))
    network.load_state_dict(average)
    return network.eval()


def _step_loss(
    network: Network, batch: Table, deformed: Deformations | None, settings: TrainingSettings, generator: torch.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    hidden = torch.rand(len(batch), generator=generator) < settings.hide_source
    source = torch.where(hidden, 0, batch.source)
    inputs = Inputs.of(batch.rows)
    crystal = network.trunk(inputs, source)
    strain, expected = network.cell(crystal, inputs)
    loss, parts = row_loss(network.outputs(crystal, strain, expected)[0], inputs, batch, settings, ~hidden, inputs.known)
    if deformed is not None and settings.deformed_batch:
        extra = strain_loss(network, pick(deformed, settings.deformed_batch, generator))
        loss, parts = loss + extra, parts | {"strain": float(extra.detach())}
    return loss, parts
