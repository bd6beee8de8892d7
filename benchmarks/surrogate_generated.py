"""The surrogate alone about what its own sampler generates: before and after a campaign's rounds, on a random sample of each pool.

Usage: python -m benchmarks.surrogate_generated runs/NAME [--rounds 0 --rounds 5] [--number 60] [--looks 0] [--output FILE.json]

In every round a campaign trains a sampler on the surrogate of that round and draws a pool. This takes a random sample of the pools of the
rounds named (no acquisition, no look has chosen among them) and labels it as the campaign labels: the energy at rest in the proposed
cell is what a prediction means. Printed are the errors of that round's surrogate and of the first ensemble: best guesses, eV/atom;
crystals without such an energy are counted, and how many of the sample share their formula and group, or their chemical system, with
something that was measured before. With ``--data`` the errors of the same surrogates on 4,000 real crystals of folds 0-1. At the end two
ratios, with 90 % intervals of a bootstrap over the crystals: the last round's surrogate on its own pool over the first round's on its own,
and over the first round's on the same crystals. Labels are kept in the run's folder (``generated-000.jsonl``), so that what was
interrupted goes on. The campaign may still be running; its history is not touched.

With ``--looks N`` the sample is looked at N times instead, at a fraction of the cost, and the lowest look is taken: above a label by
a few hundredths of an eV/atom. Then the error, cut off at 1, is also printed against the lowest of one look, of two, ...; and how far the
lowest of half of the looks lies from the lowest of the other half: what of an error is the looks' own.
"""

from __future__ import annotations

import json
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
from oracles.screening import Screener
from surrogates.ensemble import Ensemble

if TYPE_CHECKING:
    from oracles.engines import Engine

ENERGY = "formation_energy_per_atom"


def sample(run: Path, number: int, size: int) -> list[Crystal]:
    """Crystals of a round's pool, drawn evenly."""
    import pandas as pd

    pool = pd.read_parquet(run / f"round-{number:03d}" / "pool.parquet")
    chosen = rng(0, number, "generated benchmark").permutation(len(pool))[:size]
    return crystals_from_frame(pool.iloc[chosen])


def labels(engine: Engine, labeller: Labeller, crystals: list[Crystal], kept: Path) -> dict[str, Value]:
    """The energies at rest in the proposed cells that ``ok`` labels state, by crystal; those in the file are not computed again."""
    known = [Label.model_validate_json(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {label.crystal_id for label in known}
    with kept.open("a") as file:
        for label in engine.run(labeller, [(crystal, 0) for crystal in crystals if crystal.id not in done]):
            file.write(label.model_dump_json() + "\n")
            file.flush()
            known.append(label)
    wanted = {crystal.id for crystal in crystals}
    good = [label for label in known if label.crystal_id in wanted and label.status == "ok"]
    return {label.crystal_id: energy for label in good if (energy := label.proposal_properties.get(ENERGY)) is not None}


def lowest(attempts: list[dict[str, Value]]) -> dict[str, Value]:
    """The lowest look at each crystal that has one."""
    found: dict[str, Value] = {}
    for attempt in attempts:
        found |= {name: look for name, look in attempt.items() if name not in found or look.value < found[name].value}
    return found


def difference(guesses: dict[str, float], found: dict[str, Value], among: dict[str, Value]) -> float:
    """Mean difference, cut off at 1 eV/atom, about the crystals of ``among`` that have both."""
    return float(np.mean([min(1.0, abs(guesses[name] - found[name].value)) for name in among if name in guesses and name in found]))


def ratio(after: np.ndarray, before: np.ndarray, paired: bool) -> dict[str, float]:
    """Mean error after over mean error before, and its 90 % interval: 5,000 resamples of the crystals, the same ones where ``paired``."""
    draw = rng(0, 0, "generated benchmark, bootstrap")
    rows = [draw.integers(len(errors), size=(5000, len(errors))) for errors in (after, before)]
    ratios = after[rows[0]].mean(1) / before[rows[0] if paired else rows[1]].mean(1)
    low, high = np.quantile(ratios, (0.05, 0.95))
    return {"ratio": float(after.mean() / before.mean()), "low": float(low), "high": float(high)}


def repeats(crystals: list[Crystal], before: list[Crystal]) -> dict[str, float]:
    """Shares of crystals with the formula and group of something in ``before``, and with its chemical system."""
    pairs, systems = {(one.formula, one.space_group) for one in before}, {one.chemical_system for one in before}
    return {
        "formula and group seen": float(np.mean([(one.formula, one.space_group) in pairs for one in crystals])),
        "system seen": float(np.mean([one.chemical_system in systems for one in crystals])),
    }


def main(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    rounds: Annotated[list[int], typer.Option(help="rounds to measure")] = [0, 5],  # noqa: B006  (typer's way to state a default list)
    number: Annotated[int, typer.Option(help="crystals of each pool")] = 60,
    looks: Annotated[int, typer.Option(min=0, help="looks at each crystal in place of a label")] = 0,
    workers: Annotated[int, typer.Option(help="processes that label or look")] = 2,
    data: Annotated[Path | None, typer.Option(envvar="AL_CRYSTAL_DATA", help="development data, for the real crystals")] = None,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line a round, and the ratios of the last to the first."""
    import torch

    torch.set_num_threads(1)
    campaign = load(run / "campaign.yaml")
    record = load_potential(resolve(campaign.oracles.potential, campaign.oracles.models)).record
    screener = Screener(campaign.oracles, record, campaign.seed)
    labeller = Labeller(campaign.oracles, record, campaign.seed, after_looks=campaign.selection.screened > 0)
    engine = make_engine(campaign.engine.model_copy(update={"workers": workers}), run / "tasks")
    pretrained = campaign.surrogate.pretrained
    began = Ensemble.load(pretrained) if pretrained else Ensemble.pretrained()
    state = read(run / "history.jsonl")
    real = real_tables(data, shift) if data else []
    rows, off, off_first = [], [], []
    for at in rounds:
        crystals, attempts = sample(run, at, number), []
        for attempt in range(looks):
            seen = engine.run(screener, [(crystal, attempt) for crystal in crystals])
            attempts.append({label.crystal_id: look for label in seen if (look := label.proposal_properties.get(ENERGY)) is not None})
        found = lowest(attempts) if looks else labels(engine, labeller, crystals, run / f"generated-{at:03d}.jsonl")
        known = [crystal for crystal in crystals if crystal.id in found]
        batch = CrystalBatch.from_crystals(known)
        values = [found[crystal.id] for crystal in known]
        truth = np.array([value.value for value in values]), np.array([value.standard_deviation or 0.0 for value in values])
        ensemble = Ensemble.load(run / f"round-{at:03d}" / "surrogate")
        predicted, first = ensemble.predict(batch), began.predict(batch)
        off.append(predicted.median[:, 0].numpy() - truth[0])
        off_first.append(first.median[:, 0].numpy() - truth[0])
        own = errors(predicted, *truth) | {"bias": float(off[-1].mean())}
        own["standard error"] = float(np.abs(off[-1]).std(ddof=1) / np.sqrt(len(known)))
        guesses = dict(zip([crystal.id for crystal in known], predicted.median[:, 0].tolist(), strict=True))
        for depth in range(1, looks + 1):
            own[f"lowest of {depth}"] = difference(guesses, lowest(attempts[:depth]), attempts[0])
        if looks > 1:
            halves = [lowest(attempts[half::2]) for half in range(2)]
            own["two halves"] = difference({name: value.value for name, value in halves[0].items()}, halves[1], attempts[0])
        row = {"round": float(at), "n": float(len(known)), "without an energy": float(len(crystals) - len(known))} | own
        row |= {f"{name}, first ensemble": value for name, value in errors(first, *truth).items()}
        row |= repeats(crystals, state.measured(at))
        for column, name in enumerate(("energies", "gaps") if real else ()):
            row[f"real {name}"] = float(np.mean([error(ensemble, table, column) for table in real]))
        rows.append(row)
        typer.echo("  ".join(f"{name} {value:.3f}".replace(".000", "") for name, value in row.items()))
    ratios = {
        "own pool, last over first round": ratio(abs(off[-1]), abs(off[0]), paired=False),
        "same crystals, last round's surrogate over the first ensemble": ratio(abs(off[-1]), abs(off_first[-1]), paired=True),
    }
    for name, value in ratios.items():
        typer.echo(f"{name}: {value['ratio']:.2f} ({value['low']:.2f} to {value['high']:.2f})")
    medians = rows[-1]["median"] / rows[0]["median"], rows[-1]["median"] / rows[-1]["median, first ensemble"]
    typer.echo("the same of medians: {:.2f}, {:.2f}".format(*medians))
    if output:
        output.write_text(json.dumps({"rounds": rows, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
