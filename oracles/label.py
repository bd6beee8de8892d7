"""``python -m oracles.label FILE``: label crystals or structures by hand, with the code and the checks of a campaign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from al_crystal.crystal import Label

TABLES = {".parquet", ".csv"}


def main(
    file: Annotated[Path, typer.Argument(help="a structure (CIF, POSCAR, ...) or a table of crystals (.parquet, .csv)")],
    output: Annotated[Path | None, typer.Option(help="write the labels here, one JSON object a line")] = None,
    potential: Annotated[str, typer.Option(help="auto, or any that oracles.potentials.resolve knows")] = "auto",
    models: Annotated[Path | None, typer.Option(help="folder with matgl weights; default $AL_CRYSTAL_MODELS")] = None,
    second_potential: Annotated[str | None, typer.Option(help="a potential whose opinion is recorded among the checks")] = None,
    symmetry: Annotated[str, typer.Option(help="kept, or freed: let go and relaxed again without it")] = "kept",
    search: Annotated[bool, typer.Option(help="forget the atoms of a structure and search them anew in its cell and group")] = False,
    workers: Annotated[int, typer.Option(min=0, help="worker processes for a table; 0 labels in this process")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="seed of the search")] = 0,
) -> None:
    """Label a structure (relaxed from where its atoms are) or a table of crystals (positions searched first)."""
    from oracles.engine_settings import LocalSettings
    from oracles.potentials import PotentialNotFound, PotentialRefused, load, resolve
    from oracles.settings import OracleSettings

    if not file.is_file():
        _stop(f"{file}: no such file")
    if symmetry not in ("kept", "freed"):
        _stop(f"--symmetry {symmetry}: not known; allowed: kept, freed")
    settings = OracleSettings(potential=potential, models=models, second_potential=second_potential, symmetry=symmetry)
    try:
        if second_potential is not None:
            load(resolve(second_potential, models))
        record = load(resolve(potential, models)).record
    except (PotentialNotFound, PotentialRefused) as error:
        _stop(str(error))
    typer.echo(f"potential {record.name}: {record.reason}", err=True)

    from oracles.engines import InlineEngine, LocalEngine
    from oracles.labelling import Labeller, crystal_of

    labeller = Labeller(settings, record, seed)
    labels: list[Label] = []
    if file.suffix in TABLES:
        crystals = _table(file)
        engine = LocalEngine(LocalSettings(workers=workers)) if workers else InlineEngine()
        names = {crystal.id: f"{crystal.formula} in group {crystal.space_group}" for crystal in crystals}
        for label in engine.run(labeller, [(crystal, 0) for crystal in crystals]):
            labels.append(label)
            typer.echo(_line(names[label.crystal_id], label))
    else:
        structure = _structure(file)
        crystal = crystal_of(structure, settings.symprec)
        labels.append(labeller.label(crystal) if search else labeller.label_structure(structure))
        typer.echo(_line(f"{crystal.formula} in group {crystal.space_group}", labels[0]))
    if output is not None:
        output.write_text("".join(label.model_dump_json() + "\n" for label in labels))


def _table(file: Path) -> list[Any]:
    import pandas as pd

    from al_crystal.crystal import crystals_from_frame

    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, keep_default_na=False)
        return crystals_from_frame(frame)
    except (KeyError, ValueError) as error:
        _stop(f"{file}: not a table of crystals: {error}\n  needed columns: space_group_number, a, b, c, alpha, beta, gamma, composition")


def _structure(file: Path) -> Any:
    from pymatgen.core import Structure

    try:
        structure = Structure.from_file(file)
    except Exception as error:  # pymatgen raises whatever its many parsers raise
        _stop(f"{file}: pymatgen cannot read it: {error}\n  allowed: CIF, POSCAR, cssr, json, yaml, or a table (.parquet, .csv)")
    if not structure.is_ordered:
        _stop(f"{file}: {structure.composition.formula} has partly occupied sites; only ordered structures can be labelled")
    return structure


def _line(name: str, label: Label) -> str:
    from al_crystal.crystal import UNITS

    values = ", ".join(f"{key} {value.value:.4g} {UNITS.get(key, '')}".strip() for key, value in label.properties.items())
    return f"{name}: {label.status}, {label.reason}" + (f"; {values}" if values else "") + f" [{label.cost.get('cpu_s', 0):.1f} CPU-s]"


def _stop(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
