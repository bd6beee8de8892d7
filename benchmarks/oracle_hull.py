"""Energy above hull from the potential's formation energies against DFT labels, on the folds that took no part in the fit.

``python benchmarks/oracle_hull.py --cache FOLDER`` (filled by ``python -m oracles.training.structures``) prints tables and writes
``oracle_hull.json``. The hull is the file of lowest formation energies carried from the scale of 2018 to that of 2020. First against
the e_above_hull values that the sources themselves report (nearly all of them stable); then on all rows, where those of WBM and
MatBench, for which no source reports one, are labelled by their DFT formation energy and the hull of their own scale: half of these
are unstable. The spread is over ten resamplings. Last, the time for 10,000 random crystals of the 22 elements.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.seeds import rng
from al_crystal.stability import Hull
from oracles.formation_energy import reference_energies
from oracles.materials_project import MP2018, MP2020, convert
from oracles.potentials import resolve
from oracles.training.structures import labelled_crystals, read_energies

STABLE = 0.1  # eV/atom
ELEMENTS = "H Li B C N O F Na Mg Al Si P S Cl K V Mn Fe Co Ni Cu Se".split()


def main(
    cache: Annotated[Path, typer.Option(help="energies of the potential")],
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="M3GNet, CHGNet or SevenNet-l3i5")] = "M3GNet",
    output: Annotated[Path, typer.Option(help="where the numbers go")] = Path("oracle_hull.json"),
) -> None:
    """Measure energies above hull."""
    references = reference_energies(resolve(potential).level_of_theory)
    rows = labelled_crystals(data).merge(read_energies(cache), on="id")
    known = np.array([set(composition) <= references.terms.elements for composition in rows["composition"]])
    known &= (rows["e_above_hull"].notna() & rows["formation_energy_per_atom"].notna() & rows["energy_per_atom"].notna()).to_numpy()
    rows = rows[known & rows["held_out"].to_numpy()].reset_index(drop=True)
    compositions, truth, few = list(rows["composition"]), rows["e_above_hull"].to_numpy(float), rows["in_22el"].to_numpy()
    reported = (rows["eh_src"] == "reported").to_numpy()

    file = data / "mp_hull_entries_matbench.csv.gz"
    as_read = Hull.from_file(file, MP2018)
    converted = Hull.from_file(file, MP2020, correction=partial(shift, known=references.terms.elements))
    predicted = [references.formation_energy(*item).value for item in zip(compositions, rows["energy_per_atom"], strict=True)]
    table = {
        f"{references.potential}, hull on MP2020": converted.energies_above(compositions, predicted),
        f"{references.potential}, hull as read (MP2018)": as_read.energies_above(compositions, predicted),
        "DFT formation energy, hull on MP2020": converted.energies_above(compositions, rows["formation_energy_per_atom"].to_numpy()),
        "DFT formation energy, hull as read (MP2018)": as_read.energies_above(compositions, rows["formation_energy_per_atom"].to_numpy()),
    }
    results = {}
    for what, chosen in (("labels reported by the sources", reported), ("all labels, WBM and MatBench among them", reported | True)):
        names = [name for name in table if chosen is reported or not name.startswith("DFT")]  # the others' labels are DFT against this hull
        results[what] = {name: summary(np.maximum(table[name], 0), np.maximum(truth, 0), few, chosen) for name in names}
        typer.echo(f"\n{what}: {chosen.sum()} held-out structures, {np.mean(truth[chosen] <= STABLE):.0%} within {STABLE} eV/atom")
        typer.echo(f"{'':50}{'MAE':>14}{'median':>9}{'F1':>15}{'F1 unstable':>12}{'n 22el':>8}{'MAE':>8}{'F1':>8}")
        for name, row in results[what].items():
            mae, score = f"{row['mae']:.4f}±{row['mae_spread']:.4f}", f"{row['f1']:.3f}±{row['f1_spread']:.3f}"
            typer.echo(
                f"{name:50}{mae:>14}{row['median']:>9.4f}{score:>15}{row['f1_unstable']:>12.3f}{row['n_22']:>8}{row['mae_22']:>8.4f}{row['f1_22']:>8.3f}"
            )
    seconds = time_many(converted)
    typer.echo(f"10,000 random crystals of 2 to 5 of the 22 elements: {seconds:.2f} CPU-s")
    output.write_text(json.dumps({"results": results, "cpu_seconds_for_10000": seconds}, indent=1))


def shift(composition: dict[str, float], known: frozenset[str]) -> float:
    """From the scale of 2018 to that of 2020; 0 for a composition with an element that neither scale corrects."""
    return convert(composition, 0.0, MP2018, MP2020) if set(composition) <= known else 0.0


def summary(predicted: np.ndarray, truth: np.ndarray, few: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    """Errors and F1 of "within 0.1 eV/atom of the hull" on the chosen rows, with the spread over resamplings."""
    predicted, truth, few = predicted[chosen], truth[chosen], few[chosen]
    error = np.abs(predicted - truth)
    samples = [rng(0, 0, "bootstrap", index).integers(0, len(truth), len(truth)) for index in range(10)]
    return {
        "mae": float(error.mean()),
        "mae_spread": float(np.std([error[sample].mean() for sample in samples])),
        "median": float(np.median(error)),
        "f1": f1(predicted <= STABLE, truth <= STABLE),
        "f1_spread": float(np.std([f1(predicted[sample] <= STABLE, truth[sample] <= STABLE) for sample in samples])),
        "n_22": int(few.sum()),
        "mae_22": float(error[few].mean()),
        "f1_22": f1(predicted[few] <= STABLE, truth[few] <= STABLE),
        "f1_unstable": f1(predicted > STABLE, truth > STABLE),
    }


def f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of precision and recall."""
    return float(2 * np.sum(predicted & truth) / max(1, np.sum(predicted) + np.sum(truth)))


def time_many(hull: Hull) -> float:
    """CPU seconds for the hull energies of 10,000 random crystals."""
    generator = rng(0, 0, "random crystals")
    chosen = [generator.choice(ELEMENTS, size=generator.integers(2, 6), replace=False) for _ in range(10_000)]
    compositions = [{str(element): int(generator.integers(1, 17)) for element in elements} for elements in chosen]
    start = time.process_time()
    hull.energies(compositions)
    return time.process_time() - start


if __name__ == "__main__":
    typer.run(main)
