"""Labellers that misbehave on purpose: what engines are tested with, in the worker processes of a real queue."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from al_crystal.crystal import Crystal, Label, Value


class Misbehaving(BaseModel):
    """Labels a crystal with its volume, after doing what ``behaviour`` says for its id (nothing by default)."""

    model_config = ConfigDict(frozen=True)

    behaviour: dict[str, str] = {}
    seconds: float = 0.0
    journal: Path | None = None

    def label(self, crystal: Crystal, attempt: int = 0) -> Label:
        """Write a line into the journal (to count runs), misbehave, label."""
        if self.journal is not None:
            with open(self.journal, "a") as file:
                file.write(f"{crystal.id} {attempt}\n")
        time.sleep(self.seconds)
        match self.behaviour.get(crystal.id):
            case "raise":
                raise ValueError("an oracle that raises")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                time.sleep(3600)
        value = Value(value=crystal.volume, level_of_theory="geometry")
        return Label(crystal_id=crystal.id, status="ok", reason="labelled", properties={"volume": value}, provenance={"attempt": attempt})


def crystals(count: int) -> list[Crystal]:
    """Rock-salt crystals that differ in their lattice constant."""
    return [
        Crystal(space_group=225, composition={"Mg": 4, "O": 4}, lattice_parameters=(4.0 + 0.001 * i,) * 3 + (90.0,) * 3)
        for i in range(count)
    ]
