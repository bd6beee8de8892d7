"""Band gaps of the shipped head and of MEGNet against DFT, on the folds that neither saw in the head's training.

``python benchmarks/oracle_band_gap.py`` takes the held-out structures (a random sample with ``--sample``) the whole way that a label
takes: structure -> atom features -> oracle. It prints a table and writes ``oracle_band_gap.json``. The spread is over ten resamplings.
MEGNet needs its weights ($AL_CRYSTAL_MODELS); it was itself trained on Materials Project structures, many of these among them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.seeds import rng
from oracles.band_gap import BandGap
from oracles.base import Context
from oracles.potentials import Potential, load, resolve
from oracles.training.structures import labelled_crystals, structure_rows, to_structure
from oracles.weights import WeightsNotFound


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="M3GNet or CHGNet")] = "M3GNet",
    sample: Annotated[int, typer.Option(help="structures; 0 for all held out")] = 1330,
    megnet: Annotated[bool, typer.Option(help="measure MEGNet beside")] = True,
    output: Annotated[Path, typer.Option(help="where the numbers go")] = Path("oracle_band_gap.json"),
) -> None:
    """Measure band gaps."""
    import torch

    torch.set_num_threads(1)
    labels = labelled_crystals(data).dropna(subset=["band_gap"])
    labels = labels[labels["held_out"]].drop_duplicates("id").set_index("id")
    rows = [row for row in structure_rows(data) if f"{row['src']}|{row['id']}" in labels.index]
    if sample:
        rows = [rows[index] for index in sorted(rng(0, 0, "band gap sample").permutation(len(rows))[:sample])]
    labels = labels.loc[[f"{row['src']}|{row['id']}" for row in rows]]
    structures = [to_structure(row) for row in rows]
    true, few = labels["band_gap"].to_numpy(float), labels["in_22el"].to_numpy(bool)
    subsets = {"all": true >= 0, "non-metals": true > 0, "0.8-2.2": (true >= 0.8) & (true <= 2.2), "22 elements": few}

    loaded = load(resolve(potential))
    table = {f"head on {loaded.level_of_theory}": measured(BandGap(model="head"), structures, loaded, true, subsets)}
    if megnet:
        try:
            table["MEGNet"] = measured(BandGap(model="megnet"), structures, loaded, true, subsets)
        except WeightsNotFound as error:
            typer.echo(f"MEGNet left out: {error}")
    typer.echo("mean absolute error, eV\n" + f"{'':28}" + "".join(f"{f'{name} (n={mask.sum()})':>24}" for name, mask in subsets.items()))
    for name, row in table.items():
        cells = "".join(f"{f'{mean:.3f}±{spread:.3f}':>24}" for mean, spread in row["errors"].values())
        typer.echo(f"{name:28}{cells}   within 1 / 1.645 sd (non-metals): {row['coverage']}   {row['ms']:.0f} CPU-ms each")
    output.write_text(json.dumps({"counts": {name: int(mask.sum()) for name, mask in subsets.items()}, "table": table}, indent=1))


def measured(
    oracle: BandGap, structures: list[Any], potential: Potential, true: np.ndarray, subsets: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Errors by subset with their spread, coverage and cost of one oracle."""
    start = time.process_time()
    values = []
    for first in range(0, len(structures), 64):
        chunk = structures[first : first + 64]
        context = Context(potential=potential, structures=chunk, energies=np.zeros(len(chunk)))  # no gap reads the energies
        values += [row["band_gap"] for row in oracle.evaluate(chunk, context)]
    milliseconds = 1000 * (time.process_time() - start) / len(structures)
    error = np.abs(np.array([value.value for value in values]) - true)
    deviation = np.array([value.standard_deviation for value in values], dtype=float)
    errors = {}
    for name, mask in subsets.items():
        chosen = error[mask]
        samples = [chosen[rng(0, 0, "bootstrap", index).integers(0, len(chosen), len(chosen))].mean() for index in range(10)]
        errors[name] = (float(chosen.mean()), float(np.std(samples)))
    coverage = [round(float((error <= width * deviation)[true > 0].mean()), 3) for width in (1.0, 1.645)]
    return {"errors": errors, "coverage": coverage, "ms": milliseconds, "root_mean_square": float(np.sqrt((error**2).mean()))}


if __name__ == "__main__":
    typer.run(main)
