"""What a campaign's surrogate learned: its error on what the sampler generated for it, round by round, and on real crystals kept apart.

Usage: python -m benchmarks.surrogate_campaign runs/NAME [--data FOLDER --shift MODULE:FUNCTION] [--output FILE.json]

The crystals of a round are those that the sampler, trained on the surrogate of that round, generated and the acquisition picked; their
predictions were written to the history before they were labelled. Printed for each round: errors in the proposed cell (the label of
the proposal, atoms at rest in it) of the belief a crystal was picked on, of the surrogate of that round alone (another number only
where crystals are screened) and of the ensemble that the campaign began with; against the energy after relaxation, of the gap; how
much the relaxation changed the volume; with ``--data`` the error of the same surrogate on 4,000 real crystals of folds 0-1. Then, of
**everything that was looked at** in the round, which the surrogate alone had chosen (three times as many crystals, and none left out
because of its look): the error of the surrogate's best guess (its median) against the look, and that of the first ensemble. At the end
each of these over that of the first round, and over that of the first ensemble on the same crystals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from al_crystal.config import load
from al_crystal.crystal import CrystalBatch, crystals_from_frame
from al_crystal.experience import experience
from al_crystal.history import read
from al_crystal.screening import taught
from al_crystal.seeds import rng
from benchmarks.surrogate_rounds import error, real_tables
from surrogates.ensemble import Ensemble
from surrogates.residual import MOST
from surrogates.training import fine_tune
from surrogates.wrong_cells import load_function

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.crystal import Label
    from al_crystal.history import RoundState

ENERGY, GAP = "formation_energy_per_atom", "band_gap"


def measured(picks: pd.DataFrame, labels: dict[str, Label], first: Ensemble) -> dict[str, float]:
    """Errors of the predictions made before labelling, on the ``ok`` labels of one round that state an energy in the proposed cell."""
    picks = picks[picks[f"proposal_{ENERGY}"].notna()]
    noise = [labels[crystal].proposal_properties[ENERGY].standard_deviation or 0.0 for crystal in picks["id"]]
    alone = picks[f"surrogate_{ENERGY}"] if f"surrogate_{ENERGY}" in picks else picks[f"predicted_{ENERGY}"]
    alone = alone.fillna(picks[f"predicted_{ENERGY}"]) - picks[f"proposal_{ENERGY}"]
    began = first.predict(CrystalBatch.from_crystals(crystals_from_frame(picks))).mean[:, 0].numpy() - picks[f"proposal_{ENERGY}"]
    cell = picks[f"predicted_{ENERGY}"] - picks[f"proposal_{ENERGY}"]
    relaxed = picks[f"predicted_{ENERGY}"] - picks[f"labelled_{ENERGY}"]
    gap = picks[f"predicted_{GAP}"] - picks[f"labelled_{GAP}"]
    inside = cell.abs() <= 1.6449 * np.hypot(picks[f"predicted_{ENERGY}_std"], noise)
    looks = picks[f"screened_{ENERGY}"] - picks[f"proposal_{ENERGY}"] if f"screened_{ENERGY}" in picks else None
    above = {} if looks is None else {"look above the label": float(looks.mean()), "median of that": float(looks.median())}
    return above | {
        "n": len(picks),
        "energy in the proposed cell": float(cell.abs().mean()),
        "standard error": float(cell.abs().std(ddof=1) / np.sqrt(len(picks))),
        "median": float(cell.abs().median()),
        "bias": float(cell.mean()),
        "within 90 %": float(inside.mean()),
        "energy, surrogate alone": float(alone.abs().mean()),
        "energy, first ensemble": float(began.abs().mean()),
        "energy, relaxed": float(relaxed.abs().mean()),
        "gap": float(gap.abs().mean()),
        "log of the volume ratio": float(np.log(picks["relaxed_volume_per_atom"] / picks["volume_per_atom"]).mean()),
    }


def looked_at(entry: RoundState, ensemble: Ensemble, first: Ensemble) -> dict[str, float]:
    """Errors of best guesses about all crystals of a round that have a look, picked or passed over."""
    pairs = [(look.crystal, look.screening) for look in entry.looks]
    batch = CrystalBatch.from_crystals([crystal for crystal, _ in pairs])
    looks = np.array([screening.formation_energy_per_atom.value for _, screening in pairs])
    predicted = ensemble.predict(batch)
    error = predicted.median[:, 0].numpy() - looks
    began = first.predict(batch).median[:, 0].numpy() - looks
    noise = [screening.formation_energy_per_atom.standard_deviation or 0.0 for _, screening in pairs]
    inside = np.abs(predicted.mean[:, 0].numpy() - looks) <= 1.6449 * np.hypot(predicted.standard_deviation[:, 0].numpy(), noise)
    return {
        "looked at": len(pairs),
        "looked at: error": float(np.abs(error).mean()),
        "looked at: standard error": float(np.abs(error).std(ddof=1) / np.sqrt(len(pairs))),
        "looked at: median": float(np.median(np.abs(error))),
        "looked at: cut off at 1": float(np.abs(error).clip(max=1).mean()),
        "looked at: bias": float(error.mean()),
        "looked at: off by more than 1": float((np.abs(error) > 1).mean()),
        "looked at: within 90 %": float(inside.mean()),
        "looked at: error, first ensemble": float(np.abs(began).mean()),
        "looked at: cut off at 1, first ensemble": float(np.abs(began).clip(max=1).mean()),
        "looked at: median, first ensemble": float(np.median(np.abs(began))),
    }


def trained_again(run: Path, number: int) -> Ensemble:
    """The surrogate of a round, trained on what the history holds before it as the campaign would train it now."""
    campaign = load(run / "campaign.yaml")
    settings = campaign.surrogate
    first = Ensemble.load(settings.pretrained) if settings.pretrained else Ensemble.pretrained()
    state = read(run / "history.jsonl")
    potential = str(state.start.facts["potential"]["level_of_theory"]) if state.start else ""
    earlier = experience(potential, settings.experience) if campaign.selection.screened else []
    own, beside = taught(state, number, earlier, MOST)
    seed = int(rng(campaign.seed, number, "surrogate").integers(2**31))
    return fine_tune(first, [*own, *beside], settings, seed) if own or beside else first


def main(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    data: Annotated[Path | None, typer.Option(envvar="AL_CRYSTAL_DATA", help="development data, for the real crystals")] = None,
    shift: Annotated[str | None, typer.Option(help="MODULE:FUNCTION, as in surrogates.train")] = "benchmarks.surrogate_scale:shift",
    again: Annotated[bool, typer.Option("--again", help="train the rounds' surrogates anew, with the present code")] = False,
    only: Annotated[list[int] | None, typer.Option(help="rounds to measure; default: all")] = None,
    output: Annotated[Path | None, typer.Option(help="write the numbers as JSON")] = None,
) -> None:
    """Print one line a round, and the ratios of the last to the first."""
    import torch

    torch.set_num_threads(1)
    state = read(run / "history.jsonl")
    frame = state.to_frame()
    labels_cpu = frame["cost_cpu_s"].mean()
    frame = frame[(frame["arm"] == "gfn") & (frame["status"] == "ok")]
    pretrained = load(run / "campaign.yaml").surrogate.pretrained
    began = Ensemble.load(pretrained) if pretrained else Ensemble.pretrained()
    real = real_tables(data, load_function(shift) if shift else None) if data else []
    rows = []
    for number, picks in frame.groupby("round"):
        if only and int(number) not in only:
            continue
        row = {"round": float(number)} | measured(picks, state.rounds[int(number)].labels, began)
        diagnostics = state.rounds[int(number)].diagnostics
        ensemble = trained_again(run, int(number)) if again else Ensemble.load(run / f"round-{number:03d}" / "surrogate")
        if "screened" in diagnostics:
            row |= looked_at(state.rounds[int(number)], ensemble, began)
            row |= {"CPU s a look": diagnostics["screening_cpu_s"] / diagnostics["screened"], "CPU s a label": float(labels_cpu)}
        if real:
            row |= {
                f"real {name}": float(np.mean([error(ensemble, table, column) for table in real]))
                for column, name in enumerate((ENERGY, GAP))
            }
        rows.append(row)
        typer.echo("  ".join(f"{key} {value:.3f}".replace(".000", "") for key, value in row.items()))
    first, last = rows[0], rows[-1]
    counted = [name for name in first if name.startswith(("energy", "gap", "median", "real", "looked")) and first[name]]
    ratios = {name: last[name] / first[name] for name in counted}
    typer.echo("last round over first: " + "  ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    same = last["energy in the proposed cell"] / last["energy, first ensemble"]
    typer.echo(f"belief over first ensemble, on the crystals of the last round: {same:.2f}")
    if "looked at: error" in last:
        kinds = ("error", "cut off at 1", "median")
        over = "  ".join(f"{kind} {last[f'looked at: {kind}'] / last[f'looked at: {kind}, first ensemble']:.2f}" for kind in kinds)
        typer.echo(f"surrogate alone over first ensemble, on what was looked at in the last round: {over}")
    if output:
        output.write_text(
            json.dumps({"rounds": rows, "last over first": ratios, "over first ensemble, same crystals": same}, indent=1) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
