"""Training of one network: losses, batches and the schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from surrogates.features import cell_features, concatenate
from surrogates.inputs import Inputs
from surrogates.network import NATURAL_ENERGY, OLDER, Network, NetworkSettings, Output
from surrogates.tables import Deformations, Table


class TrainingSettings(BaseModel):
    """How a network is trained from nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkSettings = Field(default=NetworkSettings(), description="size of the network")
    epochs: float = Field(default=36, gt=0, description="passes over the rows")
    batch_size: int = Field(default=512, ge=1, description="rows per step")
    deformed_batch: int = Field(default=32, ge=0, description="crystals with wrong cells per step")
    learning_rate: float = Field(default=3e-3, gt=0, description="highest rate of both optimisers, reached after the warm-up")
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(default=0.02, ge=0, description="decoupled weight decay")
    average: float = Field(default=0.998, ge=0, lt=1, description="decay per step of the exponential average of the weights")
    hide_source: float = Field(default=0.5, ge=0, le=1, description="share of rows served with the source unknown and no cell")
    energy_elbow: float = Field(default=0.05, gt=0, description="eV/atom; errors below it count squared, above it linearly")
    gap_elbow: float = Field(default=0.3, gt=0, description="eV; likewise for gaps")
    gap_weight: float = Field(default=0.35, ge=0, description="weight of the gap loss against the energy loss")
    volume_weight: float = Field(default=1.5, ge=0, description="weight of the error of the log volume that real cells teach")
    cell_share: float = Field(
        default=0.2, ge=0, le=1, description="share of the gradient of volumes and strains that reaches the trunk; the rest is theirs alone"
    )
    unstable_weight: float = Field(default=3.0, ge=0, description="weight of rows with a formation energy above zero")
    reference_weight: float = Field(
        default=10.0, ge=0, description="weight of elements in their reference state, from which all formation energies are counted"
    )


REFERENCE = 0.005
"""eV/atom; an element whose formation energy is nearer to zero than this is in its reference state."""


def huber(error: torch.Tensor, elbow: float) -> torch.Tensor:
    """|error| beyond the elbow and a parabola below it, with the same value and slope where they meet (in units of the error)."""
    size = error.abs()
    return torch.where(size < elbow, 0.5 * size.square() / elbow, size - 0.5 * elbow)


def log_strain(energy: torch.Tensor) -> torch.Tensor:
    """log(1 + energy / NATURAL_ENERGY), odd in the energy."""
    return energy.sign() * torch.log1p(energy.abs() / NATURAL_ENERGY)


def row_loss(
    output: Output, log_volume: torch.Tensor, table: Table, settings: TrainingSettings, with_cell: torch.Tensor, real: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of a batch: energies, gaps, whether there is a gap, the scale of each error and the expected volume, mean over heads.

    ``with_cell`` (n,) says for which rows the strain of the cell counts towards the energy, ``real`` (n,) which cells are those of
    relaxed crystals (they teach the expected volume, and that their strain is small). Labels with noise s count less, by
    ``1 / (1 + (s / elbow)^2)``.
    """
    energy_known, gap_known = (~table.targets.isnan()).unbind(1)
    target_energy, target_gap = table.targets.nan_to_num().unbind(1)
    weight = 1 / (1 + (table.noise / torch.tensor([settings.energy_elbow, settings.gap_elbow])).square())
    reference = ((table.rows.elements > 0).sum(1) == 1) & (target_energy.abs() < REFERENCE)
    importance = torch.where(target_energy > 0, settings.unstable_weight, 1.0)
    weight_energy = weight[:, 0] * energy_known * torch.where(reference, settings.reference_weight, importance)
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
    volume = ((output.volume - log_volume).abs() * real).sum() / real.sum().clamp(min=1)
    heads = len(output.energy)
    parts = {
        "energy": energy / heads,
        "gap": settings.gap_weight * gap / heads,
        "kind": 0.05 * (kind * gap_known).sum() / gap_known.sum().clamp(min=1) / heads,
        "scales": 0.02 * (scales[0] + scales[1]) / heads,
        "volume": settings.volume_weight * volume / heads,
        "real cells": 0.05 * (log_strain(output.strain) * real).sum() / real.sum().clamp(min=1) / heads,
    }
    return torch.stack(list(parts.values())).sum(), {name: float(value.detach()) for name, value in parts.items()}


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
    optimisers = make_optimisers(network, settings)
    per_pass = math.ceil(len(table) / settings.batch_size)
    steps = math.ceil(settings.epochs * per_pass)
    step = 0
    while step < steps:
        sums: dict[str, float] = {}
        for index in batches(table, settings.batch_size, generator):
            if step == steps:
                break
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = settings.learning_rate * rate(step, steps, settings)
            loss, parts = _step_loss(network, table[index], deformed, settings, generator)
            network.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
            decay = min(settings.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), list(network.state_dict().values()), 1 - decay)
            sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
            step += 1
        progress(f"step {step}/{steps} " + " ".join(f"{name} {value / per_pass:.4f}" for name, value in sums.items()))
    network.load_state_dict(average)
    return network.eval()


SMALLEST_MATRIX = 48
"""Dense layers with fewer inputs or outputs are left to AdamW."""


def make_optimisers(network: Network, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the weights of the larger dense layers, AdamW for all else.

    Muon takes orthogonal steps, and its rate is scaled to AdamW's (Liu et al., Muon is Scalable for LLM Training, 2025): fewer passes
    lead to the same error.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    large = [layer.weight for layer in layers if min(layer.weight.shape) >= SMALLEST_MATRIX]
    taken = {id(weight) for weight in large}
    rest = [p for p in network.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    if not large:
        return [adam]
    return [adam, torch.optim.Muon(large, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")]


def _step_loss(
    network: Network, batch: Table, deformed: Deformations | None, settings: TrainingSettings, generator: torch.Generator
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of a batch of rows and of some crystals in wrong cells; both go through the network together."""
    n = len(batch)
    hidden = torch.rand(n, generator=generator) < settings.hide_source
    source = torch.where(hidden, 0, batch.source)
    on_its_own_scale = (source == OLDER)[:, None]
    batch = replace(batch, targets=torch.where(on_its_own_scale, batch.as_published().targets, batch.targets))
    wrong = pick(deformed, settings.deformed_batch, generator) if deformed is not None and settings.deformed_batch else None
    inputs = Inputs.of(batch.rows if wrong is None else concatenate([batch.rows, wrong.rows]))
    source = functional.pad(source, (0, len(inputs.known) - n))
    crystal = network.trunk(inputs, source)
    known = inputs.known[:n].nonzero()[:, 0]
    which, shape, log_volume = known, inputs.shape[known], inputs.log_volume[known]
    if wrong is not None:
        wrong_volume, wrong_shape = cell_features(wrong.deformed())
        which = torch.cat([which, n + wrong.crystal])
        shape, log_volume = torch.cat([shape, wrong_shape]), torch.cat([log_volume, wrong_volume])
    described = crystal[which]
    described = settings.cell_share * described + (1 - settings.cell_share) * described.detach()
    strains, volumes = network.strain(described, shape, log_volume)
    none = torch.zeros(len(strains), n)
    strain, expected = (none.index_copy(1, known, values[:, : len(known)]) for values in (strains, volumes))
    output, _ = network.outputs(crystal[:n], strain, expected)
    output = output._replace(energy=output.energy + network.shift(inputs, source)[:n])
    loss, parts = row_loss(output, inputs.log_volume[:n], batch, settings, ~hidden, inputs.known[:n])
    if wrong is not None:
        extra = strain_loss(strains[:, len(known) :], wrong.energies)
        loss, parts = loss + extra, parts | {"strain": float(extra.detach())}
    return loss, parts


def strain_loss(strain: torch.Tensor, energies: torch.Tensor) -> torch.Tensor:
    """Loss of wrong cells: strain energies ``(heads, cells)`` against the potential's, as :func:`log_strain`."""
    return 0.1 * huber(log_strain(strain) - log_strain(energies), 0.3).mean()
