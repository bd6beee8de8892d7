"""Band gap (PBE) of the relaxed structure, read off the atom features of the potential that relaxed it, or by MEGNet.

The head is trained per potential on DFT band gaps (``python -m oracles.training.band_gap``) and ships in ``oracles/pretrained`` with
a model card. MEGNet (multi-fidelity, state 0 = PBE) needs its own weights; ``benchmarks/oracle_band_gap.py`` measures both, and the
head is the default because it is the better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from al_crystal.crystal import Value
from oracles.base import Context, Oracle, PropertyUnavailable

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from oracles.gap_network import GapEnsemble
    from oracles.potentials import Potential

PBE_GAP = "PBE band gap"
MEGNET_LEVEL = "MEGNet-MP-2019.4.1"
MEGNET_DEVIATION = 1.0  # eV: root mean square error on structures kept apart (benchmarks/oracle_band_gap.py)


@cache
def gap_head(potential: str) -> GapEnsemble:
    """The shipped head for a potential's level of theory.

    Raises:
        PropertyUnavailable: where none was trained, naming those that were.
    """
    folder = files("oracles") / "pretrained"
    file = Path(str(folder / f"band_gap_{potential}.safetensors"))
    if not file.is_file():
        known = sorted(
            item.name[len("band_gap_") : -len(".safetensors")] for item in folder.iterdir() if item.name.endswith(".safetensors")
        )
        raise PropertyUnavailable(
            f"no band-gap head for the potential {potential!r}; trained are {', '.join(known)}. "
            "Train one: python -m oracles.training.band_gap"
        )
    from oracles.gap_network import GapEnsemble

    return GapEnsemble.load(file)


class BandGap(Oracle):
    """PBE band gap in eV; 0 for a metal."""

    kind: Literal["band_gap"] = Field(default="band_gap", description="PBE band gap of the relaxed structure, eV")
    model: Literal["head", "megnet"] = Field(
        default="head",
        description="head: on the potential's atom features, shipped; megnet: MEGNet multi-fidelity, where its weights can be had",
    )

    provides: ClassVar[tuple[str, ...]] = ("band_gap",)

    def level_of_theory(self, potential: Potential) -> str:
        """``"<model> -> PBE band gap"``."""
        if self.model == "head":
            gap_head(potential.level_of_theory)  # there has to be one
        return f"{potential.level_of_theory if self.model == 'head' else MEGNET_LEVEL} -> {PBE_GAP}"

    def evaluate(self, structures: Sequence[Structure], context: Context) -> list[dict[str, Value]]:
        """See :meth:`Oracle.evaluate`; the atom features are the context's."""
        level = self.level_of_theory(context.potential)
        if self.model == "megnet":
            from oracles.megnet import load_megnet

            gaps = load_megnet(context.models_folder).band_gaps(structures)
            deviations = np.full(len(structures), MEGNET_DEVIATION)
        else:
            from oracles.gap_features import primitive_composition

            compositions = [primitive_composition(structure) for structure in structures]
            try:
                gaps, deviations = gap_head(context.potential.level_of_theory).predict(compositions, context.atom_features)
            except KeyError as error:
                raise PropertyUnavailable(
                    f"band gap of {', '.join(one.composition.formula for one in structures)}: {error.args[0]}"
                ) from error
        return [
            {"band_gap": Value(value=float(gap), level_of_theory=level, standard_deviation=float(deviation))}
            for gap, deviation in zip(gaps, deviations, strict=True)
        ]
