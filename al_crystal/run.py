"""``python -m al_crystal.run CAMPAIGN.yaml``: run a campaign, or go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment
    from oracles.potentials import PotentialRecord

    from .config import Campaign

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    campaign_file: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="the campaign file, such as campaigns/solar_bg.yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the campaign, its space, weights and queue; write nothing")] = False,
    once: Annotated[bool, typer.Option("--once", help="collect, advance, submit, and exit with 3 while jobs run (for cron)")] = False,
) -> None:
    """Run a campaign of active learning. The same command again goes on where the last one stopped."""
    from oracles.engine_queue import EngineUnavailable, StillRunning

    from .config import ConfigError, load
    from .history import HistoryError

    try:
        campaign = load(campaign_file)
        _check_import_of_gfn()
        _check_folder(campaign)
        environment, potential = prepare(campaign, campaign_file)
        if dry_run:
            typer.echo(f"{campaign_file}: ready to run in {campaign.folder}; potential {potential.name}: {potential.reason}")
            return
        execute(campaign, environment, potential, once)
    except (ConfigError, HistoryError, EngineUnavailable) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except StillRunning as running:
        typer.echo(f"{running} jobs run on; the same command collects them and goes on")
        raise typer.Exit(3) from None
    except KeyboardInterrupt:
        typer.echo("stopped; every label is kept, and the same command goes on from here", err=True)
        raise typer.Exit(130) from None


def prepare(campaign: Campaign, campaign_file: Path) -> tuple[CrystalEnvironment, PotentialRecord]:
    """Build the space and find the potential, before anything is written.

    Raises:
        ConfigError: nothing valid is left of the space; the engine or a DFT code is unusable here; the weights cannot be had, are
            broken or fail the self-test.
    """
    from gfn.constraints import EmptySpace
    from gfn.environment import CrystalEnvironment
    from oracles.potentials import PotentialNotFound, PotentialRefused, load, resolve

    from .config import ConfigError
    from .history import read

    try:
        environment = CrystalEnvironment(campaign.space)
    except EmptySpace as error:
        raise ConfigError(f"{campaign_file}: `space` leaves no crystal: {error}") from None
    if obstacles := _obstacles(campaign):
        raise ConfigError("\n".join(f"{campaign_file}: {obstacle}" for obstacle in obstacles))
    start = read(campaign.folder / "history.jsonl").start
    try:
        potential = resolve(campaign.oracles.potential, campaign.oracles.models)
        if start is not None and potential.sha256 != start.facts["potential"]["sha256"]:
            first = start.facts["potential"]
            raise ConfigError(
                f"{campaign.folder}: the campaign began with {first['name']} ({first['source']}, sha256 {first['sha256'][:12]}), "
                f"found now: {potential.name} ({potential.source}, sha256 {potential.sha256[:12]})\n"
                "  allowed: one potential for a whole campaign\n"
                "  fix: make those weights available again, or give this campaign another name"
            )
        return environment, load(potential).record
    except (PotentialNotFound, PotentialRefused) as error:
        raise ConfigError(f"{campaign_file}: `oracles.potential`: {error}") from None


def _obstacles(campaign: Campaign) -> list[str]:
    """What stands in the way of the engine and of the promotions on this machine."""
    from oracles.engines import make_engine

    from .promotion import problems

    return [*make_engine(campaign.engine, campaign.folder / "tasks").problems(), *problems(campaign)]


def execute(campaign: Campaign, environment: CrystalEnvironment, potential: PotentialRecord, once: bool = False) -> None:
    """Open the history, run what is missing, and write the results."""
    from .history import History, Start
    from .loop import Loop
    from .results import write_results
    from .terminal import Terminal
    from .versions import facts, write_manifest

    terminal = Terminal()
    with History(campaign.folder) as history:
        if history.state.start is None:
            write_manifest(campaign, potential)
            history.append(Start(campaign=campaign.hash, facts=facts(potential)))
            terminal.line(f"campaign {campaign.name} ({campaign.hash}) in {campaign.folder}")
        else:
            done = sum(len(entry.labels) for entry in history.state.rounds)
            terminal.line(
                f"campaign {campaign.name} ({campaign.hash}): going on with {history.state.closed_rounds} rounds and {done} labels"
            )
        terminal.line(f"potential {potential.name}: {potential.reason}")
        Loop(campaign, environment, potential, history, terminal, once).run()
        write_results(campaign, history.state, terminal)


def _check_folder(campaign: Campaign) -> None:
    from .config import ConfigError
    from .history import read

    folder = campaign.folder
    if not folder.exists():
        return
    start = read(folder / "history.jsonl").start
    fix = "  fix: change `name` or `output` in the campaign file, or move the folder away"
    if start is not None and start.campaign != campaign.hash:
        raise ConfigError(
            f"{folder}: holds another campaign ({start.campaign}, this one is {campaign.hash})\n"
            f"  allowed: the campaign it began with (see {folder / 'campaign.yaml'}); rounds, retries, engine, promotion may change\n{fix}"
        )
    strangers = sorted({path.name for path in folder.iterdir()} - {"history.jsonl", "lock", "campaign.yaml", "manifest.json"})
    if start is None and strangers:
        raise ConfigError(f"{folder}: is not a campaign's folder: it has no history, but {', '.join(strangers[:5])}\n{fix}")


def _check_import_of_gfn() -> None:
    import gfn

    from .config import ConfigError

    found, ours = Path(str(gfn.__file__)).parent, Path(__file__).parents[1] / "gfn"
    if found.resolve() != ours.resolve():
        raise ConfigError(
            f"the package `gfn` is imported from {found}, not from {ours}\n"
            "  likely: torchgfn is installed, which takes the same import name\n"
            "  fix: pip uninstall torchgfn, or use an environment of its own"
        )


def main() -> None:
    """Entry point of the command ``al-crystal``."""
    app()


if __name__ == "__main__":
    main()
