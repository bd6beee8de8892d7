"""MEGNet's multi-fidelity band gap (Chen et al., Nat. Comput. Sci. 1, 46 (2021)), with the aggregation its weights were trained with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oracles.aggregation import set_aggregation
from oracles.self_test import reference_structure
from oracles.weights import find_weights

if TYPE_CHECKING:
    from pymatgen.core import Structure

NAME = "MEGNet-MP-2019.4.1-BandGap-mfi"
PBE_STATE = 0
GOLDEN = {"CsCl": 4.825, "NaCl": 5.031}  # eV: PBE state, messages summed into the destination atom
TOLERANCE = 0.02


class MegnetRefused(RuntimeError):
    """The weights do not give the gaps that are on record for them."""


class Megnet:
    """The loaded model."""

    def __init__(self, folder: Path) -> None:
        """Load the weights from a folder of matgl's layout."""
        import matgl
        import torch
        from matgl.data.transformer import Normalizer
        from matgl.ext.pymatgen import Structure2Graph

        torch.serialization.add_safe_globals([Normalizer])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "incompatible model version": the self-test judges, not the number
            self.model: Any = matgl.load_model(str(folder)).eval()
        set_aggregation(self.model, "destination")
        self.converter = Structure2Graph(self.model.model.element_types, self.model.model.cutoff)

    def band_gaps(self, structures: Sequence[Structure]) -> np.ndarray:
        """``(n,)`` PBE gaps in eV, not below 0."""
        import torch

        with torch.no_grad():
            gaps = [
                float(self.model.predict_structure(structure, state_attr=torch.tensor([PBE_STATE]), graph_converter=self.converter))
                for structure in structures
            ]
        return np.maximum(np.array(gaps), 0.0)


@cache
def load_megnet(folder: Path | None = None) -> Megnet:
    """Find, load and test the model.

    Raises:
        WeightsNotFound: naming the places that were searched.
        MegnetRefused: when the reference gaps come out wrong.
    """
    weights = find_weights(NAME, folder)
    megnet = Megnet(weights.folder)
    found = dict(zip(GOLDEN, megnet.band_gaps([reference_structure(name) for name in GOLDEN]).tolist(), strict=True))
    if any(abs(found[name] - gap) > TOLERANCE for name, gap in GOLDEN.items()):
        raise MegnetRefused(f"{NAME} from {weights.folder} gives gaps of {found} eV where {GOLDEN} are on record; it may not label")
    return megnet
