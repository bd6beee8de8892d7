"""What every part of a kind must satisfy. A newcomer subclasses the contract in their tests and gets these tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
from pydantic import ValidationError

from oracles.base import Context, Oracle


class OracleContract(ABC):
    """Subclass, name the class ``Test...``, and say how to make the oracle, a potential and two structures it can judge."""

    @abstractmethod
    def oracle(self) -> Oracle:
        """The oracle under test, with default knobs."""

    @abstractmethod
    def potential(self):
        """The potential whose relaxation the oracle reads."""

    @abstractmethod
    def structures(self) -> list:
        """Two different structures the oracle can judge."""

    def _values(self, structures):
        potential = self.potential()
        return self.oracle().evaluate(structures, Context(potential, structures, potential.evaluate(structures).energies))

    def test_states_what_it_provides_with_its_level_of_theory(self):
        oracle, structures = self.oracle(), self.structures()
        values = self._values(structures)
        assert len(values) == len(structures)
        for one in values:
            assert set(one) == set(oracle.provides)
            assert all(
                np.isfinite(value.value) and value.level_of_theory == oracle.level_of_theory(self.potential()) for value in one.values()
            )

    def test_does_not_depend_on_its_neighbours_in_the_batch(self):
        structures = self.structures()
        together = self._values(structures)
        alone = [self._values([structure])[0] for structure in structures]
        for one, other in zip(together, alone, strict=True):
            for name in one:
                assert one[name].value == pytest.approx(other[name].value, abs=1e-4)

    def test_does_not_depend_on_the_choice_of_cell(self):
        structures = self.structures()
        doubled = [structure * (2, 1, 1) for structure in structures]
        for one, other in zip(self._values(structures), self._values(doubled), strict=True):
            for name in one:
                assert one[name].value == pytest.approx(other[name].value, abs=1e-3)

    def test_survives_its_own_json_and_refuses_unknown_knobs(self):
        oracle = self.oracle()
        assert type(oracle).model_validate_json(oracle.model_dump_json()) == oracle
        with pytest.raises(ValidationError):
            type(oracle).model_validate({**oracle.model_dump(), "no_such_knob": 1})
