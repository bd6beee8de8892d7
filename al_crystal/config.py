"""The campaign file: its schema, its loading with ``extends:``, and errors that name file and line."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gfn.constraints import Space
from gfn.settings import SamplerSettings
from oracles.engine_settings import EngineSettings, LocalSettings
from oracles.settings import OracleSettings
from surrogates.settings import SurrogateSettings

from .objective import Objective
from .promotion import PromotionRule

PREDICTED_PROPERTIES = ("formation_energy_per_atom", "band_gap")
"""Properties that the surrogate predicts (``surrogates.tables.PROPERTIES``, which is not imported here: it needs torch)."""
COMPUTED_PROPERTIES = ("density", "volume_per_atom")
"""Properties that follow from the crystal alone; every other target needs the surrogate."""


class ConfigError(ValueError):
    """The campaign file cannot be used; the message says what, where, what was given, what is allowed and how to fix it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SelectionSettings(_Section):
    """The YAML section ``selection``: how a round's batch is chosen from a pool of samples."""

    batch_size: int = Field(12, ge=1, le=10_000, description="crystals labelled in a round")
    pool: int = Field(2_000, ge=1, description="crystals drawn from the sampler to choose from")
    overlap: float | None = Field(
        0.01,
        ge=0,
        description="crystals of the pool whose atoms overlap more, however they are packed, are dropped (per atom, the sum over its "
        "pairs of (1 - distance / shortest distance known)^2); null: none is",
    )
    screened: int = Field(
        0,
        ge=0,
        description="crystals of the pool whose energy the potential looks up in a short search before the batch is chosen among them",
    )
    random_share: float = Field(0.15, ge=0, le=1, description="share of each batch drawn uniformly from the space, as control")
    acquisition: str = Field(
        "expected_improvement",
        pattern="^(expected_improvement|upper_confidence_bound|greedy)$",
        description="what ranks the pool: expected_improvement, upper_confidence_bound or greedy (expected desirability)",
    )
    exploration: float = Field(1.0, ge=0, description="weight of the spread in upper_confidence_bound")
    per_chemical_system: int = Field(2, ge=1, description="most crystals of one chemical system in a batch, as long as others are left")
    per_space_group: int = Field(3, ge=1, description="most crystals of one space group in a batch, as long as others are left")
    per_element: int = Field(5, ge=1, description="most crystals in a batch that contain the same element, as long as others are left")
    seed_crystals: Path | None = Field(None, description="table of crystals (parquet or csv) labelled in the first round, beside the batch")

    @model_validator(mode="after")
    def _enough_to_choose_from(self) -> SelectionSettings:
        if self.screened and not self.batch_size <= self.screened <= self.pool:
            raise ValueError(
                f"screened is {self.screened}; allowed: 0, or batch_size ({self.batch_size}) to pool ({self.pool}), such as four batches"
            )
        return self


class StabilitySettings(_Section):
    """The YAML section ``stability``: what energies above hull are measured against."""

    hull: Path | None = Field(None, description="table (csv) of formulas and formation energies in eV/atom that make the hull")
    level_of_theory: str | None = Field(None, description="level of theory of that table; must be the labels' own")

    @model_validator(mode="after")
    def _both(self) -> StabilitySettings:
        if self.hull is not None and self.level_of_theory is None:
            raise ValueError("a hull file needs level_of_theory, so that energies of different levels never meet")
        return self


class Campaign(_Section):
    """A whole campaign file, validated and frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name of the run; its folder in `output`")]
    description: str = Field("", description="one or two sentences for the report")
    seed: int = Field(0, ge=0, description="every random number of the campaign follows from this")
    rounds: int = Field(4, ge=1, description="rounds of sampling, labelling and retraining")
    retries: int = Field(1, ge=0, description="further attempts at a label that failed (a crash or a timeout; never a rejection)")
    known_crystals: Path | None = Field(None, description="table of known crystals (formula, space_group_number); a hit is not among them")
    output: Path = Field(Path("runs"), description="folder of all runs; this one's is output/name")
    space: Space = Field(default=Space(), description="which crystals may be proposed")
    objective: Objective
    sampler: SamplerSettings = Field(default=SamplerSettings(), description="the GFlowNet and its training")
    surrogate: SurrogateSettings = Field(default=SurrogateSettings(), description="the ensemble and its retraining")
    selection: SelectionSettings = Field(default=SelectionSettings())
    oracles: OracleSettings = Field(default=OracleSettings(), description="positions, relaxation and labelled properties")
    engine: EngineSettings = Field(default_factory=LocalSettings, description="where labels are computed")
    promotion: tuple[PromotionRule, ...] = Field(default=(), description="which crystals go on to DFT, after each round")
    stability: StabilitySettings = Field(default=StabilitySettings())

    @field_validator("objective")
    @classmethod
    def _known_properties(cls, objective: Objective) -> Objective:
        allowed = (*PREDICTED_PROPERTIES, *COMPUTED_PROPERTIES)
        for name in objective.properties:
            if name not in allowed:
                raise ValueError(f"no surrogate predicts {name!r}; allowed: {', '.join(allowed)}{_suggest(name, allowed)}")
        return objective

    @field_validator("promotion")
    @classmethod
    def _one_rule_a_level(cls, rules: tuple[PromotionRule, ...]) -> tuple[PromotionRule, ...]:
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ValueError(f"one rule for each level of theory, given {', '.join(names)}")
        return rules

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.output / self.name

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the experiment: all that decides what is proposed and how it is labelled."""
        content = self.model_dump(mode="json", exclude={"output", "engine", "rounds", "retries", "description", "promotion"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


Location = tuple[str | int, ...]
REPLACED_WHOLE = {("objective", "targets"), ("engine",)}
"""Mappings that a file which extends another states anew: its targets and its engine, and nothing of its parent's."""


class _Source:
    """A parsed file with the place of each of its keys, merged over the files that it extends."""

    def __init__(self, content: dict[str, Any], places: dict[Location, tuple[Path, int]]) -> None:
        self.content, self.places = content, places

    def place(self, location: Iterable[str | int]) -> str:
        """``file:line`` of the nearest key that is written down."""
        path = tuple(location)
        while path not in self.places:
            path = path[:-1]
        file, line = self.places[path]
        return f"{file}:{line}"


def load(path: Path, seed: int | None = None) -> Campaign:
    """Read, merge and validate a campaign file; paths inside it are relative to where the command runs.

    With a ``seed`` it is the campaign with that seed in place of its own, and its name ends in it: a run of its own.

    Raises:
        ConfigError: with one entry per mistake, each with file and line.
    """
    source = _read(Path(path), ())
    if seed is not None:
        source.content |= {"seed": seed} | ({"name": f"{source.content['name']}_{seed}"} if "name" in source.content else {})
    try:
        return Campaign.model_validate(source.content)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, source) for item in error.errors())) from None


def dump(campaign: Campaign) -> str:
    """The campaign with all defaults written out, as YAML."""
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    YAML().dump(campaign.model_dump(mode="json", by_alias=True), stream)
    return stream.getvalue()


def _read(path: Path, chain: tuple[Path, ...]) -> _Source:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError

    if path in chain:
        raise ConfigError(f"{path}: extends itself by way of {' -> '.join(str(file) for file in chain)}\n  fix: break the circle")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = sorted(str(file) for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        allowed = f"\n  there is: {', '.join(others)}" if others else ""
        raise ConfigError(
            f"{path}: no such campaign file{allowed}\n  fix: give the path of a YAML file{_suggest(str(path), others)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}\n  fix: give the path of a text file in UTF-8") from None
    try:
        content = YAML().load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        raise ConfigError(f"{path}:{line}: {_first_line(error.problem)}\n  allowed: each key once\n  fix: remove one of the two") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            f"{path}:{mark.line + 1 if mark else 1}: not YAML: {_first_line(error.problem)}\n  fix: correct this line"
        ) from None
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{path}:1: a campaign file maps keys to values, given {type(content).__name__}\n  fix: start from campaigns/solar_bg.yaml"
        )
    places: dict[Location, tuple[Path, int]] = {(): (path, 1)}
    plain = _plain(content, (), path, places)
    base = plain.pop("extends", None)
    if base is None:
        return _Source(plain, places)
    parent = _read(path.parent / str(base), (*chain, path))
    return _Source(_merge(parent.content, plain), parent.places | places)


def _plain(node: Any, location: Location, file: Path, places: dict[Location, tuple[Path, int]]) -> Any:
    """Plain dicts and lists of a ruamel tree, noting the line of each key."""
    if isinstance(node, Mapping):
        result: dict[Any, Any] = {}
        for key, value in node.items():
            places[(*location, key)] = (file, node.lc.key(key)[0] + 1)  # type: ignore[attr-defined]
            result[key] = _plain(value, (*location, key), file, places)
        return result
    if isinstance(node, Sequence) and not isinstance(node, str):
        for index in range(len(node)):
            places[(*location, index)] = (file, node.lc.item(index)[0] + 1)  # type: ignore[attr-defined]
        return [_plain(value, (*location, index), file, places) for index, value in enumerate(node)]
    return node


def _merge(base: Any, over: Any, location: Location = ()) -> Any:
    """``over`` over ``base``: mappings key by key, everything else, and what is one statement as a whole, replaced."""
    if isinstance(base, dict) and isinstance(over, dict) and location not in REPLACED_WHOLE:
        return base | {key: _merge(base.get(key), value, (*location, key)) for key, value in over.items()}
    return over


def _explain(item: Any, source: _Source) -> str:
    """One pydantic error as a paragraph: where, what, given, allowed, fix."""
    location = tuple(part for part in item["loc"])
    written = _written(location, source.content)
    where, field = source.place(written), ".".join(str(part) for part in written) or "(top level)"
    model = _model_at(Campaign, written[:-1])
    fields = sorted(model.model_fields) if model else []
    if item["type"] == "extra_forbidden":
        allowed = f"\n  allowed: {', '.join(fields)}" if fields else ""
        return f"{where}: unknown key `{field}`{allowed}\n  fix: correct or remove it{_suggest(str(written[-1]), fields)}"
    if item["type"] == "missing":
        return f"{where}: the key `{'.'.join(str(part) for part in location)}` is missing\n  fix: add it"
    description = model.model_fields[str(written[-1])].description if model and written and str(written[-1]) in model.model_fields else None
    message = item["msg"].removeprefix("Value error, ")
    meaning = f"\n  meaning: {description}" if description else ""
    return f"{where}: `{field}`: {message}\n  given: {_short(item['input'])}{meaning}\n  fix: change this value"


def _written(location: Location, content: Any) -> Location:
    """The part of a pydantic location that is in the file (tags of unions and missing keys are not)."""
    path: list[str | int] = []
    for part in location:
        in_mapping = isinstance(content, dict) and part in content
        in_list = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if in_mapping or in_list:
            content = content[part]
            path.append(part)
    return tuple(path)


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The pydantic model that the section at ``location`` is read into; None inside unions and free mappings."""
    for part in location:
        field = model.model_fields.get(str(part))
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        models = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if len(models) != 1:
            return None
        model = models[0]
    return model


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _first_line(text: Any) -> str:
    return str(text).strip().splitlines()[0]
