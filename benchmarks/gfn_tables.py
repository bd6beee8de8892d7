"""Build the two shipped tables of facts of ``gfn`` from PyXtal and SMACT.

Usage: python benchmarks/gfn_tables.py [--write]

``gfn/data/space_groups.json``: of each space group, the multiplicities of its Wyckoff positions without free parameters (each may be
occupied once) and of those with free parameters (any number of times), in the ITA setting (hexagonal axes for R groups).
``gfn/data/oxidation_states.json``: of each element, SMACT's icsd24 oxidation states, its Pauling electronegativity, whether SMACT calls it
a metal, and whether SMACT lets it take mixed valence. Without ``--write`` the shipped tables are compared and differences are an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from al_crystal.crystal import ELEMENTS

FOLDER = Path(__file__).parents[1] / "gfn" / "data"


def space_groups() -> dict[str, Any]:
    """Symbol and Wyckoff multiplicities of the 230 groups, from PyXtal."""
    from pyxtal.symmetry import Group

    table = {}
    for number in range(1, 231):
        group = Group(number)
        positions = [(int(position.multiplicity), int(position.get_dof())) for position in group.Wyckoff_positions]
        table[str(number)] = {
            "symbol": group.symbol,
            "fixed": sorted(multiplicity for multiplicity, freedom in positions if not freedom),
            "free": sorted({multiplicity for multiplicity, freedom in positions if freedom}),
        }
    return table


def oxidation_states() -> dict[str, Any]:
    """States, electronegativity and kind of every element SMACT knows."""
    import smact
    from smact.screening import MIXED_VALENCE_ELEMENTS

    table = {}
    for symbol in ELEMENTS[:103]:
        element = smact.Element(symbol)
        table[symbol] = {
            "states": element.oxidation_states_icsd24 or [],
            "electronegativity": element.pauling_eneg,
            "metal": symbol in smact.metals,
            "mixed_valence": symbol in MIXED_VALENCE_ELEMENTS,
        }
    return table


def main(write: Annotated[bool, typer.Option(help="replace the shipped tables")] = False) -> None:
    """Build both tables, then write or compare them."""
    for name, table in [("space_groups", space_groups()), ("oxidation_states", oxidation_states())]:
        path = FOLDER / f"{name}.json"
        if write:
            rows = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
            path.write_text("{\n" + rows + "\n}\n")
        shipped = json.loads(path.read_text())
        different = [key for key in table if shipped.get(key) != table[key]]
        print(f"{path.name}: {len(table)} rows, {len(different)} differ {different[:5]}")
        if different:
            raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
