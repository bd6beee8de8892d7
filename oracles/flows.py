"""An oracle call as a jobflow job, for those who compose workflows: the same labeller, wrapped.

``LabelMaker().make(crystal)`` is a job whose output is the label as plain JSON; ``run_locally`` or any jobflow manager runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Flow, Job, Maker, job

from al_crystal.crystal import Crystal


@dataclass
class LabelMaker(Maker):
    """Makes jobs that label a crystal.

    Attributes:
        name: prefix of the jobs' names.
        settings: the YAML section ``oracles`` as a dictionary (see :class:`oracles.settings.OracleSettings`).
        seed: the campaign's seed.
    """

    name: str = "label"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @job
    def make(self, crystal: dict[str, Any], attempt: int = 0) -> dict[str, Any]:
        """Label one crystal, given as ``Crystal.model_dump()``; the output is ``Label.model_dump(mode="json")``."""
        from oracles.labelling import Labeller
        from oracles.potentials import load, resolve
        from oracles.settings import OracleSettings

        settings = OracleSettings.model_validate(self.settings)
        record = load(resolve(settings.potential, settings.models)).record
        label = Labeller(settings, record, self.seed).label(Crystal.model_validate(crystal), attempt)
        return label.model_dump(mode="json")


def label_flow(crystals: list[Crystal], maker: LabelMaker | None = None) -> Flow:
    """One independent job per crystal; the flow's output is the list of labels."""
    maker = maker or LabelMaker()
    jobs: list[Flow | Job] = []
    for crystal in crystals:
        one = maker.make(crystal.model_dump(mode="json"))
        one.name = f"{maker.name} {crystal.formula} {crystal.id}"
        jobs.append(one)
    return Flow(jobs, output=[one.output for one in jobs], name=f"{maker.name} {len(jobs)} crystals")


@job
def label_task(task: str) -> dict[str, Any]:
    """A task of an engine as a job (see :mod:`oracles.tasks`): any labeller, any item; the output is ``Label.model_dump(mode="json")``."""
    from oracles.tasks import decode

    labeller, item, attempt = decode(task)
    return labeller.label(item, attempt).model_dump(mode="json")
