"""The labels in the formats that others read: CIF, extended XYZ, CSV, ASE database.

``python -m al_crystal.export RUN`` writes them again from the history alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .config import Campaign
    from .history import State


def export_labels(campaign: Campaign, state: State, table: pd.DataFrame, best: int = 10) -> list[Path]:
    """Write ``labels.csv``, ``structures/all.extxyz``, ``structures/all.db`` and the CIFs of the best; return what was written.

    ``table`` is ``results.ranking``; the CIFs are of the ``best`` most desirable distinct structures, numbered by rank.
    """
    from ase.db import connect
    from ase.io import write

    folder = campaign.folder / "structures"
    folder.mkdir(parents=True, exist_ok=True)
    csv = campaign.folder / "labels.csv"
    table.to_csv(csv, index=False)
    rows = {row["id"]: row for _, row in table.iterrows()}
    images = [_atoms(label, rows[candidate.id]) for _, candidate, label in state.labelled() if label.structure is not None]
    for old in [*folder.glob("best-*.cif"), folder / "all.db"]:
        old.unlink(missing_ok=True)
    written = [csv]
    if images:
        write(folder / "all.extxyz", images, format="extxyz")
        with connect(folder / "all.db") as database:
            for atoms in images:
                numbers = {key: value for key, value in atoms.info.items() if isinstance(value, (int, float))}
                database.write(atoms, key_value_pairs=numbers | {"status": atoms.info["status"], "arm": atoms.info["arm"]}, data=atoms.info)
        written += [folder / "all.extxyz", folder / "all.db"]
    chosen = table[(table["status"] == "ok") & (table["same_as"] == "")].head(best)
    labels = {candidate.id: label for _, candidate, label in state.labelled()}
    for rank, (_, row) in enumerate(chosen.iterrows(), start=1):
        structure = labels[row["id"]].structure
        if structure is not None:
            path = folder / f"best-{rank:02d}-{row['formula']}-{row['relaxed_space_group_number']:.0f}.cif"
            structure.to_pymatgen().to(filename=str(path), symprec=0.01)
            written.append(path)
    return written


def _atoms(label: Any, row: pd.Series) -> Any:
    from ase import Atoms

    structure = label.structure
    atoms = Atoms(symbols=list(structure.species), scaled_positions=structure.fractional_coordinates, cell=structure.lattice, pbc=True)
    atoms.info = {"crystal_id": label.crystal_id, "status": label.status, "round": int(row["round"]), "arm": row["arm"]}
    atoms.info |= {f"labelled_{name}": value.value for name, value in label.properties.items()}
    atoms.info |= {f"level_of_theory_{name}": value.level_of_theory for name, value in label.properties.items()}
    atoms.info["desirability"] = float(row["desirability"])
    return atoms


def _main(run: Path, best: int = 10) -> None:
    """Export the labels of the run in folder RUN."""
    import typer

    from .config import ConfigError, load
    from .history import HistoryError, read
    from .results import ranking

    try:
        campaign = load(run / "campaign.yaml").model_copy(update={"output": run.parent, "name": run.name})
        state = read(run / "history.jsonl")
        for path in export_labels(campaign, state, ranking(campaign, state), best):
            typer.echo(path)
    except (ConfigError, HistoryError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    import typer

    typer.run(_main)
