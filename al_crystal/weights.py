"""``python -m al_crystal.weights where|verify|fetch``: the potentials' weights, before a campaign runs where there is no network.

``fetch`` on a machine with a network brings the weights from matgl's hub into one folder; that folder, copied to the cluster and
named in ``$AL_CRYSTAL_MODELS``, is all a campaign needs. ``verify`` loads them and runs the self-test on reference crystals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="M3GNet, SevenNet-l3i5...; by default all that are installed")]
Folder = Annotated[Path | None, typer.Option(help="look here only; otherwise $AL_CRYSTAL_MODELS, matgl's cache, matgl's hub")]


def _known() -> list[str]:
    """The potentials whose package is installed."""
    from importlib.util import find_spec

    from oracles.potentials import MATGL_MODELS, SEVENNET_MODELS

    return [*MATGL_MODELS, "CHGNet", *(SEVENNET_MODELS if find_spec("sevenn") else ())]


@app.command()
def where(names: Names = None, folder: Folder = None) -> None:
    """Say where the weights would be taken from, and their sha256; nothing is loaded. Exit code 1 if any cannot be had."""
    from oracles.potentials import PotentialNotFound, resolve

    missing = 0
    for name in names or _known():
        try:
            record = resolve(name, folder)
            typer.echo(f"{name}: {record.source}\n  {record.reason}; {record.level_of_theory}; sha256 {record.sha256}")
        except PotentialNotFound as error:
            missing += 1
            typer.echo(f"{name}: not here\n  {error}")
    raise typer.Exit(1 if missing else 0)


@app.command()
def verify(names: Names = None, folder: Folder = None) -> None:
    """Load the weights and run the self-test on reference crystals. Exit code 1 if any cannot be had or fails."""
    from oracles.potentials import PotentialNotFound, PotentialRefused, load, resolve

    bad = 0
    for name in names or _known():
        try:
            record = load(resolve(name, folder)).record
            how = f"; messages summed into the {record.aggregation}" if record.aggregation else ""
            typer.echo(f"{name}: passes the self-test{how}\n  {record.source}, sha256 {record.sha256}")
        except (PotentialNotFound, PotentialRefused) as error:
            bad += 1
            typer.echo(f"{name}: must not label\n  {error}")
    raise typer.Exit(1 if bad else 0)


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(help="folder to write to, one subfolder per model")],
    names: Names = None,
) -> None:
    """Copy the weights into a folder, from wherever they can be had (matgl's hub at last). Exit code 1 if any cannot."""
    import shutil

    from oracles.potentials import MATGL_MODELS, SEVENNET_MODELS, PotentialNotFound, resolve
    from oracles.weights import MODEL_FILES, sha256_of

    missing = 0
    for name in names or list(MATGL_MODELS):
        if name == "CHGNet" or name in SEVENNET_MODELS:
            typer.echo(f"{name}: nothing to fetch, its weights are in its wheel")
            continue
        try:
            record = resolve(name)
        except PotentialNotFound as error:
            missing += 1
            typer.echo(f"{name}: cannot be had\n  {error}")
            continue
        target = folder / MATGL_MODELS[name][0]
        target.mkdir(parents=True, exist_ok=True)
        for file in MODEL_FILES:
            if (target / file).resolve() != (Path(record.source) / file).resolve():
                shutil.copyfile(Path(record.source) / file, target / file)
        if sha256_of(*(target / file for file in MODEL_FILES)) != record.sha256:
            typer.echo(f"{name}: the copy in {target} differs from {record.source}; is the disk full?")
            missing += 1
            continue
        typer.echo(f"{name}: {target} (sha256 {record.sha256})")
    typer.echo(f"now: export AL_CRYSTAL_MODELS={folder.resolve()}")
    raise typer.Exit(1 if missing else 0)


if __name__ == "__main__":
    app()
