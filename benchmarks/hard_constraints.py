"""Do sampled crystals keep every hard constraint, by checks that are not the sampler's own?

Usage: python benchmarks/hard_constraints.py [CAMPAIGN.yaml] [--checkpoint RUN/round-003/sampler] [-n 10000]

Draws from the untrained sampler of a campaign's space, and from a trained one if a checkpoint is given. SMACT judges neutrality and
Pauling's rule, PyXtal the Wyckoff positions, the symmetry of the metric tensor (International Tables A, 3.1.2) the lattice; the volume
must be positive. Prints the number of crystals that fail each; exit code 1 if any does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from al_crystal.config import load
from al_crystal.seeds import torch_rng
from gfn.environment import CrystalEnvironment
from gfn.evaluate import validity
from gfn.sampler import Sampler
from gfn.trainer import Trainer


def main(
    campaign: Annotated[Path, typer.Argument(help="the campaign whose space is sampled")] = Path("campaigns/solar_bg.yaml"),
    checkpoint: Annotated[Path | None, typer.Option(help="a sampler trained in that space")] = None,
    n: Annotated[int, typer.Option("-n", help="crystals from each sampler")] = 10_000,
) -> None:
    """Draw, judge, count."""
    environment = CrystalEnvironment(load(campaign).space)
    samplers = {"untrained": Sampler.uniform(environment)}
    if checkpoint is not None:
        samplers["trained"] = Trainer.load(checkpoint, environment).sampler()
    failures = 0
    for name, sampler in samplers.items():
        crystals = sampler.sample(n, torch_rng(0, 0, f"benchmark/{name}")).to_crystals()
        for check, share in validity(crystals).items():
            failed = round((1 - share) * n)
            failures += failed
            typer.echo(f"{name:10} {check:28} {failed:6} of {n} fail")
    raise typer.Exit(1 if failures else 0)


if __name__ == "__main__":
    typer.run(main)
