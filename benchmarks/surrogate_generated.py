"""The surrogate alone about what its own sampler generates: before and after a campaign's rounds, on a random sample of each pool.

Usage: python -m benchmarks.surrogate_generated runs/NAME [runs/OTHER ...] [--rounds 0 --rounds 5] [--number 60] [--output FILE.json]

In every round a campaign trains a sampler on the surrogate of that round and draws a pool. This takes a random sample of the pools of the
rounds named (no acquisition, no look has chosen among them) and labels it as the campaign labels: the energy at rest in the proposed
cell is what a prediction means. Printed are the errors of that round's surrogate and of the first ensemble: best guesses, eV/atom;
crystals without such an energy are counted, and how many of the sample share their formula and group, or their chemical system, with
something that was measured before. With ``--data`` the errors of the same surrogates on 4,000 real crystals of folds 0-1.

After each run three ratios of mean errors, with 90 % intervals of a bootstrap over the crystals: the last round's surrogate on its own
pool over the first round's on its own; over the first ensemble on the same crystals; and the latter on crystals of the first pool that were
never measured, where nothing is the sampler's doing. Of several runs (seeds of one campaign) also the mean of these ratios, their standard
deviation over the runs, and the interval of the mean. Labels are kept in a run's folder (``generated-000.jsonl``), so that what was
interrupted goes on. A campaign may still be running; its history is not touched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from al_crystal.config import load
from al_crystal.crystal import Crystal, CrystalBatch, Label, Value, crystals_from_frame
from al_crystal.history import read
from al_crystal.seeds import rng
from benchmarks.surrogate_residual import errors
from benchmarks.surrogate_rounds import error, real_tables
from benchmarks.surrogate_scale import shift
from oracles.engines import make_engine
from oracles.labelling import Labeller
from oracles.potentials import load as load_potential
from oracles.potentials import resolve
from surrogates.ensemble import Ensemble

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surrogates.tables import Table

ENERGY = "formation_energy_per_atom"
RESAMPLES = 5_000


@dataclass(frozen=True)
class Errors:
    """Of one sample: what is printed, and the absolute errors ``(n,)`` of the round's, the first and the last surrogate, eV/atom.

    ``unlearned`` says which crystals were not measured before the last round.
    """

    figures: dict[str, float]
    own: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    unlearned: NDArray[np.bool_]


def sample(run: Path, number: int, size: int) -> list[Crystal]:
    """Crystals of a round's pool, drawn evenly."""
    import pandas as pd

    pool = pd.read_parquet(run / f"round-{number:03d}" / "pool.parquet")
    chosen = rng(0, number, "generated benchmark").permutation(len(pool))[:size]
    return crystals_from_frame(pool.iloc[chosen])


def labels(run: Path, crystals: list[Crystal], kept: Path, workers: int) -> dict[str, Value]:
    """The energies at rest in the proposed cells that ``ok`` labels state, by crystal; those in the file are not computed again."""
    known = [Label.model_validate_json(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {label.crystal_id for label in known}
    missing = [crystal for crystal in crystals if crystal.id not in done]
    if missing:
        campaign = load(run / "campaign.yaml")
        record = load_potential(resolve(campaign.oracles.potential, campaign.oracles.models)).record
        labeller = Labeller(campaign.oracles, record, campaign.seed, after_looks=campaign.selection.screened > 0)
        engine = make_engine(campaign.engine.model_copy(update={"workers": workers}), run / "tasks")
        with kept.open("a") as file:
            for label in engine.run(labeller, [(crystal, 0) for crystal in missing]):
                file.write(label.model_dump_json() + "\n")
                file.flush()
                known.append(label)
    wanted = {crystal.id for crystal in crystals}
    good = [label for label in known if label.crystal_id in wanted and label.status == "ok"]
    return {label.crystal_id: energy for label in good if (energy := label.proposal_properties.get(ENERGY)) is not None}


def repeats(crystals: list[Crystal], before: list[Crystal]) -> dict[str, float]:
    """Shares of crystals with the formula and group of something in ``before``, and with its chemical system."""
    pairs, systems = {(one.formula, one.space_group) for one in before}, {one.chemical_system for one in before}
    return {
        "formula and group seen": float(np.mean([(one.formula, one.space_group) in pairs for one in crystals])),
        "system seen": float(np.mean([one.chemical_system in systems for one in crystals])),
    }


def measured(run: Path, at: int, last: int, number: int, workers: int, real: list[Table]) -> Errors:
    """Errors about a sample of one pool, of the surrogates of its round and of the ``last``, and about real crystals."""
    crystals = sample(run, at, number)
    found = labels(run, crystals, run / f"generated-{at:03d}.jsonl", workers)
    known = [crystal for crystal in crystals if crystal.id in found]
    values = [found[crystal.id] for crystal in known]
    truth, noise = np.array([value.value for value in values]), np.array([value.standard_deviation or 0.0 for value in values])
    batch = CrystalBatch.from_crystals(known)
    pretrained = load(run / "campaign.yaml").surrogate.pretrained
    began = Ensemble.load(pretrained) if pretrained else Ensemble.pretrained()
    ensemble = Ensemble.load(run / f"round-{at:03d}" / "surrogate")
    latest = Ensemble.load(run / f"round-{last:03d}" / "surrogate")
    predicted, first = ensemble.predict(batch), began.predict(batch)
    off, first_off, last_off = (each.median[:, 0].double().numpy() - truth for each in (predicted, first, latest.predict(batch)))
    figures = {"round": float(at), "n": float(len(known)), "without an energy": float(len(crystals) - len(known))}
    figures |= errors(predicted, truth, noise) | {"bias": float(off.mean())}
    figures["standard error"] = float(np.abs(off).std(ddof=1) / np.sqrt(len(known)))
    figures |= {f"{name}, first ensemble": value for name, value in errors(first, truth, noise).items()}
    history = read(run / "history.jsonl")
    figures |= repeats(crystals, history.measured(at))
    learned = {crystal.id for crystal in history.measured(last)}
    for column, name in enumerate(("energies", "gaps") if real else ()):
        figures[f"real {name}"] = float(np.mean([error(ensemble, table, column) for table in real]))
    unlearned = np.array([crystal.id not in learned for crystal in known])
    return Errors(figures, np.abs(off), np.abs(first_off), np.abs(last_off), unlearned)


def ratio(after: list[NDArray[np.float64]], before: list[NDArray[np.float64]], *, paired: bool) -> dict[str, float]:
    """Mean over runs of the mean error after over that before, and its 90 % interval: crystals of every run are drawn again.

    One array ``(n,)`` of absolute errors a run; ``paired`` where both are of the same crystals.
    """
    from scipy.stats import bootstrap

    def mean_ratio(*drawn: NDArray[np.generic], axis: int = -1) -> NDArray[np.float64]:
        rows = [each.astype(int) for each in drawn]
        pairs = zip(after, before, rows[: len(after)], rows[-len(before) :], strict=True)
        return np.mean([last[one].mean(axis) / first[other].mean(axis) for last, first, one, other in pairs], axis=0)

    rows = [np.arange(len(part)) for part in (after if paired else [*after, *before])]
    random = rng(0, 0, "generated benchmark, bootstrap")
    found = bootstrap(rows, mean_ratio, n_resamples=RESAMPLES, confidence_level=0.9, method="percentile", vectorized=True, rng=random)
    low, high = found.confidence_interval
    return {"ratio": float(mean_ratio(*rows)), "low": float(low), "high": float(high)}


def ratios(pools: list[tuple[Errors, Errors]]) -> dict[str, dict[str, float]]:
    """The ratios of the first and the last pool of each run, printed."""
    before, after, first = [one.own for one, _ in pools], [last.own for _, last in pools], [last.first for _, last in pools]
    later, began = [one.last[one.unlearned] for one, _ in pools], [one.first[one.unlearned] for one, _ in pools]
    found = {
        "own pools, last round over first": ratio(after, before, paired=False),
        "same crystals, last round's surrogate over the first ensemble": ratio(after, first, paired=True),
        "the same on unmeasured crystals of the first pool": ratio(later, began, paired=True),
    }
    for name, value in found.items():
        typer.echo(f"{name}: {value['ratio']:.2f} ({value['low']:.2f} to {value['high']:.2f})")
    return found


def main(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs, such as seeds of one campaign")],
    rounds: Annotated[list[int], typer.Option(help="rounds to measure")] = [0, 5],  # noqa: B006  (typer's way to state a default list)
    number: Annotated[int, typer.Option(help="crystals of each pool")] = 60,
    workers: Annotated[int, typer.Option(help="processes that label")] = 2,
    data: Annotated[Path | None, typer.Option(envvar="AL_CRYSTAL_DATA", help="development data, for the real crystals")] = None,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line a round, and the ratios of the last to the first."""
    import torch

    torch.set_num_threads(1)
    real = real_tables(data, shift) if data else []
    report: dict[str, dict[str, object]] = {}
    ends: list[tuple[Errors, Errors]] = []
    found: list[dict[str, dict[str, float]]] = []
    for run in runs:
        typer.echo(run.name)
        pools = []
        for at in rounds:
            pools.append(measured(run, at, rounds[-1], number, workers, real))
            typer.echo("  ".join(f"{name} {value:.3f}".replace(".000", "") for name, value in pools[-1].figures.items()))
        ends.append((pools[0], pools[-1]))
        found.append(ratios(ends[-1:]))
        report[run.name] = {"rounds": [pool.figures for pool in pools], **found[-1]}
        medians = [float(np.median(part)) for part in (pools[-1].own, pools[0].own, pools[-1].first)]
        typer.echo(f"the first two of medians: {medians[0] / medians[1]:.2f}, {medians[0] / medians[2]:.2f}")
    if len(runs) > 1:
        typer.echo(f"mean of {len(runs)} runs")
        spread = {f"{name}: standard deviation": float(np.std([one[name]["ratio"] for one in found], ddof=1)) for name in found[0]}
        report["all runs"] = {**ratios(ends), **spread}
        typer.echo("standard deviation over the runs: " + ", ".join(f"{value:.2f}" for value in spread.values()))
    if output:
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
