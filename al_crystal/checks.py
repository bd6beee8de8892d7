"""Everything that can be wrong with a campaign, found before anything is written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gfn.environment import CrystalEnvironment
    from oracles.potentials import Potential, PotentialRecord

    from .config import Campaign


def prepare(campaign: Campaign, campaign_file: Path) -> tuple[CrystalEnvironment, PotentialRecord]:
    """Build the space and find the potential, before anything is written.

    Raises:
        ConfigError: a table that the campaign names is not there; nothing valid is left of the space; the engine or a DFT code is
            unusable here; the weights cannot be had, are broken or fail the self-test; an element is unknown to the potential or
            to the surrogate; the hull is of another level of theory than the labels.
    """
    from gfn.constraints import EmptySpace
    from gfn.environment import CrystalEnvironment
    from oracles.potentials import PotentialNotFound, PotentialRefused, load, resolve

    from .config import ConfigError
    from .history import read

    _check_tables(campaign, campaign_file)
    try:
        environment = CrystalEnvironment(campaign.space)
    except EmptySpace as error:
        raise ConfigError(f"{campaign_file}: `space` leaves no crystal: {error}") from None
    if obstacles := _obstacles(campaign):
        raise ConfigError("\n".join(f"{campaign_file}: {obstacle}" for obstacle in obstacles))
    start = read(campaign.folder / "history.jsonl").start
    try:
        potential = resolve(campaign.oracles.potential, campaign.oracles.models)
        if start is not None and potential.sha256 != start.facts["potential"]["sha256"]:
            first = start.facts["potential"]
            raise ConfigError(
                f"{campaign.folder}: the campaign began with {first['name']} ({first['source']}, sha256 {first['sha256'][:12]}), "
                f"found now: {potential.name} ({potential.source}, sha256 {potential.sha256[:12]})\n"
                "  allowed: one potential for a whole campaign\n"
                "  fix: make those weights available again, or give this campaign another name"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn about their own deprecations
            loaded = load(potential)
    except (PotentialNotFound, PotentialRefused) as error:
        raise ConfigError(f"{campaign_file}: `oracles.potential`: {error}") from None
    _check_elements(campaign, campaign_file, loaded)
    _check_targets(campaign, campaign_file, loaded)
    _check_hull(campaign, campaign_file, loaded)
    _check_experience(campaign, campaign_file, loaded)
    return environment, loaded.record


def _obstacles(campaign: Campaign) -> list[str]:
    """What stands in the way of the engine and of the promotions on this machine."""
    from oracles.engines import make_engine

    from .promotion import problems

    return [*make_engine(campaign.engine, campaign.folder / "tasks").problems(), *problems(campaign)]


def check_folder(campaign: Campaign) -> None:
    """That the run's folder is free, and is this campaign's or nobody's.

    Raises:
        ConfigError: it is another campaign's, or no campaign's. HistoryError: another driver holds it.
    """
    from .config import ConfigError
    from .history import check_free, read

    folder = campaign.folder
    check_free(folder)
    if not folder.exists():
        return
    start = read(folder / "history.jsonl").start
    fix = "  fix: change `name` or `output` in the campaign file, or move the folder away"
    if start is not None and start.campaign != campaign.hash:
        raise ConfigError(
            f"{folder}: holds another campaign ({start.campaign}, this one is {campaign.hash})\n"
            f"  allowed: the campaign it began with (see {folder / 'campaign.yaml'}); rounds, retries, engine, promotion may change\n{fix}"
        )
    strangers = sorted({path.name for path in folder.iterdir()} - {"history.jsonl", "lock", "campaign.yaml", "manifest.json"})
    if start is None and strangers:
        raise ConfigError(f"{folder}: is not a campaign's folder: it has no history, but {', '.join(strangers[:5])}\n{fix}")


def check_import_of_gfn() -> None:
    """That ``gfn`` is ours: the package torchgfn installs one of the same name.

    Raises:
        ConfigError: it is not.
    """
    import gfn

    from .config import ConfigError

    found, ours = Path(str(gfn.__file__)).parent, Path(__file__).parents[1] / "gfn"
    if found.resolve() != ours.resolve():
        raise ConfigError(
            f"the package `gfn` is imported from {found}, not from {ours}\n"
            "  likely: torchgfn is installed, which takes the same import name\n"
            "  fix: pip uninstall torchgfn, or use an environment of its own"
        )


def _check_tables(campaign: Campaign, campaign_file: Path) -> None:
    from .config import ConfigError

    tables = {
        "known_crystals": campaign.known_crystals,
        "selection.seed_crystals": campaign.selection.seed_crystals,
        "stability.hull": campaign.stability.hull,
        "surrogate.experience": campaign.surrogate.experience,
    }
    for key, path in tables.items():
        if isinstance(path, Path) and not path.is_file():
            fix = "correct the path (it is relative to where you run), or leave the key out"
            raise ConfigError(f"{campaign_file}: `{key}`: there is no file {path}\n  fix: {fix}")


def _check_elements(campaign: Campaign, campaign_file: Path, potential: Potential) -> None:
    from surrogates.ensemble import Ensemble

    from .config import ConfigError
    from .crystal import Crystal, CrystalBatch

    cell = (5.0, 5.0, 5.0, 90.0, 90.0, 90.0)
    pure = [Crystal(space_group=1, composition={symbol: 1}, lattice_parameters=cell) for symbol in campaign.space.elements]
    pretrained = campaign.surrogate.pretrained
    ensemble = Ensemble.load(pretrained) if pretrained else Ensemble.pretrained()
    elements = set(campaign.space.elements)
    unknown = {
        f"the potential {potential.record.name}": sorted(elements - (potential.elements or elements)),
        "the surrogate": sorted(ensemble.unknown_elements(CrystalBatch.from_crystals(pure))),
    }
    for who, symbols in unknown.items():
        if symbols:
            raise ConfigError(f"{campaign_file}: `space.elements`: {who} knows nothing of {', '.join(symbols)}\n  fix: leave them out")


def _check_targets(campaign: Campaign, campaign_file: Path, potential: Potential) -> None:
    from oracles.labelling import unavailable_properties

    from .config import ConfigError
    from .screening import ENERGY

    unavailable = unavailable_properties(campaign.oracles, potential)
    if campaign.selection.screened and ENERGY in unavailable:
        raise ConfigError(
            f"{campaign_file}: `selection.screened`: {potential.record.name} states no formation energies: {unavailable[ENERGY]}\n"
            "  fix: name another potential in `oracles.potential`, or set it to 0"
        )
    for name in campaign.objective.properties:
        if name in unavailable:
            raise ConfigError(
                f"{campaign_file}: `objective.targets.{name}`: no label can have it with the potential {potential.record.name}: "
                f"{unavailable[name]}\n  fix: name another potential in `oracles.potential`, or leave the target out"
            )


def _check_hull(campaign: Campaign, campaign_file: Path, potential: Potential) -> None:
    from .config import ConfigError

    if campaign.stability.hull is None:
        return
    for oracle in campaign.oracles.properties:
        scale = oracle.level_of_theory(potential).split(" -> ")[-1]
        if "formation_energy_per_atom" in oracle.provides and scale != campaign.stability.level_of_theory:
            raise ConfigError(
                f"{campaign_file}: `stability.level_of_theory`: the hull is of {campaign.stability.level_of_theory!r}, "
                f"the labels will be of {scale!r}\n"
                "  allowed: energies of one level of theory\n  fix: give a hull of the labels' level"
            )


def _check_experience(campaign: Campaign, campaign_file: Path, potential: Potential) -> None:
    from .config import ConfigError
    from .experience import experience

    try:
        experience(potential.level_of_theory, campaign.surrogate.experience)
    except ValueError as error:
        fix = "name a table of this potential, or set it to true or false"
        raise ConfigError(f"{campaign_file}: `surrogate.experience`: {error}\n  fix: {fix}") from None
