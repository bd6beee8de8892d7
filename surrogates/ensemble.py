"""The ensemble: what it predicts, how sure it is, and how it is kept on disk."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from al_crystal.crystal import ELEMENTS
from surrogates.calibration import Calibration, Consensus
from surrogates.compiled import Compiled
from surrogates.distance import Distance
from surrogates.features import Rows
from surrogates.inputs import Inputs
from surrogates.network import Network, NetworkSettings, Output
from surrogates.residual import Residual, Scores
from surrogates.tables import PROPERTIES, REFERENCE_LEVEL

if TYPE_CHECKING:
    from botorch.posteriors import GPyTorchPosterior

    from al_crystal.crystal import CrystalBatch, Prediction

PRETRAINED = Path(__file__).parent / "pretrained"
CHUNK = 512


@dataclass(frozen=True)
class Predictions:
    """What the ensemble says of ``n`` crystals, ``k`` properties, ``s`` members.

    Attributes:
        members: ``(s, n, k)`` eV/atom and eV, in the cells that the crystals state.
        median: ``(n, k)`` what the members say together, about as likely too high as too low: plain averages, of strain energies in
            logarithms (:func:`surrogates.network.mean_strain`), and a little caution (:class:`surrogates.calibration.Consensus`).
        mean: ``(n, k)`` of the belief: higher than the median where errors are lopsided (see :mod:`surrogates.calibration`).
        standard_deviation: ``(n, k)`` calibrated: 90 % of held-out labels lie within 1.645 of it from the mean.
        distance: ``(n,)`` from the training data (see :class:`surrogates.distance.Distance`).
        strain: ``(n,)`` eV/atom, the part of the formation energy that the cell costs.
    """

    members: torch.Tensor
    median: torch.Tensor
    mean: torch.Tensor
    standard_deviation: torch.Tensor
    distance: torch.Tensor
    strain: torch.Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def to_list(self) -> list[Prediction]:
        """One :class:`al_crystal.crystal.Prediction` a row."""
        from al_crystal.crystal import Prediction

        rows = zip(self.mean.tolist(), self.standard_deviation.tolist(), self.distance.tolist(), strict=True)
        return [
            Prediction(
                mean=dict(zip(PROPERTIES, mean, strict=True)),
                standard_deviation=dict(zip(PROPERTIES, deviation, strict=True)),
                distance=distance,
            )
            for mean, deviation, distance in rows
        ]


@dataclass(frozen=True)
class Ensemble:
    """Several trunks of several heads each; every head is a member.

    Attributes:
        networks: the trunks with their heads.
        calibration: from members and scales to a standard deviation.
        distance: from crystals to their distance from the training data.
        levels: levels of theory beyond the reference that corrections were learned for.
        report: losses and held-out errors of the last training.
        residual: where a campaign has found the networks wrong about proposed cells; None before it has measured any.
        known: how far off the networks are about known compounds, which a residual learns beside (:mod:`surrogates.known`).
    """

    networks: tuple[Network, ...]
    calibration: Calibration
    distance: Distance
    levels: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    residual: Residual | None = None
    known: Scores | None = None

    @property
    def properties(self) -> tuple[str, ...]:
        """Names of the outputs, in the order of the last axis."""
        return PROPERTIES

    @property
    def members(self) -> int:
        """How many members there are."""
        return sum(network.settings.heads for network in self.networks)

    @cached_property
    def _compiled(self) -> tuple[Compiled, ...]:
        return tuple(Compiled(network) for network in self.networks)

    def predict(self, batch: CrystalBatch, level_of_theory: str | None = None) -> Predictions:
        """Formation energy (eV/atom) and band gap (eV) of crystals in the cells they state, with calibrated uncertainty.

        The source is served as unknown: a crystal earns nothing by having a cell. ``level_of_theory`` adds the correction learned
        for labels of that level; without it the values are those of the development data (PBE).

        Raises:
            ValueError: for a level that no label taught, or an empty composition.
        """
        return self.predict_rows(Rows.from_batch(batch), level_of_theory)

    def predict_rows(self, rows: Rows, level_of_theory: str | None = None, source: torch.Tensor | None = None) -> Predictions:
        """As :meth:`predict`; ``source`` (n,) says where real crystals come from, ``level_of_theory`` as there."""
        level = self._level(level_of_theory)
        if not len(rows):
            none = torch.zeros(0, len(PROPERTIES))
            return Predictions(torch.zeros(self.members, *none.shape), none, none, none, torch.zeros(0), torch.zeros(0))
        parts = []
        source = torch.zeros(len(rows), dtype=torch.int64) if source is None else source
        with torch.inference_mode():
            for where in (slice(first, first + CHUNK) for first in range(0, len(rows), CHUNK)):
                inputs = Inputs.of(rows[where])
                outputs = [network(inputs, source[where], level) for network in self._compiled]
                parts.append(self._chunk(Output(*(torch.cat(values) for values in zip(*outputs, strict=True))), inputs))
        predicted = Predictions(
            members=torch.cat([part.members for part in parts], dim=1),
            median=torch.cat([part.median for part in parts]),
            mean=torch.cat([part.mean for part in parts]),
            standard_deviation=torch.cat([part.standard_deviation for part in parts]),
            distance=torch.cat([part.distance for part in parts]),
            strain=torch.cat([part.strain for part in parts]),
        )
        return predicted if self.residual is None else self.residual(rows, predicted)

    def _chunk(self, output: Output, inputs: Inputs) -> Predictions:
        members = torch.stack([output.energy + output.strain, output.gap.clamp(min=0)], dim=2)
        distance = self.distance(inputs)
        said = Consensus.of(output)
        deviation, lift = self.calibration(said, distance)
        return Predictions(members, said.guess, said.guess + lift, deviation, distance, said.strain)

    def _level(self, level_of_theory: str | None) -> int:
        if level_of_theory is None or level_of_theory == REFERENCE_LEVEL:
            return 0
        if level_of_theory not in self.levels:
            known = ", ".join((REFERENCE_LEVEL, *self.levels))
            raise ValueError(f"level of theory {level_of_theory!r} never trained this ensemble; it knows {known}")
        return 1 + self.levels.index(level_of_theory)

    def unknown_elements(self, batch: CrystalBatch) -> tuple[str, ...]:
        """Symbols of the elements in the batch that were never seen in training."""
        present = [number for number, occurs in zip(batch.elements, (batch.counts > 0).any(0).tolist(), strict=True) if occurs]
        seen = self.distance.seen.tolist()
        return tuple(ELEMENTS[number - 1] for number in present if number >= len(seen) or not seen[number])

    def posterior(self, batch: CrystalBatch, level_of_theory: str | None = None) -> GPyTorchPosterior:
        """BoTorch posterior ``(n, 1, k)`` of each crystal by itself: Gaussian with the calibrated spread, properties independent."""
        from surrogates.posterior import gaussian_posterior

        return gaussian_posterior(self.predict(batch, level_of_theory))

    def save(self, folder: str | Path) -> None:
        """Write ``weights.safetensors`` (half precision), ``ensemble.json`` and known compounds into a folder, made where absent."""
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        tensors = {f"distance.{item.name}": getattr(self.distance, item.name).contiguous() for item in fields(self.distance)}
        for index, network in enumerate(self.networks):
            tensors |= {f"{index}.{name}": value.detach().half().contiguous() for name, value in network.state_dict().items()}
        if self.residual is not None:
            tensors |= {f"residual.{name}": value for name, value in self.residual.tensors().items()}
        save_file(tensors, path / "weights.safetensors")
        if self.known is not None:
            self.known.save(path)
        facts = {
            "properties": list(PROPERTIES),
            "networks": [network.settings.model_dump() for network in self.networks],
            "levels": list(self.levels),
            "calibration": self.calibration.model_dump(),
            "report": self.report,
        }
        (path / "ensemble.json").write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Ensemble:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: where a file is missing.
            ValueError: where the weights do not fit the settings beside them.
        """
        from safetensors.torch import load_file

        path = Path(folder)
        for name in ("ensemble.json", "weights.safetensors"):
            if not (path / name).exists():
                raise FileNotFoundError(f"no surrogate in {path}: {name} is missing; make one with python -m surrogates.train")
        facts = json.loads((path / "ensemble.json").read_text())
        tensors = load_file(path / "weights.safetensors")
        networks = []
        for index, settings in enumerate(facts["networks"]):
            network = Network(NetworkSettings(**settings), levels=len(facts["levels"]))
            weights = {name.split(".", 1)[1]: value.float() for name, value in tensors.items() if name.startswith(f"{index}.")}
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"{path}/weights.safetensors does not fit ensemble.json: {error}") from error
            networks.append(network.eval())
        distance = Distance(**{item.name: tensors[f"distance.{item.name}"] for item in fields(Distance)})
        calibration = Calibration(**facts["calibration"])
        learned = {name.removeprefix("residual."): value for name, value in tensors.items() if name.startswith("residual.")}
        residual = Residual.of(learned) if learned else None
        return cls(tuple(networks), calibration, distance, tuple(facts["levels"]), facts["report"], residual, Scores.load(path))

    @classmethod
    def pretrained(cls) -> Ensemble:
        """The ensemble shipped with the package (model card: ``surrogates/pretrained/MODEL_CARD.md``)."""
        return cls.load(PRETRAINED)

    def with_levels(self, levels: tuple[str, ...]) -> Ensemble:
        """A deep copy whose networks have a (zero) correction for each further level of theory."""
        together = (*self.levels, *(level for level in levels if level not in self.levels and level != REFERENCE_LEVEL))
        networks = []
        for network in self.networks:
            copied = copy.deepcopy(network)
            copied.add_levels(len(together) - len(self.levels))
            networks.append(copied)
        return replace(self, networks=tuple(networks), levels=together)
