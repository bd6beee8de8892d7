"""The network that reads a band gap off a potential's atom features and the composition, and how it is kept on disk.

Every atom's features go through a small network; the crystal sees their mean and a few gated means beside
what :mod:`oracles.gap_features` says of the composition. Residual layers end in
two numbers: the gap (negative for a metal) and the logarithm of its error's size. Several such networks, each trained without one
fold, make an ensemble; the size of the error is calibrated on the folds left out. Weights are half-precision safetensors with
everything else (normalisation, element properties, calibration) beside them in the same file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oracles.gap_features import ElementTable

CLIP = 8.0  # standard deviations: nothing the network reads is further from the mean of its training data


@dataclass(frozen=True)
class GapArchitecture:
    """Sizes of the network."""

    composition_width: int
    atom_width: int = 64
    atom_hidden: int = 128
    gates: int = 3
    hidden: int = 208
    blocks: int = 2
    dropout: float = 0.1


class GapNetwork(nn.Module):
    """One member: composition ``(n, composition_width)`` and the atoms of the first crystals -> ``(n, 2)`` gap and log error size."""

    def __init__(self, architecture: GapArchitecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        for name, width in (("composition", a.composition_width), ("atoms", a.atom_width)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_scale", torch.ones(width))
        self.from_composition = nn.Linear(a.composition_width, a.hidden)
        self.atom_layers = nn.Sequential(
            nn.Linear(a.atom_width, a.atom_hidden), nn.SiLU(), nn.Linear(a.atom_hidden, a.atom_hidden), nn.SiLU()
        )
        self.gate = nn.Linear(a.atom_hidden, a.gates)
        self.from_atoms = nn.Linear(a.atom_hidden * (a.gates + 1), a.hidden)
        self.norm = nn.LayerNorm(a.hidden)
        self.residual = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(a.hidden),
                nn.Linear(a.hidden, a.hidden),
                nn.SiLU(),
                nn.Dropout(a.dropout),
                nn.Linear(a.hidden, a.hidden),
            )
            for _ in range(a.blocks)
        )
        self.out = nn.Sequential(nn.LayerNorm(a.hidden), nn.SiLU(), nn.Linear(a.hidden, 2))

    def forward(self, composition: torch.Tensor, atoms: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """The gap (eV; negative means metal) and the logarithm of its error's size, ``(n, 2)``.

        Args:
            composition: ``(n, composition_width)``.
            atoms: ``(sum of sizes, atom_width)`` features of the atoms of the first ``len(sizes)`` crystals.
            sizes: ``(m,)`` with m <= n; the crystals beyond m are known by composition alone (they occur in training only).
        """
        hidden = self.from_composition(self._normalised(composition, "composition"))
        if len(sizes):
            hidden = torch.cat([hidden[: len(sizes)] + self._pooled(atoms, sizes), hidden[len(sizes) :]])
        hidden = nn.functional.silu(self.norm(hidden))
        for block in self.residual:
            hidden = hidden + block(hidden)
        return self.out(hidden)

    def _pooled(self, atoms: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Mean and gated means of the transformed atoms of each crystal."""
        owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        hidden = self.atom_layers(self._normalised(atoms, "atoms"))
        weights = torch.cat([torch.ones(len(atoms), 1), torch.exp(self.gate(hidden).clamp(-10, 10))], dim=1)
        weights = weights / torch.zeros(len(sizes), weights.shape[1]).index_add(0, owner, weights)[owner]
        weighted = (hidden[:, None, :] * weights[:, :, None]).flatten(1)
        return self.from_atoms(torch.zeros(len(sizes), weighted.shape[1]).index_add(0, owner, weighted))

    def _normalised(self, values: torch.Tensor, name: str) -> torch.Tensor:
        return ((values - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_scale")).clamp(-CLIP, CLIP)

    def set_normalisation(self, name: str, values: torch.Tensor, smallest_scale: float = 1e-3) -> None:
        """Take mean and spread of ``"composition"`` or ``"atoms"`` from training data ``(rows, width)``."""
        getattr(self, f"{name}_mean").copy_(values.mean(0))
        getattr(self, f"{name}_scale").copy_(values.std(0).clamp_min(smallest_scale))


@dataclass(frozen=True)
class GapEnsemble:
    """The trained members with what they need to read a crystal.

    Attributes:
        members: the networks.
        table: facts about the elements.
        spread_factor: standard deviation of the error over the predicted size.
        card: where the weights come from: data, split, errors, date, command.
    """

    members: Sequence[GapNetwork]
    table: ElementTable
    spread_factor: float
    card: Mapping[str, Any]

    def predict(self, compositions: Sequence[Mapping[str, float]], atom_features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and their standard deviations, eV, ``(n,)`` each, from primitive compositions and ``(atoms, width)`` features.

        Raises:
            KeyError: for an element that the head does not know.
        """
        return self.combine(self.raw(compositions, atom_features))

    def combine(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and standard deviations (eV) of ``(members, n, 2)`` outputs: the mean, and calibrated size with the members' spread."""
        gaps = np.maximum(raw[..., 0], 0.0)
        size = self.spread_factor * np.exp(raw[..., 1]).mean(0)
        return np.maximum(raw[..., 0].mean(0), 0.0), np.sqrt(size**2 + gaps.var(0))

    @torch.no_grad()
    def raw(self, compositions: Sequence[Mapping[str, float]], atom_features: Sequence[np.ndarray]) -> np.ndarray:
        """``(members, n, 2)`` outputs of the networks."""
        composition = torch.tensor(np.array([self.table.features(one) for one in compositions]), dtype=torch.float32)
        atoms = torch.tensor(np.concatenate(list(atom_features)), dtype=torch.float32)
        sizes = torch.tensor([len(features) for features in atom_features])
        return np.stack([member.eval()(composition, atoms, sizes).numpy() for member in self.members]).astype(float)

    def save(self, file: Path) -> None:
        """Write weights and card as one safetensors file, in half precision (normalisation in single precision)."""
        from safetensors.torch import save_file

        tensors = {"properties": torch.tensor(self.table.properties, dtype=torch.float32)}
        for index, member in enumerate(self.members):
            for name, tensor in member.state_dict().items():
                normalisation = name.endswith(("_mean", "_scale"))
                tensors[f"{index}.{name}"] = tensor.detach().clone() if normalisation else tensor.detach().half()
        about = {"architecture": asdict(self.members[0].architecture), "spread_factor": self.spread_factor, "card": dict(self.card)}
        about["oxidation_states"] = dict(self.table.oxidation_states)
        save_file(tensors, file, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, file: Path) -> GapEnsemble:
        """Read what :meth:`save` wrote."""
        from safetensors import safe_open

        with safe_open(file, framework="pt") as stored:
            about = json.loads(stored.metadata()["about"])
            tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118  (not a dict)
        architecture = GapArchitecture(**about["architecture"])
        members = []
        for index in range(1 + max(int(name.split(".")[0]) for name in tensors if name != "properties")):
            member = GapNetwork(architecture)
            member.load_state_dict({name.split(".", 1)[1]: tensor for name, tensor in tensors.items() if name.startswith(f"{index}.")})
            members.append(member.eval())
        states = {element: tuple(values) for element, values in about["oxidation_states"].items()}
        table = ElementTable(tensors["properties"].numpy().astype(float), states)
        return cls(members, table, about["spread_factor"], about["card"])
