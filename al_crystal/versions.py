"""What a run was made with: library versions, code, weights, machine."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oracles.potentials import PotentialRecord

    from .config import Campaign

LIBRARIES = tuple("al-crystal torch numpy pymatgen pyxtal smact matgl chgnet ase botorch spglib jobflow atomate2".split())


def facts(potential: PotentialRecord) -> dict[str, Any]:
    """What must not change while a campaign runs (the potential), and the versions that it began with."""
    return {"potential": potential.model_dump(mode="json"), "versions": {name: version(name) for name in LIBRARIES}}


def write_manifest(campaign: Campaign, potential: PotentialRecord) -> None:
    """Write the frozen ``campaign.yaml`` (defaults resolved) and ``manifest.json`` (versions, commit, weights, machine)."""
    from .config import dump

    manifest = facts(potential) | {
        "campaign": campaign.hash,
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "commit": _commit(),
    }
    (campaign.folder / "campaign.yaml").write_text(dump(campaign))
    (campaign.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _commit() -> str | None:
    """The git commit of the code, with ``+`` where files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        described = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
