"""The shift between the Materials Project's scales for ``python -m surrogates.train --shift benchmarks.surrogate_scale:shift``.

Run it from the repository's root.
"""

from __future__ import annotations

from collections.abc import Mapping

from oracles.materials_project import MP2018, MP2020, convert


def shift(composition: Mapping[str, float]) -> float:
    """What is added to a formation energy of 2018 to state it on the scale of 2020, eV/atom."""
    return convert(composition, 0.0, MP2018, MP2020)
