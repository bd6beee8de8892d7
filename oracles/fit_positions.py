"""Fit what :mod:`oracles.positions` knows of real crystals: ``python -m oracles.fit_positions`` writes oracles/data/pair_distances.json.

From the structures in ``$AL_CRYSTAL_DATA/structures`` whose chemical system is in folds 2 to 9 (folds 0 and 1 stay unseen):

- the shortest distance of each element pair: the 2 % quantile over structures of their shortest distance of that pair, where at
  least eight structures have it; elsewhere the sum of two element radii fitted to those quantiles;
- how likely a way to occupy the Wyckoff positions is: a conditional logit over all ways of the same composition and group, on the
  number of occupied sites and the number of free coordinates.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from al_crystal.crystal import ELEMENTS
from al_crystal.seeds import rng

QUANTILE = 0.02
LEAST_STRUCTURES = 8
RANGE = 4.5  # Å, within which pairs are looked at
WAYS_FITTED = 1000  # structures that the logit is fitted on
WAYS_LISTED = 500  # ways listed per structure


def read_rows(folder: Path, folds: frozenset[int], exclude: str = "jarvis") -> Iterator[dict[str, Any]]:
    """Structures as published whose chemical system is in ``folds``: ``id``, ``lat``, ``sp``, ``fc`` (see the data card)."""
    seen = set()
    for file in sorted(folder.glob("*.jsonl.gz")):
        if exclude in file.name:
            continue
        for line in gzip.decompress(file.read_bytes()).decode().splitlines():
            row = json.loads(line)
            system = "-".join(sorted(set(row["sp"])))
            fold = int(hashlib.md5(system.encode()).hexdigest(), 16) % 10
            if row["id"] not in seen and fold in folds:
                seen.add(row["id"])
                yield row


def conventional(row: dict[str, Any]) -> dict[str, Any] | None:
    """The standardised conventional cell of a row and its orbits; None where spglib finds no symmetry.

    Returns:
        id, group, lattice (rows, Å), positions (fractional), numbers, and orbits: (symbol, Wyckoff letter, multiplicity) each.
    """
    import spglib
    from pymatgen.core import Lattice

    from al_crystal.crystal import ATOMIC_NUMBER

    cell: Any = (Lattice.from_parameters(*row["lat"]).matrix, row["fc"], [ATOMIC_NUMBER[symbol] for symbol in row["sp"]])
    found: Any = spglib.get_symmetry_dataset(cell, symprec=0.01)
    if found is None:
        return None
    scale = len(found.std_types) / len(row["sp"])  # the conventional cell holds more atoms than the cell given, or fewer
    orbits: dict[int, list[Any]] = {}
    for orbit, letter, symbol in zip(found.crystallographic_orbits, found.wyckoffs, row["sp"], strict=True):
        orbits.setdefault(int(orbit), [symbol, letter, 0.0])[2] += scale
    return {
        "id": row["id"],
        "group": int(found.number),
        "lattice": np.array(found.std_lattice),
        "positions": np.array(found.std_positions),
        "numbers": np.array(found.std_types),
        "orbits": list(orbits.values()),
    }


def pair_distances(structures: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Shortest distance in Å by pair (``"A-B"``, alphabetical) and fitted radius in Å by element."""
    from pymatgen.optimization.neighbors import find_points_in_spheres
    from scipy.optimize import lsq_linear

    shortest: dict[tuple[int, int], list[float]] = defaultdict(list)
    for structure in structures:
        lattice, numbers = np.ascontiguousarray(structure["lattice"]), structure["numbers"]
        points = np.ascontiguousarray((structure["positions"] % 1.0) @ lattice)
        first, second, _, distance = find_points_in_spheres(
            points, points, r=RANGE, pbc=np.ones(3, dtype=np.int64), lattice=lattice, tol=1e-8
        )
        found: dict[tuple[int, int], float] = {}
        for one, other, length in zip(numbers[first].tolist(), numbers[second].tolist(), distance.tolist(), strict=True):
            if one <= other and length > 1e-6:
                found[one, other] = min(length, found.get((one, other), RANGE))
        for pair, length in found.items():
            shortest[pair].append(length)
    pairs = {pair: float(np.quantile(lengths, QUANTILE)) for pair, lengths in shortest.items() if len(lengths) >= LEAST_STRUCTURES}
    design = np.zeros((len(pairs), len(ELEMENTS)))
    for row, (one, other) in enumerate(pairs):
        design[row, one - 1] += 1
        design[row, other - 1] += 1
    known = design.any(axis=0)
    fitted = lsq_linear(design[:, known], np.array(list(pairs.values())), bounds=(0.3, 3.0)).x
    radii = {symbol: 1.4 for symbol in ELEMENTS}  # a cautious middle for elements that no structure holds
    radii.update({ELEMENTS[column]: round(float(value), 3) for column, value in zip(np.flatnonzero(known), fitted, strict=True)})
    named = {"-".join(sorted((ELEMENTS[one - 1], ELEMENTS[other - 1]))): round(value, 3) for (one, other), value in pairs.items()}
    return dict(sorted(named.items())), radii


def way_coefficients(structures: list[dict[str, Any]]) -> tuple[dict[str, float], int]:
    """Log-odds per occupied site and per free coordinate, and the number of structures they were fitted on."""
    from scipy.optimize import minimize

    from oracles.wyckoff import Assignment, assignments, group_sites

    problems = []
    for index in rng(0, 0, "fit_positions").permutation(len(structures)):
        structure = structures[index]
        sites = group_sites(structure["group"]).sites
        place = {site.letter: number for number, site in enumerate(sites)}
        whole = all(sites[place[letter]].multiplicity == round(count) for _, letter, count in structure["orbits"])
        if not whole or len(structure["numbers"]) > 40:
            continue
        occupied = sorted((symbol, place[letter]) for symbol, letter, _ in structure["orbits"])
        true = Assignment(structure["group"], tuple(occupied))
        composition = Counter(ELEMENTS[number - 1] for number in structure["numbers"].tolist())
        listed = assignments(structure["group"], composition, WAYS_LISTED, rng(0, 0, "fit_positions", int(index) + 1))
        others = [way for way in listed if tuple(sorted(way.occupied)) != true.occupied]
        if others:
            problems.append(np.array([[len(way.occupied), way.freedom] for way in [true, *others]], dtype=float))
        if len(problems) >= WAYS_FITTED:
            break

    def loss(coefficients: np.ndarray) -> float:
        scores = (problem @ coefficients for problem in problems)
        return float(np.mean([np.logaddexp.reduce(score) - score[0] for score in scores]))

    site, freedom = minimize(loss, np.zeros(2)).x
    return {"site": round(float(site), 3), "freedom": round(float(freedom), 3)}, len(problems)


def main(data: Annotated[Path | None, typer.Option(help="folder with structures/; default $AL_CRYSTAL_DATA")] = None) -> None:
    """Fit on folds 2 to 9 and write oracles/data/pair_distances.json."""
    folder = data or (Path(os.environ["AL_CRYSTAL_DATA"]) if "AL_CRYSTAL_DATA" in os.environ else None)
    if folder is None or not (folder / "structures").is_dir():
        typer.echo(f"no structures/ in {folder}: name the data folder with --data or $AL_CRYSTAL_DATA", err=True)
        raise typer.Exit(2)
    rows = read_rows(folder / "structures", frozenset(range(2, 10)))
    structures = [structure for row in rows if (structure := conventional(row)) is not None]
    pairs, radii = pair_distances(structures)
    ways, fitted = way_coefficients(structures)
    document = {
        "about": f"python -m oracles.fit_positions on {len(structures)} structures of folds 2-9 (Materials Project, WBM and others; see "
        f"the docstring of that module): shortest distances in Å, radii in Å for pairs not seen, log-odds of ways from {fitted} structures",
        "pairs": pairs,
        "radii": radii,
        "ways": ways,
    }
    target = Path(str(files("oracles"))) / "data" / "pair_distances.json"
    target.write_text(json.dumps(document, indent=0) + "\n")
    typer.echo(f"{target}: {len(pairs)} pairs, ways {ways} from {fitted} structures")


if __name__ == "__main__":
    typer.run(main)
