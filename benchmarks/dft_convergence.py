"""GPAW at the documented settings: gaps against published PBE values, total energies against a finer setting.

.venv-dft/bin/python benchmarks/dft_convergence.py [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from oracles.dft.labelling import DftLabeller, Promoted
from oracles.dft.settings import GpawSettings
from tests.oracles.dft.test_gpaw import CRYSTALS, structure

FINER = {"cutoff": 900.0, "kpoint_density": 5.0}


def main() -> None:
    """Print one row a crystal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    print("crystal    gap (eV)  published  energy above finer (meV/atom)  CPU (s)  finer (s)")
    for name, (*_, published) in CRYSTALS.items():
        energies, gaps, seconds = [], [], []
        for settings in (GpawSettings(), GpawSettings.model_validate(FINER)):
            start = time.process_time()
            label = DftLabeller(settings=settings, geometry="PBE lattice constants").label(Promoted(id=name, structure=structure(name)))
            seconds.append(time.process_time() - start)
            energies.append(label.properties["energy_per_atom"].value)
            gaps.append(label.properties["band_gap"].value)
        difference = (energies[0] - energies[1]) * 1000
        rows.append({"crystal": name, "gap": gaps[0], "published": published, "energy_difference_mev": difference, "cpu_s": seconds})
        print(f"{name:8} {gaps[0]:10.3f} {published:10.2f} {difference:30.1f} {seconds[0]:8.1f} {seconds[1]:10.1f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
