"""Labellers that go wrong in the ways that labellers do; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from al_crystal.crystal import Crystal, Label


@dataclass(frozen=True)
class Faulty:
    """Goes wrong with the crystals whose number of atoms is in ``faults``; the others are labelled at once."""

    faults: dict[int, str]

    def label(self, crystal: Crystal, attempt: int = 0) -> Label:
        fault = self.faults.get(crystal.number_of_atoms, "none")
        if fault == "hang":
            time.sleep(3600)
        elif fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "exit":
            os._exit(3)
        elif fault == "exception":
            raise RuntimeError("an oracle that raises\nwith a second line")
        elif fault == "memory":
            return Label(crystal_id=crystal.id, status="ok", reason=str(len(bytearray(40 * 10**9))))
        elif fault == "once" and attempt == 0:
            raise RuntimeError("only the first time")
        return Label(crystal_id=crystal.id, status="ok", reason="relaxed")


def crystal(atoms: int) -> Crystal:
    """A crystal that is told apart by its number of atoms."""
    return Crystal(space_group=1, composition={"Li": atoms}, lattice_parameters=(5, 5, 5, 90, 90, 90))
