"""Tabulate once, from maintained sources, what the surrogates know of elements and space groups.

``python -m surrogates.tabulate`` writes ``surrogates/data/elements.json`` (pymatgen, SMACT and mendeleev, the last from the extra
``tables``) and ``surrogates/data/space_groups.json`` (PyXtal and pymatgen). Both files ship with the package, so predicting needs none
of these libraries. The order of an element's properties is the order in which the shipped networks read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy.constants import Avogadro

from al_crystal.crystal import ELEMENTS, element_volumes

DATA = Path(__file__).parent / "data"
HIGHEST_ATOMIC_NUMBER = 103
CUBIC_ANGSTROM = 1e24 / Avogadro
"""Å3 per atom of one cm3/mol."""
MENDELEEV = {
    "evaporation_heat": "evaporation_heat_kJ_per_mol",
    "fusion_heat": "fusion_heat_kJ_per_mol",
    "heat_of_formation": "heat_of_formation_of_gas_kJ_per_mol",
    "en_allen": "electronegativity_allen_eV",
    "en_ghosh": "electronegativity_ghosh",
    "en_miedema": "electronegativity_miedema_V",
    "miedema_electron_density": "miedema_electron_density",
    "covalent_radius_pyykko": "covalent_radius_pyykko_pm",
    "covalent_radius_pyykko_double": "covalent_radius_pyykko_double_pm",
    "atomic_radius_rahm": "atomic_radius_rahm_pm",
    "vdw_radius_alvarez": "van_der_waals_radius_alvarez_pm",
    "glawe_number": "glawe_number",
    "pettifor_number": "pettifor_number",
}
"""What is taken from mendeleev, and how it is called here."""
LOGARITHMIC = {
    "dipole_polarizability": "log_dipole_polarisability",
    "c6_gb": "log_c6",
    "miedema_molar_volume": "log_miedema_molar_volume",
    "density": "log_density",
}
"""Likewise, as the logarithm of a number in mendeleev's unit."""
CENTRINGS = ("P", "A", "C", "I", "R", "F")
CENTRING_POINTS = {"P": 1, "A": 2, "C": 2, "I": 2, "R": 3, "F": 4}


def valence_electrons(structure: str) -> dict[str, int]:
    """Electrons outside the noble-gas core by angular momentum, of a configuration such as ``"[Ar].3d6.4s2"``."""
    electrons = dict.fromkeys("spdf", 0)
    for shell in structure.split("."):
        if shell.startswith("["):
            continue
        electrons[shell[1]] += int(shell[2:].split("(")[0])  # the tables sometimes append "(tentative)"
    return electrons


@cache
def _mendeleev() -> Any:
    """mendeleev's table of elements by symbol."""
    from mendeleev.fetch import fetch_table

    return fetch_table("elements").set_index("symbol")


def element_properties(symbol: str) -> dict[str, float | None]:
    """Properties of one element; None where no source states one. Units in the keys or dimensionless."""
    import smact
    from pymatgen.core import Element

    element, other = Element(symbol), smact.Element(symbol)
    electrons = valence_electrons(element.electronic_structure)
    states = [state for state in (element.common_oxidation_states or element.oxidation_states)]
    seen = [*states, *element.icsd_oxidation_states]
    positive = [state for state in seen if state > 0]
    usual = [state for state in states if state > 0] or positive

    def finite(read: Callable[[], Any]) -> float | None:
        try:
            value = float(read())
        except (TypeError, ValueError, AttributeError, IndexError):
            return None
        return value if math.isfinite(value) else None

    def logarithm(value: float | None) -> float | None:
        return math.log(value) if value else None

    energies, other_facts = element.ionization_energies, _mendeleev().loc[symbol]
    molar_volume = finite(lambda: element.molar_volume)
    return {
        "period": float(element.row),
        "group": float(element.group),
        "mendeleev_number": finite(lambda: element.mendeleev_no),
        "log_mass": math.log(float(element.atomic_mass)),
        "electronegativity_pauling": finite(lambda: element.X),
        "electron_affinity_eV": finite(lambda: element.electron_affinity),
        "first_ionization_energy_eV": finite(lambda: energies[0]),
        "second_ionization_energy_eV": finite(lambda: energies[1]),
        "third_ionization_energy_eV": finite(lambda: energies[2]),
        "atomic_radius_A": finite(lambda: element.atomic_radius),
        "covalent_radius_A": finite(lambda: other.covalent_radius),
        "average_ionic_radius_A": finite(lambda: element.average_ionic_radius or None),
        "van_der_waals_radius_A": finite(lambda: element.van_der_waals_radius),
        "log_atomic_volume": math.log(element_volumes()[symbol]) if symbol in element_volumes() else None,
        "melting_point_K": finite(lambda: element.melting_point),
        "boiling_point_K": finite(lambda: element.boiling_point),
        "bulk_modulus_GPa": finite(lambda: element.bulk_modulus),
        "p_orbital_energy_eV": finite(lambda: other.eig),
        "s_orbital_energy_eV": finite(lambda: other.eig_s),
        "dipole_polarisability": finite(lambda: other.dipol),
        "solid_state_energy_eV": finite(lambda: other.SSE),
        "lowest_oxidation_state": float(min(states)) if states else 0.0,
        "highest_oxidation_state": float(max(states)) if states else 0.0,
        "mean_oxidation_state": sum(states) / len(states) if states else 0.0,
        "anion_charge": float(min([0, *seen])),
        "lowest_cation_charge": float(min(positive, default=0)),
        "highest_cation_charge": float(max(positive, default=0)),
        "usual_cation_charge": sum(usual) / len(usual) if usual else 0.0,
        **{f"{shell}_electrons": float(count) for shell, count in electrons.items()},
        "missing_p_electrons": float((6 - electrons["p"]) % 6),
        "missing_d_electrons": float((10 - electrons["d"]) % 10),
        "missing_f_electrons": float((14 - electrons["f"]) % 14),
        "is_transition_metal": float(element.is_transition_metal),
        "is_rare_earth": float(element.is_rare_earth),
        "is_metalloid": float(element.is_metalloid),
        "is_halogen": float(element.is_halogen),
        "is_chalcogen": float(element.is_chalcogen),
        "is_alkali": float(element.is_alkali),
        "is_alkaline": float(element.is_alkaline),
        "log_molar_volume": logarithm(molar_volume and molar_volume * CUBIC_ANGSTROM),
        **{ours: finite(lambda name=name: other_facts[name]) for name, ours in MENDELEEV.items()},  # type: ignore[misc]
        **{ours: logarithm(finite(lambda name=name: other_facts[name])) for name, ours in LOGARITHMIC.items()},  # type: ignore[misc]
    }


def space_group_facts(number: int) -> dict[str, Any]:
    """Symmetry facts of one space group (ITA standard setting; hexagonal axes for the rhombohedral groups)."""
    from pymatgen.symmetry.groups import SpaceGroup
    from pyxtal.symmetry import Group

    group = Group(number)
    symbol = SpaceGroup.from_int_number(number).symbol
    centring = symbol[0]
    multiplicities = [position.multiplicity for position in group]
    fixed = [position.multiplicity for position in group if position.get_dof() == 0]
    free = [position.multiplicity for position in group if position.get_dof() > 0]
    return {
        "symbol": symbol,
        "crystal_system": SpaceGroup.from_int_number(number).crystal_system,
        "point_group": group.point_group,
        "centring": centring,
        "lattice_points": CENTRING_POINTS[centring],
        "general_multiplicity": max(multiplicities),
        "smallest_multiplicity": min(multiplicities),
        "smallest_free_multiplicity": min(free),
        "fixed_positions": len(fixed),
        "positions": len(multiplicities),
        "centrosymmetric": bool(group.inversion),
        "polar": bool(group.polar),
        "chiral": bool(group.chiral),
    }


def main() -> None:
    """Write both tables."""
    DATA.mkdir(exist_ok=True)
    symbols = ELEMENTS[:HIGHEST_ATOMIC_NUMBER]
    elements = {symbol: element_properties(symbol) for symbol in symbols}
    groups = {str(number): space_group_facts(number) for number in range(1, 231)}
    read = {"elements": ("pymatgen", "smact", "mendeleev"), "space_groups": ("pymatgen", "pyxtal")}
    for name, rows in (("elements", elements), ("space_groups", groups)):
        sources = {library: version(library) for library in read[name]}
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in rows.items())
        (DATA / f"{name}.json").write_text(f'{{"sources": {json.dumps(sources)},\n "{name}": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
