"""A first look at a crystal: what its cell costs about, for a quarter of the price of a label.

A few arrangements race in the proposed cell with the potential that labels, and the best comes to rest. Its energy lies
above the label's, by how much is learned from crystals that were labelled afterwards (:mod:`al_crystal.screening`); where the symmetry
leaves the atoms no room it lies electronvolts above what a surrogate believes, which never sees the atoms. It may also have missed the
room there is: a look that is doubted is repeated with other random numbers, as another attempt.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from al_crystal.crystal import Crystal, Label
from al_crystal.seeds import rng
from oracles.settings import OracleSettings

if TYPE_CHECKING:
    from oracles.positions import Draft
    from oracles.potentials import Potential, PotentialRecord
    from oracles.relaxation import Walk


def look(crystal: Crystal, potential: Potential, settings: OracleSettings, seed: int, attempt: int) -> list[tuple[Draft, Walk]]:
    """The runners of a look, lowest first; the same ones whenever they are asked for, so that the crystal's label can begin with them.

    Raises:
        NoPositions: when no draw passes the screens.
    """
    from oracles.search import race

    generator = rng(seed, attempt, "screening", int(crystal.id[:12], 16))
    return race(crystal, potential, settings.first_look(potential.record.name), settings.relaxation, generator)


LOOKS = 3
"""The most looks at one crystal: the first, and another as long as what was found is doubted."""


@dataclass(frozen=True)
class Screener:
    """Looks at one crystal at a time; engines run it as they run a :class:`oracles.labelling.Labeller`.

    Attributes:
        settings: all knobs of the oracles. record: which potential. seed: the campaign's seed.
    """

    settings: OracleSettings
    record: PotentialRecord
    seed: int

    def label(self, crystal: Crystal, attempt: int = 0) -> Label:
        """A label that states the formation energy reached in the proposed cell and nothing else; ``rejected`` where no atoms fit."""
        from oracles.base import Context, PropertyUnavailable
        from oracles.formation_energy import FormationEnergy
        from oracles.positions import NoPositions
        from oracles.potentials import UnknownElement, load
        from oracles.search import standing

        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn about their own deprecations
            potential = load(self.record)
            try:
                runners = look(crystal, potential, self.settings, self.seed, attempt)
                walk = runners[0][1]
                if not np.isfinite(standing(walk)):
                    return Label(crystal_id=crystal.id, status="rejected", reason=f"every arrangement is unphysical: {walk.reason}")
                structure = walk.cell.to_structure()
                context = Context(potential, [structure], np.array([walk.energy]), self.settings.models)
                properties = FormationEnergy().evaluate([structure], context)[0]
            except (NoPositions, UnknownElement, PropertyUnavailable) as refusal:
                return Label(crystal_id=crystal.id, status="rejected", reason=str(refusal))
        evaluations = sum(one.evaluations for _, one in runners)
        cost = {"cpu_s": round(time.process_time() - start, 3), "energy_evaluations": float(evaluations)}
        return Label(crystal_id=crystal.id, status="ok", reason="looked at", proposal_properties=properties, cost=cost)
