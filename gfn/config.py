"""Configuration of ``python -m gfn.train`` and restriction files: YAML, validated, with ``extends:``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from gfn.constraints import Restriction, Settings, Space
from gfn.settings import SamplerSettings

if TYPE_CHECKING:
    import pandas as pd

    from al_crystal.crystal import Crystal


class ConfigError(ValueError):
    """A file that cannot be used; the message says which field, what was given and what is allowed."""


class RewardSettings(Settings):
    """The paper's rewards; all are floored at the sampler's ``reward_floor``."""

    kind: Literal["density", "formation_energy", "band_gap"] = Field(
        description="density: the density in g/cm3; formation_energy: exp(-strength E); band_gap: exp(-strength (gap - target)^2)"
    )
    property: str | None = Field(
        default=None,
        description="where the property comes from: `module:function` or `file.py:function` (relative to the configuration file), "
        "a function of a CrystalBatch that gives (n,) values in eV/atom or eV; density needs none",
    )
    strength: float = Field(default=8.0, gt=0, description="factor in the exponent (per eV/atom, or per eV2)")
    target: float = Field(default=1.34, description="band gap aimed at, in eV")


class TrainConfig(Settings):
    """One training run."""

    space: Space = Field(default_factory=Space, description="what crystals may be")
    sampler: SamplerSettings = Field(default_factory=SamplerSettings, description="policy and training")
    reward: RewardSettings = Field(description="what is rewarded")
    seed: int = Field(default=0, ge=0, description="decides every random number of the run")
    known_crystals: Path | None = Field(
        default=None,
        description="parquet table to retrace trajectories from (columns space_group_number, a..gamma, composition), relative to this file",
    )

    @model_validator(mode="after")
    def _known_crystals_are_used(self) -> TrainConfig:
        if (self.known_crystals is None) != (self.sampler.dataset_size == 0):
            raise ValueError(
                f"sampler.dataset_size {self.sampler.dataset_size} and known_crystals {self.known_crystals} need each other: "
                "give both, or neither"
            )
        return self


Model = TypeVar("Model", bound=BaseModel)


def load_config(path: Path) -> TrainConfig:
    """Read a training configuration.

    Raises:
        ConfigError: for a missing file, unknown or duplicate keys, or wrong values.
    """
    config = _validate(TrainConfig, path)
    file, _, function = (config.reward.property or "").rpartition(":")
    if file.endswith(".py"):
        located = config.reward.model_copy(update={"property": f"{(path.parent / file).resolve()}:{function}"})
        config = config.model_copy(update={"reward": located})
    if config.known_crystals is not None:
        config = config.model_copy(update={"known_crystals": (path.parent / config.known_crystals).resolve()})
    return config


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Sentences on the fields in which two configurations, dumped as JSON, differ."""
    sentences = []
    for name in dict.fromkeys((*ours, *theirs)):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            sentences += differences(mine, other, f"{prefix}{name}.")
        elif mine != other:
            sentences.append(f"{prefix}{name}: {other} there, {mine} here")
    return sentences


def load_restriction(path: Path) -> Restriction:
    """Read a restriction.

    Raises:
        ConfigError: as for :func:`load_config`.
    """
    return _validate(Restriction, path)


def load_crystals(path: Path, columns: tuple[str, ...] = ()) -> tuple[list[Crystal], pd.DataFrame]:
    """The crystals of a parquet table, and the table.

    Raises:
        ConfigError: when it cannot be read, has no rows, or lacks a column that is needed (``columns`` are needed besides).
    """
    import pandas as pd

    from al_crystal.crystal import crystals_from_frame

    try:
        table = pd.read_parquet(path)
        crystals = crystals_from_frame(table)
        table[list(columns)].astype(float)
        if not crystals:
            raise ValueError("it has no rows")
    except (OSError, KeyError, ValueError) as error:
        needed = ", ".join(["space_group_number, a..gamma, composition", *columns])
        raise ConfigError(f"{path}: cannot be read as a table of crystals ({needed}): {error}") from error
    return crystals, table


def _validate(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate(_read(path, ()))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']} (given: {e['input']!r})" for e in error.errors()]
        raise ConfigError("\n".join([f"{path}: {len(lines)} field(s) cannot be used", *lines])) from error


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in a file, merged over the one it extends."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if path in chain:
        raise ConfigError(f"{path}: extends itself")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        content = YAML(typ="safe").load(path.read_text()) or {}
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping, given {type(content).__name__}")
    base = content.pop("extends", None)
    return _merge(_read((path.parent / base).resolve(), (*chain, path)), content) if base else content


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged
