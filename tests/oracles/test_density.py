from __future__ import annotations

import pytest

from oracles.base import Context
from oracles.density import Density
from oracles.potentials import load, resolve
from oracles.self_test import reference_structure
from tests.contracts import OracleContract
from tests.oracles.conftest import EMT


class TestDensity(OracleContract):
    def oracle(self):
        return Density()

    def potential(self):
        return load(resolve(EMT))

    def structures(self):
        return [reference_structure("Al"), reference_structure("Cu")]


def test_copper():
    copper = reference_structure("Cu", 3.615)
    found = Density().evaluate([copper], Context(load(resolve(EMT)), [copper], [0.0]))[0]
    assert found["density"].value == pytest.approx(8.93, abs=0.01)  # g/cm3, at the experimental lattice constant
    assert found["volume_per_atom"].value == pytest.approx(3.615**3 / 4)
