"""Train a Crystal-GFN: ``python -m gfn.train CONFIG -o FOLDER``; the same command again goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gfn.config import TrainConfig
    from gfn.trainer import Trainer

EVERY = 100
"""Iterations between progress lines; checkpoints every ten of them."""
CONFIG = "config.json"
"""The resolved configuration, in the checkpoint folder."""


def main(
    config: Annotated[Path, typer.Argument(help="YAML file, such as campaigns/paper/formation_energy.yaml")],
    output: Annotated[Path, typer.Option("-o", "--output", help="checkpoint folder")],
    iterations: Annotated[int | None, typer.Option(help="instead of sampler.iterations")] = None,
) -> None:
    """Train, or go on training, and write a checkpoint."""
    from gfn.config import ConfigError, load_config
    from gfn.constraints import EmptySpace

    try:
        settings = load_config(config)
        _check_same(settings, output)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    from gfn.environment import CrystalEnvironment
    from gfn.rewards import log_reward
    from gfn.trainer import Trainer

    try:
        environment = CrystalEnvironment(settings.space)
        reward = log_reward(settings.reward)
        resumed = (output / "trainer.json").is_file()
        trainer = Trainer.load(output, environment) if resumed else Trainer(environment, settings.sampler, settings.seed)
        if settings.known_crystals is not None:
            _use_known(trainer, settings.known_crystals)
    except (EmptySpace, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    output.mkdir(parents=True, exist_ok=True)
    (output / CONFIG).write_text(settings.model_dump_json(indent=1) + "\n")
    total = iterations if iterations is not None else settings.sampler.iterations
    typer.echo(f"{'going on from' if resumed else 'starting at'} iteration {trainer.iteration} of {total}")
    while trainer.iteration < total:
        records = trainer.train(reward, min(EVERY, total - trainer.iteration))
        mean = {name: sum(record[name] for record in records) / len(records) for name in ("loss", "mean_log_reward")}
        typer.echo(
            f"iteration {trainer.iteration:6d}  loss {mean['loss']:9.4f}  log Z {records[-1]['log_z']:8.3f}  "
            f"mean log R {mean['mean_log_reward']:8.3f}"
        )
        if bad := sum(int(record["bad_rewards"]) for record in records):
            typer.echo(f"  {bad} rewards were NaN or infinite: counted as the floor")
        if trainer.iteration % (10 * EVERY) == 0:
            trainer.save(output)
    trainer.save(output)
    typer.echo(f"checkpoint written to {output}")


def _check_same(settings: TrainConfig, output: Path) -> None:
    """That a folder was begun with these settings.

    Raises:
        ConfigError: when it was begun with others; the message names the fields.
    """
    from gfn.config import ConfigError, differences

    path = output / CONFIG
    if path.is_file() and (changed := differences(json.loads(settings.model_dump_json()), json.loads(path.read_text()))):
        raise ConfigError(f"{output} was begun with another configuration; take another folder. " + "; ".join(changed))


def _use_known(trainer: Trainer, table: Path) -> None:
    """Give the trainer the known crystals of a table.

    Raises:
        ConfigError: when the table cannot be read, or none of its crystals is inside the space.
    """
    from al_crystal.crystal import CrystalBatch
    from gfn.config import ConfigError, load_crystals

    crystals, _ = load_crystals(table)
    kept = trainer.use_dataset(CrystalBatch.from_crystals(crystals))
    if not kept:
        raise ConfigError(f"{table}: none of its {len(crystals)} crystals is inside the space; left out by constraint: {trainer.skipped}")
    typer.echo(f"known crystals: {kept} of {len(crystals)} inside the space; left out by constraint: {trainer.skipped}")


if __name__ == "__main__":
    typer.run(main)
