"""Train the band-gap head on a potential's atom features.

``python -m oracles.training.band_gap --potential M3GNet --cache FOLDER`` (after :mod:`oracles.training.structures` filled the cache)
trains an ensemble on the structures of folds 2-9 with a DFT gap, and on MatBench's gaps (composition alone) of the same folds; each
member leaves out one chemical system in forty more, on which the size of the errors is calibrated. Folds 0 and 1 are tested on once,
at the end. Writes
``oracles/pretrained/band_gap_<level>.safetensors`` and a model card beside it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from al_crystal.seeds import torch_rng
from oracles.gap_features import ElementTable
from oracles.gap_network import GapArchitecture, GapEnsemble, GapNetwork
from oracles.training.formation_energy import parse_formula
from oracles.training.structures import TEST_FOLDS, labelled_crystals, read_features

PRETRAINED = Path(str(files("oracles") / "pretrained"))
PARTS = 40
CENTRING = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "R": 3, "F": 4}


@dataclass(frozen=True)
class Training:
    """The knobs of one training run."""

    members: int = 4
    epochs: int = 24
    batch: int = 128
    composition_share: float = 0.4  # of MatBench's rows seen per epoch
    composition_weight: float = 0.5
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.03
    seed: int = 0


@dataclass(frozen=True)
class GapData:
    """Crystals with structures (first) and compositions without.

    Attributes:
        composition: ``(n, width)``.
        gap: ``(n,)`` eV.
        fold: ``(n,)``.
        part: ``(n,)`` finer split by chemical system, 0-39.
        atoms: ``(all atoms, width)`` of the structures, one after another.
        start: ``(structures + 1,)`` where each one's atoms start.
        few: ``(structures,)`` within the 22 elements.
        formulas: ``(structures,)``.
    """

    composition: torch.Tensor
    gap: torch.Tensor
    fold: np.ndarray
    part: np.ndarray
    atoms: torch.Tensor
    start: torch.Tensor
    few: np.ndarray
    formulas: np.ndarray

    @property
    def structures(self) -> int:
        """How many of the rows have a structure."""
        return len(self.start) - 1

    def atoms_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The atoms of these structures, one after another, and how many each has."""
        sizes = self.start[rows + 1] - self.start[rows]
        ends = sizes.cumsum(0)
        offset = torch.repeat_interleave(self.start[rows] - (ends - sizes), sizes)
        return self.atoms[torch.arange(int(sizes.sum())) + offset], sizes


def load_data(data: Path, cache: Path, table: ElementTable) -> GapData:
    """Structures with their gaps and features, then MatBench's compositions with theirs."""
    import pandas as pd
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    centring = {number: CENTRING[sg_symbol_from_int_number(number)[0]] for number in range(1, 231)}
    rows = labelled_crystals(data).dropna(subset=["band_gap"]).drop_duplicates("id").set_index("id")
    cached = [(key, features) for key, features in read_features(cache) if key in rows.index]
    rows = rows.loc[[key for key, _ in cached]]
    compositions: list[dict[str, float]] = [
        {element: count / centring[group] for element, count in composition.items()}
        for composition, group in zip(rows["composition"], rows["space_group_number"], strict=True)
    ]
    matbench = pd.read_parquet(data / "matbench_mp_gap_comp_sg.parquet")
    compositions += [dict(parse_formula(text)) for text in matbench["composition"]]
    gaps = np.concatenate([rows["band_gap"].to_numpy(float), matbench["band_gap_pbe"].to_numpy(float)])
    return GapData(
        composition=torch.tensor(np.array([table.features(composition) for composition in compositions]), dtype=torch.float32),
        gap=torch.tensor(gaps, dtype=torch.float32),
        fold=np.concatenate([rows["fold"].to_numpy(int), matbench["fold"].to_numpy(int)]),
        part=np.array([part_of(composition) for composition in compositions]),
        atoms=torch.tensor(np.concatenate([features for _, features in cached])),
        start=torch.tensor(np.cumsum([0] + [len(features) for _, features in cached])),
        few=rows["in_22el"].to_numpy(bool),
        formulas=rows["formula"].to_numpy(),
    )


def part_of(composition: Mapping[str, float]) -> int:
    """One of :data:`PARTS` parts by chemical system, finer than the folds and cutting across them."""
    system = "-".join(sorted(composition))
    return int(hashlib.md5(system.encode()).hexdigest(), 16) // 10 % PARTS


def left_out(data: GapData, index: int) -> np.ndarray:
    """``(n,)`` which rows the member of this index does not see: the test folds and its own part."""
    return np.isin(data.fold, TEST_FOLDS) | (data.part == index)


def train_member(data: GapData, index: int, training: Training) -> GapNetwork:
    """One network, trained on all rows but those :func:`left_out`."""
    used = torch.tensor(~left_out(data, index))
    structures, compositions = torch.nonzero(used[: data.structures])[:, 0], torch.nonzero(used[data.structures :])[:, 0] + data.structures
    generator = torch_rng(training.seed, index, "band gap head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = GapNetwork(GapArchitecture(composition_width=data.composition.shape[1], atom_width=data.atoms.shape[1])).train()
        atoms, _ = data.atoms_of(structures)
        network.set_normalisation("composition", data.composition[used])
        network.set_normalisation("atoms", atoms)
        steps = len(structures) // training.batch
        optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, training.epochs * steps, pct_start=0.1)
        beside = round(training.composition_share * len(compositions) / steps)
        for epoch in range(training.epochs):
            total = 0.0
            for rows in batches(structures, compositions, training.batch, beside, generator):
                predicted = network(data.composition[rows], *data.atoms_of(rows[: training.batch]))
                loss = gap_loss(predicted, data.gap[rows])
                loss = loss[: training.batch].mean() + training.composition_weight * loss[training.batch :].mean()
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
            typer.echo(f"member {index} epoch {epoch + 1}: loss {total / steps:.4f} after {time.process_time():.0f} CPU-s")
    return network.eval()


def batches(
    structures: torch.Tensor, compositions: torch.Tensor, batch: int, beside: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """One epoch over the structures, each batch followed by compositions drawn at random."""
    order = structures[torch.randperm(len(structures), generator=generator)]
    for start in range(0, len(order) - batch + 1, batch):
        drawn = compositions[torch.randint(len(compositions), (beside,), generator=generator)]
        yield torch.cat([order[start : start + batch], drawn])


def gap_loss(predicted: torch.Tensor, gap: torch.Tensor) -> torch.Tensor:
    """Absolute error (a metal may be predicted as negative as the network likes), and the Laplace likelihood of that error's size."""
    value, size = predicted[:, 0], predicted[:, 1].clamp(-6, 3)
    error = torch.where(gap <= 0, torch.relu(value), (value - gap).abs())
    return error + 0.1 * (error.detach() * torch.exp(-size) + size)


@torch.no_grad()
def predict(network: GapNetwork, data: GapData, rows: np.ndarray) -> np.ndarray:
    """``(rows, 2)`` outputs for structures."""
    parts = [torch.tensor(rows[start : start + 1000]) for start in range(0, len(rows), 1000)]
    return np.concatenate([network(data.composition[part], *data.atoms_of(part)).numpy() for part in parts]).astype(float)


def errors_of_gaps(predicted: np.ndarray, true: np.ndarray, few: np.ndarray) -> dict[str, Any]:
    """Mean absolute errors (eV) overall, on non-metals, for true gaps of 0.8-2.2 eV and within the 22 elements, with their counts."""
    error = np.abs(predicted - true)
    subsets = {"all": true >= 0, "non_metals": true > 0, "gap_0.8_to_2.2": (true >= 0.8) & (true <= 2.2), "22_elements": few}
    found = {
        name: {"structures": int(mask.sum()), "mean_absolute_error": round(float(error[mask].mean()), 4)} for name, mask in subsets.items()
    }
    return found | {"metal_or_not_accuracy": round(float(((predicted > 0.05) == (true > 0.05)).mean()), 4)}


def calibrate(networks: Sequence[GapNetwork], data: GapData) -> float:
    """Standard deviation over predicted error size, so that 90 % of the non-metals of the parts left out lie within 1.645 of it."""
    ratios = []
    for index, network in enumerate(networks):
        rows = np.flatnonzero((data.part == index)[: data.structures] & ~np.isin(data.fold[: data.structures], TEST_FOLDS))
        output, gap = predict(network, data, rows), data.gap.numpy()[rows]
        ratios.append((np.abs(np.maximum(output[:, 0], 0) - gap) / np.exp(output[:, 1]))[gap > 0])
    return float(np.quantile(np.concatenate(ratios), 0.9) / 1.645)


def main(
    cache: Annotated[Path, typer.Option(help="folder that oracles.training.structures filled")],
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="M3GNet or CHGNet")] = "M3GNet",
    epochs: Annotated[int, typer.Option(help="passes over the structures")] = Training.epochs,
    members: Annotated[int, typer.Option(help="networks in the ensemble")] = Training.members,
) -> None:
    """Train, calibrate, test and write the head of one potential."""
    from oracles.potentials import resolve

    torch.set_num_threads(1)
    level = resolve(potential).level_of_theory
    training = Training(epochs=epochs, members=members)
    table = ElementTable.from_pymatgen()
    rows = load_data(data, cache, table)
    networks = [train_member(rows, index, training) for index in range(members)]
    ensemble = GapEnsemble(networks, table, calibrate(networks, rows), {})
    test = np.flatnonzero(np.isin(rows.fold[: rows.structures], TEST_FOLDS))
    outputs = np.stack([predict(network, rows, test) for network in networks])
    gap, deviation = ensemble.combine(outputs)
    true = rows.gap.numpy()[test].astype(float)
    card: dict[str, Any] = {
        "potential": level,
        "errors_on_folds_0_and_1": errors_of_gaps(gap, true, rows.few[test]),
        "single_members": [errors_of_gaps(np.maximum(output[:, 0], 0), true, rows.few[test])["all"] for output in outputs],
        "coverage_of_non_metals": {f"{share:.0%}": coverage(gap, deviation, true, width) for share, width in ((0.68, 1.0), (0.9, 1.645))},
        "trained_on": {
            "structures": int((~np.isin(rows.fold[: rows.structures], TEST_FOLDS)).sum()),
            "matbench_rows": int((~np.isin(rows.fold[rows.structures :], TEST_FOLDS)).sum()),
        },
        "training": vars(training),
        "cpu_seconds": round(time.process_time()),
        "date": date.today().isoformat(),
    }
    GapEnsemble(networks, table, ensemble.spread_factor, card).save(PRETRAINED / f"band_gap_{level}.safetensors")
    (PRETRAINED / f"band_gap_{level}.md").write_text(model_card(card))
    typer.echo(json.dumps(card, indent=1))


def model_card(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    errors, rows, covered = card["errors_on_folds_0_and_1"], card["trained_on"], card["coverage_of_non_metals"]
    measured = {name.replace("_", " "): row for name, row in errors.items() if isinstance(row, dict)}
    table = "\n".join(f"| {name} | {row['structures']} | {row['mean_absolute_error']:.3f} |" for name, row in measured.items())
    spread = ", ".join(f"{member['mean_absolute_error']:.3f}" for member in card["single_members"])
    command = f"python -m oracles.training.band_gap --potential {card['potential'].split('-')[0]} --cache FOLDER"
    return f"""# Band-gap head on {card["potential"]}

PBE band gap (eV) from the potential's atom features and the composition; an ensemble of {len(card["single_members"])} small
networks (`oracles/gap_network.py`), half-precision safetensors.

**Data.** {rows["structures"]} structures with PBE(+U) gaps of the Materials Project (CC-BY-4.0, Jain et al. 2013; through MP-20 (Xie 2022),
MPTS-52 (Baird 2023) and relatives) and of WBM (Wang et al. 2021), and {rows["matbench_rows"]} compositions with gaps of MatBench
(Dunn et al. 2020). Split by chemical system (`fold`): 0 and 1 tested on, one system in forty more left out per
member for calibration.

**Errors** on folds 0 and 1, mean absolute, eV (single members, all structures: {spread}):

| structures | n | MAE |
|---|---|---|
{table}

Metal or not (0.05 eV): {errors["metal_or_not_accuracy"]:.1%} right. The standard deviation covers {covered["68%"]:.0%} of the non-metals
at one and {covered["90%"]:.0%} at 1.645 standard deviations.

**Limits.** PBE gaps: measured ones are larger by a third to a half. Trained on relaxed structures. The potential itself was trained on
energies of many of the test structures (not on their gaps).

**Made** {card["date"]} in {card["cpu_seconds"]} CPU-s by `{command}`; settings: {card["training"]}.
"""


def coverage(gap: np.ndarray, deviation: np.ndarray, true: np.ndarray, width: float) -> float:
    """Share of the non-metals within ``width`` standard deviations."""
    return round(float((np.abs(gap - true) <= width * deviation)[true > 0].mean()), 3)


if __name__ == "__main__":
    typer.run(main)
