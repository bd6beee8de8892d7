"""Formation energy from the potential against DFT, on the folds that took no part in the fit.

``python benchmarks/oracle_formation_energy.py --cache FOLDER`` (filled by ``python -m oracles.training.structures``) prints a table
and writes ``oracle_formation_energy.json`` beside it. Rows: element references alone; one fit that takes all labels to be on one
scale; the shipped terms against labels as published (two scales mixed) and against labels on the scale of 2020.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from oracles.formation_energy import reference_energies
from oracles.materials_project import MP2020, convert
from oracles.potentials import resolve
from oracles.training.formation_energy import apply_terms, error_summary, fit_terms
from oracles.training.structures import labelled_crystals, read_energies


def main(
    cache: Annotated[Path, typer.Option(help="energies of the potential")],
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="M3GNet, CHGNet or SevenNet-l3i5")] = "M3GNet",
    output: Annotated[Path, typer.Option(help="where the numbers go")] = Path("oracle_formation_energy.json"),
) -> None:
    """Measure the error of the shipped formation energies."""
    rows = labelled_crystals(data).merge(read_energies(cache), on="id")
    rows = rows[rows["formation_energy_per_atom"].notna() & rows["energy_per_atom"].notna()].reset_index(drop=True)
    references = reference_energies(resolve(potential).level_of_theory)
    known = np.array([set(composition) <= references.terms.elements for composition in rows["composition"]])
    typer.echo(f"{np.count_nonzero(~known)} structures left out: an element without a reference")
    rows = rows[known].reset_index(drop=True)
    compositions, held_out = list(rows["composition"]), rows["held_out"].to_numpy()
    published, raw = rows["formation_energy_per_atom"].to_numpy(float), rows["energy_per_atom"].to_numpy()
    label = np.array([convert(*item, to=MP2020) for item in zip(compositions, published, rows["scale"], strict=True)])
    train = [composition for composition, out in zip(compositions, held_out, strict=True) if not out]

    values = [references.formation_energy(*item) for item in zip(compositions, raw, strict=True)]
    predicted = np.array([value.value for value in values])
    deviation = np.array([value.standard_deviation for value in values])
    one_scale = fit_terms(train, (published - raw)[~held_out])
    elements_only = {term: 0.0 for term in one_scale if " " in term} | _elements_only(train, (published - raw)[~held_out])

    few = rows["in_22el"].to_numpy()
    wbm = (rows["source"] == "wbm_val10k").to_numpy()
    table = {
        "element references, labels as published": (published - raw - apply_terms(compositions, elements_only), held_out),
        "terms fitted as if on one scale": (published - raw - apply_terms(compositions, one_scale), held_out),
        "shipped, labels as published": (published - predicted, held_out),
        "shipped, labels on MP2020": (label - predicted, held_out),
        "  labelled on MP2020": (label - predicted, held_out & (rows["scale"] == MP2020).to_numpy()),
        "  WBM (unknown to the potential)": (label - predicted, held_out & wbm),
    }
    summaries = {name: error_summary(residual[chosen], few[chosen]) for name, (residual, chosen) in table.items()}
    inside = np.abs(label - predicted)[held_out, None] <= deviation[held_out, None] * np.array([1.0, 1.645])
    coverage = dict(zip(("68 %", "90 %"), inside.mean(0).round(3).tolist(), strict=True))
    typer.echo(f"{references.level_of_theory}, eV/atom\n{'':42}{'n':>6}{'MAE':>8}{'median':>8}{'bias':>8}{'n 22el':>8}{'MAE':>8}")
    for name, summary in summaries.items():
        typer.echo(f"{name:42}" + "".join(f"{value:>{6 if i == 0 else 8}}" for i, value in enumerate(summary.values())))
    typer.echo(f"coverage of the stated standard deviation at 68 % and 90 %: {coverage}")
    output.write_text(json.dumps({"level_of_theory": references.level_of_theory, "errors": summaries, "coverage": coverage}, indent=1))


def _elements_only(compositions: list[dict[str, int]], target: np.ndarray) -> dict[str, float]:
    """Least absolute deviations on element fractions alone."""
    from oracles.training.formation_energy import design_matrix, least_absolute_deviations

    elements = sorted({element for composition in compositions for element in composition})
    return dict(zip(elements, least_absolute_deviations(design_matrix(compositions, elements), target), strict=True))


if __name__ == "__main__":
    typer.run(main)
