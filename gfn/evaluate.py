"""Judge a table of crystals: ``python -m gfn.evaluate samples.parquet``.

Each block declares what it needs; one whose input is not given is left out, saying so. Validity is judged by other libraries than the
sampler's own tables: SMACT for neutrality, PyXtal for Wyckoff positions. Beside each number stands the paper's, where it gives one.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from gfn.symmetry import crystal_system, lattice_system, point_symmetry

if TYPE_CHECKING:
    from al_crystal.crystal import Crystal

Numbers = dict[str, float | int]

PAPER: dict[str, str] = {
    "smact_neutral_and_pauling": "0.84",
    "wyckoff_by_pyxtal": "1.00",
    "lattice_system": "1.00",
    "real_cell": "0.956 (untrained reference)",
    "plausible_cell": "0.16 (published samples)",
    "space_groups": "73",
    "elements": "22",
    "elements_in_top_100": "15",
    "lattice_systems_in_top_100": "4",
    "point_symmetries_in_top_100": "4",
    "value_quantile_50": "-3.2 (formation energy)",
    "value_quantile_95": "-2.0 (formation energy)",
    "below_hull": "0.656",
}
"""The paper's figures for its formation-energy model (the two marked ones were measured on the authors' code and samples)."""


def validity(crystals: list[Crystal]) -> Numbers:
    """Shares of crystals that pass SMACT (icsd24; neutrality, and with Pauling's rule), PyXtal's Wyckoff check, their lattice system and a
    positive metric determinant."""
    lattice, real = metric_checks(crystals)
    return {
        "smact_neutral": float(np.mean([smact_accepts(crystal, pauling=False) for crystal in crystals])),
        "smact_neutral_and_pauling": float(np.mean([smact_accepts(crystal) for crystal in crystals])),
        "wyckoff_by_pyxtal": float(np.mean([pyxtal_fits(crystal) for crystal in crystals])),
        "lattice_system": float(lattice.mean()),
        "real_cell": float(real.mean()),
    }


def smact_accepts(crystal: Crystal, pauling: bool = True) -> bool:
    """Whether SMACT finds the composition neutral (icsd24, one oxidation state per element), and in keeping with Pauling's rule."""
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(
            smact_validity(Composition(crystal.composition), use_pauling_test=pauling, include_alloys=False, oxidation_states_set="icsd24")
        )


def pyxtal_fits(crystal: Crystal) -> bool:
    """Whether PyXtal finds Wyckoff positions for the atom counts (whose order does not matter)."""
    return _pyxtal_fits(crystal.space_group, tuple(sorted(crystal.composition.values())))


@cache
def _pyxtal_fits(space_group: int, counts: tuple[int, ...]) -> bool:
    return bool(_pyxtal_group(space_group).check_compatible(list(counts))[0])


@cache
def _pyxtal_group(space_group: int) -> Any:
    from pyxtal.symmetry import Group

    return Group(space_group)


def metric_checks(crystals: list[Crystal]) -> tuple[np.ndarray, np.ndarray]:
    """Whether the metric tensor has the symmetry of the crystal system (International Tables A, 3.1.2; hexagonal axes for R groups), and
    whether its determinant is positive; ``(n,)`` each."""
    cells = np.array([crystal.lattice_parameters for crystal in crystals])
    edges, cosines = cells[:, :3], np.cos(np.radians(cells[:, 3:]))
    x, y, z = cosines.T
    unit = np.stack([np.ones_like(x), z, y, z, np.ones_like(x), x, y, x, np.ones_like(x)], axis=1).reshape(-1, 3, 3)
    metric = unit * edges[:, :, None] * edges[:, None, :]
    metric /= np.trace(metric, axis1=1, axis2=2)[:, None, None]
    (aa, ab, ac), (_, bb, bc), (_, _, cc) = metric.transpose(1, 2, 0)
    hexagonal = [ac, bc, aa - bb, ab + aa / 2]
    zero = {
        "triclinic": [],
        "monoclinic": [ab, bc],
        "orthorhombic": [ab, ac, bc],
        "tetragonal": [ab, ac, bc, aa - bb],
        "trigonal": hexagonal,
        "hexagonal": hexagonal,
        "cubic": [ab, ac, bc, aa - bb, aa - cc],
    }
    system = np.array([crystal_system(crystal.space_group) for crystal in crystals])
    obeys = np.ones(len(crystals), dtype=bool)
    for name, numbers in zero.items():
        for number in numbers:
            obeys &= (system != name) | (np.abs(number) < 1e-6)
    return obeys, np.linalg.det(metric) > 0


def plausibility(crystals: list[Crystal]) -> Numbers:
    """Shares with 6-60 Å3 per atom, with edges of 2.5-40 Å, and with both; median volume per atom."""
    volume = np.array([crystal.volume_per_atom for crystal in crystals])
    edges = np.array([crystal.lattice_parameters[:3] for crystal in crystals])
    dense, sized = (volume >= 6) & (volume <= 60), (edges.min(axis=1) >= 2.5 - 1e-4) & (edges.max(axis=1) <= 40 + 1e-4)
    return {
        "plausible_volume": float(dense.mean()),
        "plausible_edges": float(sized.mean()),
        "plausible_cell": float((dense & sized).mean()),
        "median_volume_per_atom": float(np.median(volume)),
    }


def diversity(crystals: list[Crystal], suffix: str = "") -> Numbers:
    """Different groups, elements, lattice systems, point symmetries, formulas and crystals."""
    return {
        f"space_groups{suffix}": len({crystal.space_group for crystal in crystals}),
        f"elements{suffix}": len({symbol for crystal in crystals for symbol in crystal.composition}),
        f"lattice_systems{suffix}": len({lattice_system(crystal.space_group) for crystal in crystals}),
        f"point_symmetries{suffix}": len({point_symmetry(crystal.space_group) for crystal in crystals}),
        f"formulas{suffix}": len({_reduced(crystal) for crystal in crystals}),
        f"crystals{suffix}": len({crystal.id for crystal in crystals}),
    }


def novelty(crystals: list[Crystal], reference: list[Crystal]) -> Numbers:
    """Shares whose reduced formula, and whose formula and group, are not among known crystals."""
    formulas = {_reduced(crystal) for crystal in reference}
    pairs = {(crystal.space_group, _reduced(crystal)) for crystal in reference}
    return {
        "new_formula": float(np.mean([_reduced(crystal) not in formulas for crystal in crystals])),
        "new_formula_and_group": float(np.mean([(crystal.space_group, _reduced(crystal)) not in pairs for crystal in crystals])),
    }


def quantiles(values: np.ndarray, name: str = "value") -> Numbers:
    """Quantiles of a predicted property."""
    return {f"{name}_quantile_{100 * q:.0f}": float(np.quantile(values, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}


def stability(energies: np.ndarray, suffix: str = "") -> Numbers:
    """Share below the hull and median energy above it, in eV/atom."""
    return {f"below_hull{suffix}": float((energies < 0).mean()), f"median_above_hull{suffix}": float(np.median(energies))}


def _reduced(crystal: Crystal) -> tuple[tuple[str, int], ...]:
    divisor = int(np.gcd.reduce(list(crystal.composition.values())))
    return tuple((symbol, count // divisor) for symbol, count in crystal.composition.items())


def _values(path: str, crystals: list[Crystal]) -> np.ndarray:
    from al_crystal.crystal import CrystalBatch
    from gfn.rewards import import_function

    function = import_function(path)
    chunks = [crystals[start : start + 2048] for start in range(0, len(crystals), 2048)]
    return np.concatenate([np.asarray(function(CrystalBatch.from_crystals(chunk)), dtype=float) for chunk in chunks])


def predicted(crystals: list[Crystal], properties: list[str], above_hull: list[str]) -> Numbers:
    """Quantiles of the properties, diversity of the hundred lowest by the first, and stability.

    What comes after the first of either kind is named after its function.
    """
    numbers: Numbers = {}
    for place, path in enumerate(properties):
        values = _values(path, crystals)
        if place == 0:
            numbers |= quantiles(values) | diversity([crystals[i] for i in np.argsort(values)[:100]], "_in_top_100")
        else:
            numbers |= quantiles(values, path.rpartition(":")[2])
    for place, path in enumerate(above_hull):
        numbers |= stability(_values(path, crystals), f"_by_{path.rpartition(':')[2]}" if place else "")
    return numbers


def main(
    samples: Annotated[Path, typer.Argument(help="parquet table with space_group_number, a..gamma, composition")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file (default: beside the samples)")] = None,
    reference: Annotated[Path | None, typer.Option(help="parquet table of known crystals, for novelty")] = None,
    property: Annotated[
        list[str] | None,
        typer.Option(help="`module:function` or `file.py:function` of a batch; lower is better, the first ranks"),
    ] = None,
    above_hull: Annotated[list[str] | None, typer.Option(help="the same for energies above hull in eV/atom")] = None,
    column: Annotated[list[str] | None, typer.Option(help="a column of the table whose quantiles to add")] = None,
) -> None:
    """Print and write validity, plausibility, diversity, novelty and predicted properties of sampled crystals."""
    from gfn.config import load_crystals
    from gfn.rewards import import_function

    try:
        crystals, table = load_crystals(samples, tuple(column or ()))
        known = load_crystals(reference)[0] if reference is not None else None
        for path in (*(property or ()), *(above_hull or ())):
            import_function(path)  # what cannot be imported is refused before the slow judges begin
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    numbers: Numbers = {"samples": len(crystals), **validity(crystals), **plausibility(crystals), **diversity(crystals)}
    missing = []
    if known is not None:
        numbers |= novelty(crystals, known)
    else:
        missing.append("novelty needs --reference")
    numbers |= predicted(crystals, property or [], above_hull or [])
    for name in column or ():
        numbers |= quantiles(table[name].to_numpy(dtype=float), name)
    if not property:
        missing.append("quantiles and the top 100 need --property")
    if not above_hull:
        missing.append("the share below the hull needs --above-hull")
    for name, value in numbers.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        typer.echo(f"{name:50} {shown:>10}   {'paper: ' + PAPER[name] if name in PAPER else ''}".rstrip())
    for sentence in missing:
        typer.echo(f"left out: {sentence}")
    target = output or samples.with_suffix(".evaluation.json")
    target.write_text(json.dumps(numbers, indent=1) + "\n")
    typer.echo(f"written to {target}")


if __name__ == "__main__":
    typer.run(main)
