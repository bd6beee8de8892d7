"""The paper's rewards as functions of a batch of crystals."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from al_crystal.crystal import CrystalBatch
    from gfn.config import RewardSettings

Property = Callable[["CrystalBatch"], torch.Tensor]
GRAMS_PER_CUBIC_CENTIMETRE = 1.66053906660
"""One atomic mass unit per Å3, in g/cm3."""


def log_reward(settings: RewardSettings) -> Property:
    """The logarithm of a reward of the paper.

    Raises:
        ValueError: when the property a reward needs is missing or cannot be imported.
    """
    if settings.kind == "density":
        return lambda batch: torch.log(density(batch))
    if settings.property is None:
        raise ValueError(f"reward.property: the reward {settings.kind} needs one, such as 'package.module:function'")
    values = import_function(settings.property)
    if settings.kind == "formation_energy":
        return lambda batch: -settings.strength * values(batch)
    return lambda batch: -settings.strength * (values(batch) - settings.target) ** 2


def volume(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` cell volumes in Å3."""
    edges, angles = batch.lattice_parameters[:, :3], batch.lattice_parameters[:, 3:]
    x, y, z = torch.cos(torch.deg2rad(angles)).unbind(1)
    return edges.prod(dim=1) * torch.sqrt((1 - x * x - y * y - z * z + 2 * x * y * z).clamp_min(0.0))


def density(batch: CrystalBatch) -> torch.Tensor:
    """``(n,)`` mass densities in g/cm3."""
    return (batch.counts.to(torch.float64) @ _masses(batch.elements)) * GRAMS_PER_CUBIC_CENTIMETRE / volume(batch)


@cache
def _masses(elements: tuple[int, ...]) -> torch.Tensor:
    from pymatgen.core import Element

    return torch.tensor([float(Element.from_Z(number).atomic_mass) for number in elements], dtype=torch.float64)


def import_function(path: str) -> Property:
    """The function that ``module:function`` or ``file.py:function`` names.

    Raises:
        ValueError: when there is no such module, file or function.
    """
    place, _, name = path.rpartition(":")
    try:
        module: Any = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        return getattr(module, name)
    except (ImportError, AttributeError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"property: cannot import {path!r} ({error}); give 'module:function' or 'file.py:function'") from error


def _module_of_file(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
