"""Draw crystals: ``python -m gfn.sample CHECKPOINT -n N [--restrict FILE] -o samples.parquet``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def main(
    checkpoint: Annotated[Path, typer.Argument(help="folder written by gfn.train")],
    output: Annotated[Path, typer.Option("-o", "--output", help="parquet table to write")],
    n: Annotated[int, typer.Option("-n", min=1, help="how many crystals")] = 10_000,
    restrict: Annotated[Path | None, typer.Option(help="YAML file with a restriction")] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="above 1: more diverse than the policy")] = 1.0,
    seed: Annotated[int, typer.Option(help="decides the draw")] = 0,
    config: Annotated[Path | None, typer.Option(help="training configuration, needed only where a restriction asks to finetune")] = None,
) -> None:
    """Draw crystals from a checkpoint and write them with the columns of the project's tables."""
    from gfn.config import ConfigError, load_config, load_restriction
    from gfn.constraints import Restriction, Space

    try:
        if not output.parent.is_dir():
            raise ConfigError(f"{output}: there is no folder {output.parent} to write it to")
        record = json.loads((checkpoint / "trainer.json").read_text())
        restriction: Restriction | None = load_restriction(restrict) if restrict else None
        if restriction is not None and restriction.finetune and config is None:
            raise ConfigError(f"{restrict}: finetune needs the reward: give the training configuration with --config")
        reward_settings = load_config(config).reward if config else None
    except FileNotFoundError as error:
        typer.echo(f"{checkpoint} is no checkpoint of gfn.train: it has no trainer.json", err=True)
        raise typer.Exit(2) from error
    except ValueError as error:
        typer.echo(str(error) if isinstance(error, ConfigError) else f"{checkpoint / 'trainer.json'}: broken: {error}", err=True)
        raise typer.Exit(2) from error
    from al_crystal.crystal import crystals_to_frame
    from al_crystal.seeds import torch_rng
    from gfn.environment import CrystalEnvironment
    from gfn.rewards import log_reward
    from gfn.trainer import Trainer

    try:
        trainer = Trainer.load(checkpoint, CrystalEnvironment(Space.model_validate(record["space"])))
        if restriction is not None and restriction.finetune and reward_settings is not None:
            trainer = trainer.inside(restriction)
            trainer.train(log_reward(reward_settings), restriction.finetune)
        crystals = trainer.sampler().sample(n, torch_rng(seed, 0, "gfn/sample"), restriction, temperature).to_crystals()
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    crystals_to_frame(crystals).to_parquet(output)
    typer.echo(f"{len(crystals)} crystals written to {output}")


if __name__ == "__main__":
    typer.run(main)
