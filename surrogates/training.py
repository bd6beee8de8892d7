"""Fine-tuning on a campaign's labels, with replay so that nothing is forgotten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from al_crystal.crystal import CrystalBatch
from al_crystal.seeds import rng, torch_rng
from surrogates.calibration import Calibration, Consensus
from surrogates.ensemble import Ensemble
from surrogates.features import Rows, concatenate
from surrogates.inputs import Inputs
from surrogates.learning import TrainingSettings, huber, log_strain, row_loss
from surrogates.network import Network, Output
from surrogates.replay import replay_rows
from surrogates.residual import Residual, Scores
from surrogates.settings import SurrogateSettings
from surrogates.tables import CONFLICT, PROPERTIES, REFERENCE_LEVEL, Table

if TYPE_CHECKING:
    from al_crystal.crystal import Observation

LOSS = TrainingSettings()
"""Labels are learned with the losses of pretraining."""
LARGEST_SCORE = 5.0
"""Standardised errors beyond this count as this, so that one wild label does not blow up every interval."""


def fine_tune(ensemble: Ensemble, observations: Sequence[Observation], settings: SurrogateSettings, seed: int) -> Ensemble:
    """Teach an ensemble the labels of a campaign.

    Every network learns all rows but those of its own share of the groups, on which it is then tested: these held-out errors
    set the inflation of the spread and stand in the report. Each step mixes labels with replay crystals, on which a network
    is held to what it said before. Labels of another level of theory go through a correction of their own that is expected to be no
    larger than their noise. What the networks leave unexplained in proposed cells, of labels (each by the network that did not learn it)
    and of looks (which no network learns), teaches the residual (:mod:`surrogates.residual`), anew in every round; where there are
    looks alone the networks stay what they were.

    Args:
        ensemble: where to start from (``settings.start == "cold"`` starts from the pretrained one instead).
        observations: all labelled rows so far; properties the ensemble does not predict are ignored.
        settings: the YAML section ``surrogate``.
        seed: same seed and thread count, same result.

    Returns:
        a new ensemble; ``report`` counts rows, what was left out and what contradicts itself, and states errors before and after.
    """
    if settings.start == "cold":
        ensemble = Ensemble.load(settings.pretrained) if settings.pretrained else Ensemble.pretrained()
    levels = sorted({value.level_of_theory for row in observations for name, value in row.properties.items() if name in PROPERTIES})
    start = replace(ensemble.with_levels(tuple(levels)), residual=None)
    looks = [row for row in observations if row.kind == "look"]
    table, report = observation_table([row for row in observations if row.kind != "look"], start.levels, settings)
    if not settings.epochs:
        return replace(start, report=report)
    if not len(table):
        return replace(start, report=report, residual=_residual(start, None, looks, settings))
    shares = _shares(table.columns["group"], len(start.networks), seed)
    for index, network in enumerate(start.networks):
        kept = torch.tensor(shares != index)
        _fine_tune_network(network, table[kept], settings, torch_rng(seed, 0, "fine-tune", index))
    distance = start.distance.extended(table.rows)
    before = _errors(ensemble.with_levels(start.levels).networks, table, None)
    held_out = _errors(start.networks, table, shares)
    calibration = _inflated(start, table, held_out, settings)
    report |= {
        "before": _mean_absolute(before),
        "held out": _mean_absolute(held_out),
        "fitted": _mean_absolute(_errors(start.networks, table, None)),
    }
    tuned = replace(start, distance=distance, calibration=calibration, report=report)
    return replace(tuned, residual=_residual(tuned, (table, held_out), looks, settings))


def _residual(
    tuned: Ensemble, labels: tuple[Table, torch.Tensor] | None, looks: Sequence[Observation], settings: SurrogateSettings
) -> Residual | None:
    """What the tuned networks leave unexplained in proposed cells: of labels with their held-out errors ``(n, 2)``, and of looks."""
    parts = []
    if labels is not None:
        table, held_out = labels
        proposed = torch.tensor(table.columns["proposed"])
        parts.append((table[proposed].rows, held_out[proposed, 0]))
    if looks:
        looked, _ = observation_table(looks, tuned.levels, settings)
        parts.append((looked.rows, _errors(tuned.networks, looked, None)[:, 0]))
    if not parts:
        return None
    rows, errors = concatenate([part for part, _ in parts]), torch.cat([part for _, part in parts])
    return Residual.fit(Scores.of(rows, tuned.predict_rows(rows), -errors), tuned.known)


def observation_table(
    observations: Sequence[Observation], levels: tuple[str, ...], settings: SurrogateSettings
) -> tuple[Table, dict[str, Any]]:
    """Observations as a table (columns ``group``, ``relaxed``, ``proposed``, ``strain``), and a report of what was left out or
    contradicts itself."""
    possible = [row for row in observations if row.crystal.volume > 0]
    known = [row for row in possible if any(name in row.properties for name in PROPERTIES)]
    seen: dict[tuple[str, str, str], float] = {}
    conflicts = not_numbers = 0
    targets, noise, level = (torch.full((len(known), 2), value) for value in (math.nan, 0.0, 0.0))
    unknown_noise = (settings.unknown_noise_energy, settings.unknown_noise_gap)
    for index, row in enumerate(known):
        for column, name in enumerate(PROPERTIES):
            if (value := row.properties.get(name)) is None:
                continue
            if not math.isfinite(value.value):
                not_numbers += 1
                continue
            before = seen.setdefault((row.crystal.id, name, value.level_of_theory), value.value)
            conflicts += abs(before - value.value) > CONFLICT[column]
            targets[index, column] = value.value
            if value.level_of_theory != REFERENCE_LEVEL:
                level[index, column] = 1 + levels.index(value.level_of_theory)
                noise[index, column] = unknown_noise[column]
            noise[index, column] = noise[index, column] if value.standard_deviation is None else value.standard_deviation
    report = {
        "rows": len(known),
        "rows whose cell closes no body, left out": len(observations) - len(possible),
        "rows without a predicted property, left out": len(possible) - len(known),
        "labels that are not finite numbers, left out": not_numbers,
        "labels of one crystal and level that differ by more than 0.1 eV/atom or 0.5 eV, all kept": conflicts,
        "levels of theory": list(levels),
    }
    if not known:
        empty = Rows(torch.zeros(0, 1).long(), torch.zeros(0, 1), torch.zeros(0).long(), torch.zeros(0, 6))
        return Table(empty, targets, noise, torch.zeros(0).long(), level.long(), levels), report
    import numpy as np

    columns = {
        "group": np.array([row.group for row in known]),
        "relaxed": np.array([row.kind == "relaxed" for row in known]),
        "proposed": np.array([row.kind == "proposal" for row in known]),
        "strain": strain_labels(known),
    }
    rows = Rows.from_batch(CrystalBatch.from_crystals([row.crystal for row in known]))
    return Table(rows, targets, noise, torch.zeros(len(known)).long(), level.long(), levels, columns), report


def strain_labels(rows: Sequence[Observation]) -> Any:
    """``(n,)`` eV/atom that a proposed cell lies above the relaxed one of the same group and level of theory; NaN for other rows."""
    import numpy as np

    name = PROPERTIES[0]
    values = [row.properties.get(name) for row in rows]
    relaxed = {
        (row.group, value.level_of_theory): value.value
        for row, value in zip(rows, values, strict=True)
        if value is not None and row.kind == "relaxed"
    }
    lowest = [
        math.nan if value is None else relaxed.get((row.group, value.level_of_theory), math.nan)
        for row, value in zip(rows, values, strict=True)
    ]
    above = [math.nan if value is None else value.value - low for value, low in zip(values, lowest, strict=True)]
    return np.array([math.nan if row.kind == "relaxed" else value for row, value in zip(rows, above, strict=True)], dtype=np.float32)


def _shares(groups: Any, networks: int, seed: int) -> Any:
    """``(n,)`` the network that each row is kept from; -1 (no network) where there are too few groups to keep any apart."""
    import numpy as np

    names = sorted(set(groups.tolist()))
    if networks < 2 or len(names) < 2 * networks:
        return np.full(len(groups), -1)
    order = rng(seed, 0, "shares").permutation(len(names))
    share = {name: int(order[index]) % networks for index, name in enumerate(names)}
    return np.array([share[name] for name in groups])


def _fine_tune_network(network: Network, table: Table, settings: SurrogateSettings, generator: torch.Generator) -> None:
    """Train one network in place."""
    replay = replay_rows()
    with torch.no_grad():
        memory = [
            network(Inputs.of(replay[where]), torch.zeros(len(where), dtype=torch.int64)) for where in torch.arange(len(replay)).split(1024)
        ]
    remembered = Output(*(torch.cat(values, dim=1) for values in zip(*memory, strict=True)))
    per_step = round(settings.batch_size * settings.replay_share / (1 - settings.replay_share))
    steps = settings.epochs * math.ceil(len(table) / settings.batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    network.eval()  # no dropout: what is remembered was said without it
    for step in range(steps):
        if step % math.ceil(len(table) / settings.batch_size) == 0:
            chunks = torch.randperm(len(table), generator=generator).split(settings.batch_size)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = _label_loss(network, table[chunks[step % len(chunks)]], settings)
        if per_step and settings.replay_weight:
            where = torch.randint(len(replay), (per_step,), generator=generator)
            output = network(Inputs.of(replay[where]), torch.zeros(per_step, dtype=torch.int64))
            loss = loss + settings.replay_weight * _replay_loss(output, Output(*(value[:, where] for value in remembered)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()


def _label_loss(network: Network, table: Table, settings: SurrogateSettings) -> torch.Tensor:
    """The loss of pretraining on the labels, and a prior that holds the corrections of other levels within their noise."""
    inputs = Inputs.of(table.rows)
    crystal = network.trunk(inputs, table.source)
    strain, expected = network.cell(crystal, inputs)
    output, hidden = network.outputs(crystal, strain, expected)
    correction = network.corrections(hidden, table.level)
    output = output._replace(energy=output.energy + correction[..., 0], gap=output.gap + correction[..., 1])
    relaxed = torch.tensor(table.columns["relaxed"])
    loss, _ = row_loss(output, inputs.log_volume, table, LOSS, torch.ones(len(table), dtype=torch.bool), relaxed)
    elbows = torch.tensor([LOSS.energy_elbow, LOSS.gap_elbow * LOSS.gap_weight])
    prior = 0.5 * elbows * (correction / table.noise.clamp(min=1e-2)).square()
    return loss + (prior * ~table.targets.isnan()).sum(2).mean() + _strain_loss(strain, torch.tensor(table.columns["strain"]), settings)


def _strain_loss(strain: torch.Tensor, labels: torch.Tensor, settings: SurrogateSettings) -> torch.Tensor:
    """What proposed cells cost above relaxed ones, compared as in pretraining: by energies alone a strain near zero hardly moves."""
    known = ~labels.isnan()
    error = huber(log_strain(strain) - log_strain(labels.nan_to_num()), 0.3) * known
    return settings.strain_weight * error.sum() / (len(strain) * known.sum().clamp(min=1))


def _replay_loss(output: Output, remembered: Output) -> torch.Tensor:
    """How far a network has moved from what it said before, in the units of the training losses."""
    return (
        huber(output.energy - remembered.energy, 0.05).mean()
        + LOSS.gap_weight * huber(output.gap - remembered.gap, 0.1).mean()
        + 0.3 * huber(log_strain(output.strain) - log_strain(remembered.strain), 0.1).mean()
        + 0.05 * huber(output.log_scale_energy - remembered.log_scale_energy, 0.2).mean()
        + 0.05 * huber(output.log_scale_gap - remembered.log_scale_gap, 0.2).mean()
        + 0.05 * huber(output.gap_logit - remembered.gap_logit, 0.5).mean()
        + 0.2 * huber(output.volume - remembered.volume, 0.05).mean()
    )


def _errors(networks: tuple[Network, ...], table: Table, shares: Any) -> torch.Tensor:
    """``(n, 2)`` prediction - label at the label's level; with ``shares`` by the network that did not learn the row (NaN if all did)."""
    inputs = Inputs.of(table.rows)
    values = []
    with torch.no_grad():
        for network in networks:
            crystal = network.trunk(inputs, table.source)
            strain, expected = network.cell(crystal, inputs)
            output, hidden = network.outputs(crystal, strain, expected)
            correction = network.corrections(hidden, table.level)
            corrected = output._replace(energy=output.energy + correction[..., 0], gap=output.gap + correction[..., 1])
            values.append(Consensus.of(corrected).guess)
    together = torch.stack(values)
    if shares is None:
        return together.mean(0) - table.targets
    share = torch.tensor(shares)
    own = together.gather(0, share.clamp(min=0)[None, :, None].expand(1, -1, 2))[0] - table.targets
    return own.masked_fill((share < 0)[:, None], math.nan)


def _mean_absolute(errors: torch.Tensor) -> dict[str, float | None]:
    means = [errors[:, column][~errors[:, column].isnan()].abs() for column in range(2)]
    return {name: float(values.mean()) if len(values) else None for name, values in zip(PROPERTIES, means, strict=True)}


def _inflated(ensemble: Ensemble, table: Table, errors: torch.Tensor, settings: SurrogateSettings) -> Calibration:
    """Inflate (or deflate) the spread by the held-out standardised errors, shrunk towards 1 by ``prior_strength`` labels."""
    predicted = ensemble.predict_rows(table.rows)
    deviation = predicted.standard_deviation
    total = (deviation.square() + table.noise.square()).sqrt()
    scores = ((errors + predicted.mean - predicted.median) / total).clamp(-LARGEST_SCORE, LARGEST_SCORE).square()
    parts = {}
    for column, name in enumerate(("energy", "gap")):
        known = scores[:, column][~scores[:, column].isnan()]
        part = getattr(ensemble.calibration, name)
        if len(known) or settings.prior_strength:
            factor = math.sqrt((settings.prior_strength + float(known.sum())) / (settings.prior_strength + len(known)))
            part = part.model_copy(update={"inflation": part.inflation * factor})
        parts[name] = part
    return ensemble.calibration.model_copy(update=parts)
