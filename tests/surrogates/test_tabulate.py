import math

import pytest

from surrogates.features import element_facts
from surrogates.tabulate import element_properties, valence_electrons

HEAT, RADIUS, PHI = "heat_of_formation_of_gas_kJ_per_mol", "covalent_radius_pyykko_pm", "electronegativity_miedema_V"


@pytest.mark.parametrize(
    ("symbol", "name", "value"),
    [
        ("Na", HEAT, 107.5),  # CODATA / CRC handbook, 298 K
        ("Ti", HEAT, 473.0),
        ("O", HEAT, 249.2),
        ("Fe", RADIUS, 116),  # Pyykkö and Atsumi, Chem. Eur. J. 15, 186 (2009)
        ("O", RADIUS, 63),
        ("Fe", PHI, 4.93),  # de Boer et al., Cohesion in Metals (1988)
        ("Na", PHI, 2.70),
        ("O", PHI, None),
        ("Fe", "log_miedema_molar_volume", math.log(7.09)),
        ("Au", "log_density", math.log(19.3)),
        ("Au", "log_molar_volume", math.log(10.21 / 0.602214)),  # Å3 per atom
        ("Fe", "electronegativity_pauling", 1.83),
    ],
)
def test_shipped_properties_are_those_of_the_literature(symbol, name, value):
    shipped = element_facts()[symbol][name]
    assert shipped == (value if value is None else pytest.approx(value, rel=2e-3))


@pytest.mark.parametrize("symbol", ["H", "O", "Fe", "Au", "U"])
def test_shipped_properties_are_what_the_sources_say(symbol):
    pytest.importorskip("mendeleev")  # the extra "tables"
    made = element_properties(symbol)
    shipped = element_facts()[symbol]
    assert list(made) == list(shipped)
    assert made == {name: value if value is None else pytest.approx(value) for name, value in shipped.items()}


def test_valence_electrons_are_counted_outside_the_core():
    assert valence_electrons("[Ar].3d6.4s2") == {"s": 2, "p": 0, "d": 6, "f": 0}
    assert valence_electrons("[Rn].5f14.7s2.7p1 (tentative)") == {"s": 2, "p": 1, "d": 0, "f": 14}
