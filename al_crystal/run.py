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
    seed: Annotated[
        int | None, typer.Option(min=0, help="instead of the file's; the run's name ends in it: how far do results depend on chance?")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="collect, advance, submit, and exit with 3 while jobs run (for cron)")] = False,
) -> None:
    """Run a campaign of active learning. The same command again goes on where the last one stopped."""
    from oracles.engine_queue import EngineUnavailable, StillRunning

    from .checks import check_folder, check_import_of_gfn, prepare
    from .config import ConfigError, load
    from .history import HistoryError

    try:
        campaign = load(campaign_file, seed)
        check_import_of_gfn()
        check_folder(campaign)
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


def execute(campaign: Campaign, environment: CrystalEnvironment, potential: PotentialRecord, once: bool = False) -> None:
    """Open the history, run what is missing, and write the results."""
    import torch

    from .history import History, Start
    from .loop import Loop
    from .results import write_results
    from .terminal import Terminal
    from .versions import facts, write_manifest

    torch.set_num_threads(1)  # the networks are too small to gain from more, and sums then do not depend on the number of cores
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


def main() -> None:
    """Entry point of the command ``al-crystal``."""
    app()


if __name__ == "__main__":
    main()
