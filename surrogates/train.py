"""Train the ensemble from nothing.

``python -m surrogates.train OUTPUT --data FOLDER --inventions FILE --wrong-cells FILE --shift MODULE:FUNCTION``

Folds 3-9 train, fold 2 calibrates, folds 0-1 are never touched. Every finished trunk is kept in ``OUTPUT/trunks``; a run that was
killed goes on with the next one, and several runs with other ``--only`` may fill the folder side by side. Inventions, from which the
ensemble learns how wrong it is about what nobody has made, come from ``python -m surrogates.inventions``, wrong cells from
``python -m surrogates.wrong_cells``; the shift brings energies of the Materials Project's older scale to the newer one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from al_crystal.seeds import torch_rng
from surrogates.calibration import Evidence, covered, fit, strain_error
from surrogates.distance import Distance
from surrogates.ensemble import Ensemble
from surrogates.features import Rows
from surrogates.inputs import Inputs
from surrogates.inventions import invention_table
from surrogates.known import scores_of_compounds
from surrogates.learning import TrainingSettings, train_network
from surrogates.network import Network, Output, mean_strain
from surrogates.scales import refitted
from surrogates.tables import (
    CALIBRATION_FOLDS,
    KEPT_APART,
    TRAIN_FOLDS,
    Deformations,
    Table,
    deformations,
    join,
    matbench_table,
    seed_table,
)
from surrogates.wrong_cells import load_function


def run(networks: tuple[Network, ...], rows: Rows, source: torch.Tensor, chunk: int = 1024) -> Output:
    """Member outputs ``(s, n)`` of several networks in float32."""
    parts = []
    with torch.no_grad():
        for where in torch.arange(len(rows)).split(chunk):
            inputs = Inputs.of(rows[where])
            outputs = [network(inputs, source[where]) for network in networks]
            parts.append(Output(*(torch.cat(values) for values in zip(*outputs, strict=True))))
    return Output(*(torch.cat(values, dim=1) for values in zip(*parts, strict=True)))


def trunks(
    folder: Path,
    numbers: Sequence[int],
    only: Sequence[int] | None,
    settings: TrainingSettings,
    table: Table,
    wrong: Deformations | None,
    say: Callable[[str], None],
) -> tuple[Network, ...]:
    """Train the networks that ``folder`` lacks (of ``only`` these numbers where it is given), and read all that are there."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    networks = []
    for number in numbers:
        file = folder / f"trunk_{number}.safetensors"
        if not file.exists() and (not only or number in only):
            start = time.process_time()
            made = train_network(table, wrong, settings, torch_rng(number, 0, "surrogate"), say)
            save_file(made.state_dict(), file)
            say(f"{file}: {time.process_time() - start:.0f} CPU s")
        if file.exists():
            network = Network(settings.network)
            network.load_state_dict(load_file(file))
            networks.append(network.eval())
    return tuple(networks)


def evidence(networks: tuple[Network, ...], table: Table, distance: Distance) -> Evidence:
    """What networks say of rows that they never learned, in the mode the sampler is served: source unknown, cell as it is."""
    output = run(networks, table.rows, torch.zeros(len(table), dtype=torch.int64))
    far = torch.cat([distance(Inputs.of(table.rows[where])) for where in torch.arange(len(table)).split(4096)])
    return Evidence(output, far, table.targets, table.noise)


def calibrated(
    networks: tuple[Network, ...], known: Table, inventions: Table, deformed: Deformations | None, distance: Distance
) -> Ensemble:
    """An ensemble whose spread is fitted on rows kept apart (:func:`surrogates.calibration.fit`), and how well that went in its report."""
    networks = refitted(networks, join([known, inventions]))
    seen, new = (evidence(networks, table, distance) for table in (known, inventions))
    calibration = fit(seen, new)
    if deformed is not None and len(deformed):
        cells = deformed.deformed()
        strain = mean_strain(run(networks, cells, torch.zeros(len(cells), dtype=torch.int64)).strain)
        calibration = calibration.model_copy(update={"strain": strain_error(strain, deformed.energies)})
    errors = {"energies of known compounds": seen.columns()[0], "energies of inventions": new.columns()[0]}
    shares = {name: {"rows": len(one.error), "inside": round(covered(calibration.energy, one), 4)} for name, one in errors.items()}
    return Ensemble(networks, calibration, distance, report={"calibration": shares})


def main(
    output: Annotated[Path, typer.Argument(help="folder for the ensemble")],
    data: Annotated[Path, typer.Option(envvar="AL_CRYSTAL_DATA", help="folder of the development data")],
    inventions: Annotated[Path, typer.Option(exists=True, help="output of surrogates.inventions")],
    wrong_cells: Annotated[Path | None, typer.Option(help="output of surrogates.wrong_cells; without it volumes mean nothing")] = None,
    shift: Annotated[
        str | None, typer.Option(help="MODULE:FUNCTION, composition -> eV/atom from the scale of 2018 to 2020; without it scales mix")
    ] = None,
    number: Annotated[int, typer.Option("--trunks", min=1, help="networks of the ensemble")] = 3,
    only: Annotated[list[int] | None, typer.Option(help="train these networks of the ensemble and stop")] = None,
    seed: Annotated[int, typer.Option(help="seed of the first network; the others follow")] = 0,
    epochs: Annotated[float, typer.Option(help="passes over the rows")] = TrainingSettings().epochs,
    threads: Annotated[int, typer.Option(min=1, help="threads; results are the same for the same number")] = 1,
) -> None:
    """Train, calibrate and save an ensemble."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # decayed weights become denormal numbers, on which processors crawl
    report: dict[str, int] = {}
    convert = load_function(shift) if shift else None
    table = join([seed_table(data, report, convert).without(KEPT_APART), matbench_table(data, report, convert)])
    deformed = deformations(wrong_cells, report) if wrong_cells else None
    train, wrong = table.of_folds(TRAIN_FOLDS), deformed.of_folds(TRAIN_FOLDS) if deformed else None
    invented = invention_table(inventions)
    report["rows to learn from"], report["inventions to calibrate with"] = len(train), len(invented)
    for line, count in report.items():
        typer.echo(f"{line}: {count:,}")
    settings, numbers = TrainingSettings(epochs=epochs), range(seed, seed + number)
    networks = trunks(output / "trunks", numbers, only, settings, train, wrong, typer.echo)
    if only:
        return
    facts = {"settings": settings.model_dump(), "rows": len(train), "seeds": [seed, seed + number - 1], "train_folds": list(TRAIN_FOLDS)}
    apart = table.of_folds(CALIBRATION_FOLDS), invented, deformed.of_folds(CALIBRATION_FOLDS) if deformed else None
    ensemble = calibrated(networks, *apart, Distance.fit(train.rows, seed))
    ensemble.report["pretraining"] = facts
    ensemble = replace(ensemble, known=scores_of_compounds(ensemble, apart[0]))
    ensemble.save(output)
    typer.echo(f"{ensemble.members} members in {output}; {ensemble.calibration}; {ensemble.report['calibration']}")


if __name__ == "__main__":
    typer.run(main)
