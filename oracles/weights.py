"""Where the weights of a matgl model are: an explicit folder, $AL_CRYSTAL_MODELS, the local cache of matgl's hub, or the hub itself."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

MODEL_FILES = ("model.pt", "state.pt", "model.json")
HUB_ORGANISATION = "materialyze"
HUB_CONTACT_SECONDS = 5.0
HUB_DOWNLOAD_SECONDS = 120.0


class Weights(NamedTuple):
    """A folder with ``model.pt``, ``state.pt`` and ``model.json``, and how it was found."""

    folder: Path
    reason: str


class WeightsNotFound(FileNotFoundError):
    """No place that was looked into has the weights."""


def find_weights(name: str, folder: str | Path | None = None) -> Weights:
    """Look for a matgl model by its full name, such as ``"M3GNet-MP-2021.2.8-PES"``.

    Args:
        name: the model's name in matgl's hub, which is also the name of its folder.
        folder: the model's own folder or one that contains it; where it is given, nothing else is searched.

    Raises:
        WeightsNotFound: naming every place that was searched and why it did not do.
    """
    searched: list[str] = []
    if folder is not None:
        places = {"the folder given": Path(folder)}
    else:
        environment = os.environ.get("AL_CRYSTAL_MODELS")
        places = {"$AL_CRYSTAL_MODELS": Path(environment)} if environment else {}
        if not environment:
            searched.append("$AL_CRYSTAL_MODELS is not set")
    for what, place in places.items():
        for candidate in (place / name, place):
            if all((candidate / file).is_file() for file in MODEL_FILES):
                return Weights(candidate, f"{name} from {what}")
        searched.append(f"{what} ({place}) has no {name}/ with {', '.join(MODEL_FILES)}")
    if folder is None:
        found, why_not = _from_hub(name)
        if found is not None:
            return found
        searched.append(why_not)
    raise WeightsNotFound(
        f"no weights of {name}: {'; '.join(searched)} "
        "(fix: name the directory that holds the model's folder in $AL_CRYSTAL_MODELS or oracles.models)"
    )


def _from_hub(name: str) -> tuple[Weights | None, str]:
    """The model from the hub's local cache or over the network, each attempt bounded in time; or the reason why not."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = f"{HUB_ORGANISATION}/{name}"
    cache = Path.home() / ".cache" / "matgl"  # matgl's own cache, so that one download serves both

    def cached() -> Path:
        return Path(snapshot_download(repository, cache_dir=cache, allow_patterns=list(MODEL_FILES), local_files_only=True))

    try:
        folder = cached()
        if all((folder / file).is_file() for file in MODEL_FILES):
            return Weights(folder, f"{name} from the local cache of matgl's hub"), ""
    except LocalEntryNotFoundError:
        pass  # not cached: ask the hub; anything else (an unreadable cache, say) is the user's to know
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return None, "matgl's hub was not asked, for HF_HUB_OFFLINE is set, and its cache does not hold the model"
    problem = _within(HUB_CONTACT_SECONDS, lambda: HfApi().model_info(repository, timeout=HUB_CONTACT_SECONDS))
    if problem is None:
        problem = _within(HUB_DOWNLOAD_SECONDS, lambda: snapshot_download(repository, cache_dir=cache, allow_patterns=list(MODEL_FILES)))
    if problem is not None:
        return None, f"matgl's hub is out of reach: {problem}"
    return Weights(cached(), f"{name} downloaded from matgl's hub"), ""


def _within(seconds: float, action: object) -> str | None:
    """Run a callable in a daemon thread; None when it came back in time, otherwise one line about what went wrong.

    The hub's client retries for minutes without a network and offers no overall limit, hence the thread.
    """
    problem = [f"no answer within {seconds:g} s"]

    def run() -> None:
        try:
            action()  # type: ignore[operator]
            problem.clear()
        except Exception as error:
            lines = str(error).strip().splitlines()
            problem[0] = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem[0] if problem else None


def sha256_of(*files: Path) -> str:
    """SHA-256 of the contents of files, one after another."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
