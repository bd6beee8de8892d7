"""Fit what leads from a potential's raw energy to a formation energy of the Materials Project, and from its older scale to the newer.

``python -m oracles.training.formation_energy scales`` compares crystals that carry labels of both scales and writes
``oracles/data/mp2018_to_mp2020.json``; ``... potential --potential M3GNet --cache FOLDER`` fits the potential's references (after
:mod:`oracles.training.structures` filled the cache) and writes ``oracles/data/formation_energy_<level>.json`` with the errors on
the folds that took no part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from importlib.resources import files
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from oracles.materials_project import MP2018, MP2020, SCALES, composition_terms, convert
from oracles.training.structures import OTHER_FUNCTIONAL, TEST_FOLDS, labelled_crystals, read_energies

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(str(files("oracles") / "data"))
SMALLEST_RESIDUAL = 0.005  # eV/atom: bounds the weights of the least-absolute-deviations fit
DataFolder = Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")]
application = typer.Typer(help=__doc__, no_args_is_help=True)


def least_absolute_deviations(design: np.ndarray, target: np.ndarray, ridge: float = 1e-3, iterations: int = 40) -> np.ndarray:
    """Coefficients that minimise the absolute residuals, by iteratively reweighted least squares with a weak ridge.

    A robust fit is needed: a few in a hundred labels differ by magnetic order or by a U that was or was not applied.
    """
    weights = np.ones(len(target))
    coefficients = np.zeros(design.shape[1])
    for _ in range(iterations):
        weighted = design * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ design + ridge * np.eye(design.shape[1]), weighted.T @ target)
        weights = 1 / np.maximum(np.abs(target - design @ coefficients), SMALLEST_RESIDUAL)
    return coefficients


def design_matrix(compositions: Sequence[Mapping[str, float]], terms: Sequence[str]) -> np.ndarray:
    """``(n, terms)`` amounts per atom."""
    amounts = [composition_terms(composition) for composition in compositions]
    return np.array([[row.get(term, 0.0) for term in terms] for row in amounts])


def fit_terms(compositions: Sequence[Mapping[str, float]], target: np.ndarray) -> dict[str, float]:
    """Coefficients (eV per atom) of all terms that occur, for a target in eV/atom."""
    terms = sorted({term for composition in compositions for term in composition_terms(composition)})
    coefficients = least_absolute_deviations(design_matrix(compositions, terms), target)
    return {term: round(float(value), 5) for term, value in zip(terms, coefficients, strict=True)}


def apply_terms(compositions: Sequence[Mapping[str, float]], coefficients: Mapping[str, float]) -> np.ndarray:
    """``(n,)`` corrections in eV/atom."""
    return design_matrix(compositions, list(coefficients)) @ np.array(list(coefficients.values()))


def error_summary(residual: np.ndarray, few_elements: np.ndarray) -> dict[str, float]:
    """Mean and median absolute residual (eV/atom) on all rows and on those within the 22 elements."""
    size, subset = np.abs(residual), np.abs(residual[few_elements])
    return {
        "structures": len(size),
        "mean_absolute_error": round(float(size.mean()), 4),
        "median_absolute_error": round(float(np.median(size)), 4),
        "bias": round(float(residual.mean()), 4),
        "structures_22_elements": len(subset),
        "mean_absolute_error_22_elements": round(float(subset.mean()), 4),
    }


def error_model(compositions: Sequence[Mapping[str, float]], residual: np.ndarray, elements: Sequence[str]) -> dict[str, Any]:
    """How the error depends on chemistry: mean absolute residual = sum over elements of fraction x size (sizes >= 0).

    ``factor`` scales that mean to a standard deviation whose central 90 % interval (+-1.645) covers 90 % of the residuals.
    """
    from scipy.optimize import nnls

    design = design_matrix(compositions, elements)
    prior = np.sqrt(20.0) * np.eye(len(elements))  # twenty rows' worth of the average size, for elements that are rare
    average = float(np.abs(residual).mean())
    clipped = np.minimum(np.abs(residual), 10 * average)
    sizes, _ = nnls(np.vstack([design, prior]), np.concatenate([clipped, prior @ np.full(len(elements), average)]))
    ratio = np.abs(residual) / np.maximum(design @ sizes, 0.2 * average)
    return {
        "sizes": {element: round(float(size), 5) for element, size in zip(elements, sizes, strict=True)},
        "least": round(0.2 * average, 5),
        "factor": round(float(np.quantile(ratio, 0.9) / 1.645), 4),
    }


def crystals_with_both_labels(data: Path) -> pd.DataFrame:
    """Rows of the seed whose formula and space group occur once in MatBench: ``shift`` is MP2020 minus MP2018, eV/atom."""
    import pandas as pd

    older = pd.read_parquet(data / "matbench_mp_e_form_comp_sg.parquet")
    older["formula_key"] = [formula_key(parse_formula(text)) for text in older["composition"]]
    unique = older.groupby(["formula_key", "spg_num"])["e_form"].agg(["min", "count"]).query("count == 1")["min"]
    seed = labelled_crystals(data)
    newer = seed[(seed["scale"] == MP2020) & (seed["source"] != OTHER_FUNCTIONAL) & seed["formation_energy_per_atom"].notna()].copy()
    newer["formula_key"] = [formula_key(composition) for composition in newer["composition"]]
    both = newer.merge(unique.rename("older"), left_on=["formula_key", "space_group_number"], right_index=True)
    both["shift"] = both["formation_energy_per_atom"].astype(float) - both["older"]
    return both.drop_duplicates(["formula_key", "space_group_number"]).reset_index(drop=True)


def parse_formula(text: str) -> dict[str, int]:
    """Counts of a formula such as ``"K4 Mn4 O8"``."""
    return {element: int(count) for element, count in re.findall(r"([A-Z][a-z]?)(\d+)", text)}


def formula_key(composition: Mapping[str, int]) -> str:
    """Reduced formula with the elements in alphabetical order."""
    divisor = reduce(gcd, composition.values())
    return "".join(f"{element}{count // divisor}" for element, count in sorted(composition.items()))


@application.command()
def scales(data: DataFolder) -> None:
    """Fit the shift between the Materials Project's scales of 2018 and 2020."""
    both = crystals_with_both_labels(data)
    known, held_out = both[~both["held_out"]], both[both["held_out"]]
    coefficients = fit_terms(list(known["composition"]), known["shift"].to_numpy())
    residual = held_out["shift"].to_numpy() - apply_terms(list(held_out["composition"]), coefficients)
    errors = error_summary(residual, held_out["in_22el"].to_numpy())
    uncorrected = round(float(held_out["shift"].abs().mean()), 4)
    write_data(
        "mp2018_to_mp2020", {"from": MP2018, "to": MP2020, "coefficients": coefficients, "held_out": errors, "uncorrected": uncorrected}
    )


@application.command()
def potential(
    cache: Annotated[Path, typer.Option(help="folder that oracles.training.structures filled")],
    data: DataFolder,
    potential: Annotated[str, typer.Option(help="M3GNet, CHGNet or SevenNet-l3i5")] = "M3GNet",
) -> None:
    """Fit element references and corrections for one potential."""
    from oracles.potentials import resolve

    level = resolve(potential).level_of_theory
    rows = labelled_crystals(data).merge(read_energies(cache), on="id")
    rows = rows[rows["formation_energy_per_atom"].notna() & rows["energy_per_atom"].notna()].reset_index(drop=True)
    compositions = list(rows["composition"])
    labels = rows["formation_energy_per_atom"].to_numpy(float)
    labels = np.array([convert(*item, to=MP2020) for item in zip(compositions, labels, rows["scale"], strict=True)])
    target = labels - rows["energy_per_atom"].to_numpy()
    held_out = rows["held_out"].to_numpy()
    train = [composition for composition, out in zip(compositions, held_out, strict=True) if not out]
    coefficients = fit_terms(train, target[~held_out])
    residual = target - apply_terms(compositions, coefficients)
    errors = error_model(train, residual[~held_out], sorted(term for term in coefficients if " " not in term))
    few = rows["in_22el"].to_numpy()
    summaries = {"all": error_summary(residual[held_out], few[held_out])}
    for scale in SCALES:
        chosen = held_out & (rows["scale"] == scale).to_numpy()
        summaries[f"labelled on {scale}"] = error_summary(residual[chosen], few[chosen])
    content = {"potential": level, "scale": MP2020, "coefficients": coefficients, "error": errors, "held_out": summaries}
    write_data(f"formation_energy_{level}", content | {"fitted_on": {"structures": len(train), "test_folds": list(TEST_FOLDS)}})


def write_data(name: str, content: dict[str, Any]) -> None:
    """Write a data file of the package and print its errors."""
    file = DATA / f"{name}.json"
    file.write_text(json.dumps(content, indent=1) + "\n")
    typer.echo(f"{file}\n{json.dumps(content['held_out'], indent=1)}")


if __name__ == "__main__":
    application()
