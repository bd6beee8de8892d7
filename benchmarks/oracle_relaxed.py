"""What the property oracles say of structures that the *potential* relaxed, as in a campaign, not of those that DFT relaxed.

``python benchmarks/oracle_relaxed.py --sample 150`` relaxes a random sample of the held-out structures from their DFT geometry and
prints the error of formation energy and band gap against DFT before and after; writes ``oracle_relaxed.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from al_crystal.seeds import rng
from oracles.band_gap import BandGap
from oracles.base import Context, Oracle
from oracles.formation_energy import FormationEnergy
from oracles.materials_project import MP2020, convert
from oracles.potentials import load, resolve
from oracles.relaxation import relax
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell
from oracles.training.structures import labelled_crystals, structure_rows, to_structure


def main(
    data: Annotated[Path, typer.Option(help="development data", envvar="AL_CRYSTAL_DATA")],
    potential: Annotated[str, typer.Option(help="M3GNet or CHGNet")] = "M3GNet",
    sample: Annotated[int, typer.Option(help="structures to relax")] = 150,
    largest: Annotated[int, typer.Option(help="atoms in the largest of them")] = 24,
    output: Annotated[Path, typer.Option(help="where the numbers go")] = Path("oracle_relaxed.json"),
) -> None:
    """Measure the property oracles on structures relaxed by the potential."""
    import torch

    torch.set_num_threads(1)
    labels = labelled_crystals(data).dropna(subset=["band_gap", "formation_energy_per_atom"])
    labels = labels[labels["held_out"]].drop_duplicates("id").set_index("id")
    rows = [row for row in structure_rows(data) if f"{row['src']}|{row['id']}" in labels.index and len(row["sp"]) <= largest]
    rows = [rows[index] for index in rng(0, 0, "relaxed sample").permutation(len(rows))[:sample]]
    labels = labels.loc[[f"{row['src']}|{row['id']}" for row in rows]]
    structures = [to_structure(row) for row in rows]
    loaded = load(resolve(potential))

    ends = sorted(relax([SymmetricCell.from_structure(one) for one in structures], loaded, RelaxationSettings()), key=lambda end: end.index)
    converged = np.array([end.outcome == "converged" for end in ends])
    truth = {
        "formation_energy_per_atom": np.array(
            [
                convert(composition, float(energy), scale, MP2020)
                for composition, energy, scale in zip(
                    labels["composition"], labels["formation_energy_per_atom"], labels["scale"], strict=True
                )
            ]
        ),
        "band_gap": labels["band_gap"].to_numpy(float),
    }
    geometries = {"as DFT relaxed it": structures, "as the potential relaxed it": [end.cell.to_structure() for end in ends]}
    wbm = np.array([row["src"] == "wbm_val10k" for row in rows])
    results: dict[str, dict[str, float]] = {}
    oracles: tuple[Oracle, ...] = (FormationEnergy(), BandGap())
    typer.echo(f"{loaded.level_of_theory}: {converged.sum()} of {len(structures)} converged, {wbm.sum()} of WBM; eV/atom and eV")
    for name, atoms in geometries.items():
        context = Context(potential=loaded, structures=atoms, energies=loaded.evaluate(atoms).energies)
        values = [oracle.evaluate(atoms, context) for oracle in oracles]
        for oracle, rows_of_values in zip(oracles, values, strict=True):
            what = oracle.provides[0]
            residual = np.array([row[what].value for row in rows_of_values]) - truth[what]
            subsets = {"all": converged, "WBM": converged & wbm, "non-metals": converged & (truth["band_gap"] > 0)}
            row = {
                f"{subset} {kind}": round(float(measure(residual[mask])), 4) for subset, mask in subsets.items() for kind, measure in KINDS
            }
            results[f"{what}, {name}"] = row
            typer.echo(f"{what + ', ' + name:58}" + "  ".join(f"{key} {value:+.4f}" for key, value in row.items()))
    output.write_text(json.dumps({"converged": int(converged.sum()), "structures": len(structures), "results": results}, indent=1))


KINDS = (("MAE", lambda residual: np.abs(residual).mean()), ("median", lambda residual: np.median(np.abs(residual))), ("bias", np.mean))

if __name__ == "__main__":
    typer.run(main)
