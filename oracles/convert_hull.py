"""Carry a hull file of the Materials Project's older scale (2018: MatBench, WBM) to the scale of 2020 that the labels are on.

``python -m oracles.convert_hull OLD.csv.gz NEW.csv`` reads a formula and a formation energy (eV/atom) per line and writes
``formula,formation_energy_per_atom`` on the scale ``MP2020 formation energy``, ready for ``stability.hull`` in a campaign file.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Annotated

import typer

from oracles.materials_project import MP2018, MP2020, convert


def main(
    old: Annotated[
        Path, typer.Argument(help="CSV (.gz or not): a formula and a formation energy on the scale of 2018, in that order", exists=True)
    ],
    new: Annotated[Path, typer.Argument(help="CSV to write")],
) -> None:
    """Convert a hull file from the scale of 2018 to that of 2020."""
    from pymatgen.core import Composition

    left_out = []
    with gzip.open(old, "rt") if old.suffix == ".gz" else old.open() as source, new.open("w", newline="") as target:
        lines, writer = csv.reader(source), csv.writer(target, lineterminator="\n")
        next(lines)
        writer.writerow(["formula", "formation_energy_per_atom"])
        for formula, energy, *_ in lines:
            try:
                writer.writerow([formula, round(convert(Composition(formula).get_el_amt_dict(), float(energy), MP2018, MP2020), 5)])
            except KeyError as error:
                left_out.append(f"{formula} ({error.args[0]})")
    typer.echo(f"{new}: formation energies on the scale {MP2020!r}")
    if left_out:
        typer.echo(f"{len(left_out)} formulas left out, such as {left_out[0]}")


if __name__ == "__main__":
    typer.run(main)
