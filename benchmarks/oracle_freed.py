"""What freeing the symmetry changes: the labels of campaigns, let go and relaxed again without symmetry.

``python benchmarks/oracle_freed.py runs/NAME/history.jsonl ...`` takes every ``ok`` label of the given campaigns that this potential
made with the symmetry kept, frees it as ``oracles.symmetry: freed`` does (``--stirred-only``: in its cheap form, one stirred walk), and
prints how many labels move, by how much, and what it costs beside the label itself. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.crystal import Label
from al_crystal.seeds import rng
from oracles.freeing import free
from oracles.labelling import crystal_of
from oracles.potentials import load, resolve
from oracles.relaxation import relax_all
from oracles.settings import FreeingSettings, RelaxationSettings
from oracles.symmetric_cell import SymmetricCell

RESULTS = Path("benchmarks/results")
BATCH = 8


def main(
    histories: Annotated[list[Path], typer.Argument(help="history.jsonl of campaigns")],
    potential: Annotated[str, typer.Option(help="M3GNet or CHGNet")] = "M3GNet",
    stirred_only: Annotated[bool, typer.Option(help="only the stirred walk: gentle_steps 0, from_start false")] = False,
    count: Annotated[int | None, typer.Option(help="labels, evenly spread over those there are; all if not given")] = None,
    folder: Annotated[Path, typer.Option(help="one line of JSON per label")] = RESULTS,
) -> None:
    """Measure how many labels are held up by their symmetry."""
    import torch

    torch.set_num_threads(1)
    loaded = load(resolve(potential))
    labels = {label.crystal_id: label for file in histories for label in _labels(file, loaded.level_of_theory)}
    if count is not None and count < len(labels):
        places = np.linspace(0, len(labels) - 1, count).astype(int)
        labels = {key: labels[key] for key in np.array(list(labels))[places]}
    form = "stirred" if stirred_only else "whole"
    settings = FreeingSettings(gentle_steps=0, from_start=False) if stirred_only else FreeingSettings()
    output = folder / f"oracle_freed_{potential}_{form}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    done = [line for line in done if line["id"] in labels]
    known = {line["id"] for line in done}
    missing = [label for label in labels.values() if label.crystal_id not in known]
    for first in range(0, len(missing), BATCH):
        batch = missing[first : first + BATCH]
        cells = [SymmetricCell.from_structure(label.structure.to_pymatgen(), symprec=0.01) for label in batch if label.structure]
        kept = relax_all(cells, loaded, RelaxationSettings())  # they are relaxed: rounding aside nothing moves
        start = time.process_time()
        generators = [rng(0, 0, "benchmark/freed", int(label.crystal_id[:12], 16)) for label in batch]
        freed = free(kept, cells, loaded, settings, RelaxationSettings(), generators)
        cost = (time.process_time() - start) / len(batch)
        with output.open("a") as file:
            for label, before, after in zip(batch, kept, freed, strict=True):
                line: dict[str, Any] = {"id": label.crystal_id, "gain": after.gain or 0.0, "left": after.left, "cpu_s": cost}
                groups = [crystal_of(one.cell.to_structure(), 0.01).space_group for one in (before, after.relaxed)]
                line |= {"groups": groups, "label_cpu_s": label.cost["cpu_s"], "atoms": after.relaxed.cell.number_of_atoms}
                done.append(line)
                file.write(json.dumps(line) + "\n")
    gain = np.array([line["gain"] for line in done])
    typer.echo(f"{len(done)} labels, {np.mean([line['atoms'] for line in done]):.1f} atoms in the conventional cell on average")
    for limit in (0.001, 0.005, 0.02, 0.1):
        typer.echo(
            f"lower by more than {limit * 1e3:5.0f} meV/atom without symmetry: {(gain > limit).mean():.3f} +- {_error(gain > limit):.3f}"
        )
    typer.echo(f"mean gain {gain.mean() * 1e3:.1f} meV/atom, largest {gain.max() * 1e3:.0f}")
    typer.echo(f"another space group: {np.mean([line['groups'][0] != line['groups'][1] for line in done]):.3f}")
    costs = np.array([[line["cpu_s"], line["label_cpu_s"]] for line in done])
    typer.echo(f"{costs[:, 0].mean():.2f} CPU-s each, beside {costs[:, 1].mean():.2f} of the label (as its campaign recorded)")


def _labels(file: Path, level_of_theory: str) -> list[Label]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    labels = [Label.model_validate(line["label"]) for line in lines if line["kind"] == "label" and line.get("promotion") is None]
    same = [label for label in labels if label.status == "ok" and label.properties["energy_per_atom"].level_of_theory == level_of_theory]
    return [label for label in same if "freed" not in label.checks]


def _error(hits: np.ndarray) -> float:
    return float(np.sqrt(hits.mean() * (1 - hits.mean()) / len(hits)))


if __name__ == "__main__":
    typer.run(main)
