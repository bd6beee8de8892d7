from __future__ import annotations

import pytest

from oracles.potentials import load, resolve

EMT = "ase.calculators.emt:EMT"  # a real potential for a few metals that costs nothing to load


@pytest.fixture(scope="session")
def emt():
    return load(resolve(EMT))


@pytest.fixture(scope="session")
def m3gnet(models_folder):
    return load(resolve("M3GNet", models_folder))
