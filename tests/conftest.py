"""Where the development data and the matgl weights are; tests that need them are skipped, with a reason, where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says nothing: the first may compile a kernel
settings.load_profile("untimed")

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"needs the folder that ${variable} names ({value or 'not set'})")
    return Path(value)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Development data (see docs): $AL_CRYSTAL_DATA."""
    return _folder("AL_CRYSTAL_DATA")


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """matgl weights: $AL_CRYSTAL_MODELS."""
    return _folder("AL_CRYSTAL_MODELS")
