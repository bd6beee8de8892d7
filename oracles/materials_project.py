"""The formation-energy scales of the Materials Project, and the composition terms that lead from one scale to another.

A formation energy per atom is stated on a *scale*: the element references and corrections that turn the total energies of a
functional into it. Until 2021 the Materials Project used one set of corrections (called ``MP2018`` here: MatBench, WBM, hulls of
that time), since then ``MP2020`` (Wang et al., Sci. Rep. 11, 15496 (2021)): they differ by 0.53 eV per bromine, 0.46 eV per
selenium, 0.36 eV per iodine atom ... so numbers of the two must not be mixed. Between any two scales, and between a potential's raw
energy and a scale, the difference is linear in the terms of :func:`composition_terms`, whose coefficients are fitted on real crystals
(``python -m oracles.training.formation_energy``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

MP2018 = "MP2018 formation energy"
MP2020 = "MP2020 formation energy"
SCALES = (MP2018, MP2020)

ANIONS = frozenset("O S F Cl Br I N Se Si Sb Te H P C As B Ge Sn Bi".split())
"""Elements that get a term of their own where they are the most electronegative one."""
HUBBARD_METALS = frozenset("V Cr Mn Fe Co Ni W Mo".split())
"""Metals to which the Materials Project applies a Hubbard U in oxides and fluorides."""


class CompositionTerms(BaseModel):
    """A correction that is linear in the terms of a composition; coefficients in eV per atom of the named element."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    coefficients: dict[str, float] = Field(description="eV per atom, by term as named in composition_terms")

    @property
    def elements(self) -> frozenset[str]:
        """The elements it knows."""
        return frozenset(term for term in self.coefficients if " " not in term)

    def per_atom(self, composition: Mapping[str, float]) -> float:
        """The correction in eV per atom of the composition (element: count).

        Raises:
            KeyError: for an element that no coefficient was fitted for.
        """
        unknown = set(composition) - self.elements
        if unknown:
            raise KeyError(f"no reference energy for {', '.join(sorted(unknown))}; known are {len(self.elements)} elements")
        return sum(self.coefficients.get(term, 0.0) * amount for term, amount in composition_terms(composition).items())


def composition_terms(composition: Mapping[str, float]) -> dict[str, float]:
    """Amount per atom of each term of a composition.

    The terms are ``"Fe"`` (an element), ``"anion O"`` (the most electronegative element of a compound), and for the metals with a
    Hubbard U ``"Fe in oxide"``, ``"Fe in fluoride"`` (oxygen or fluorine is the most electronegative) or ``"Fe beside O or F"``
    (they are there, but another element is).
    """
    total = sum(composition.values())
    terms = {element: count / total for element, count in composition.items()}
    anion = max(composition, key=_electronegativity)
    if len(composition) == 1:
        return terms
    if anion in ANIONS:
        terms[f"anion {anion}"] = composition[anion] / total
    kind = {"O": "in oxide", "F": "in fluoride"}.get(anion, "beside O or F" if {"O", "F"} & set(composition) else None)
    if kind is not None:
        terms |= {f"{metal} {kind}": composition[metal] / total for metal in HUBBARD_METALS & set(composition)}
    return terms


@cache
def _electronegativity(element: str) -> float:
    """Pauling's electronegativity; 0 for the noble gases that have none."""
    import warnings

    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(Element(element).X)
    return value if value == value else 0.0


@cache
def _mp2018_to_mp2020() -> CompositionTerms:
    data = json.loads((files("oracles") / "data" / "mp2018_to_mp2020.json").read_text())
    return CompositionTerms(coefficients=data["coefficients"])


def convert(composition: Mapping[str, float], formation_energy_per_atom: float, scale: str, to: str) -> float:
    """A formation energy (eV/atom) carried from one scale to another; held-out error 2 meV/atom (median), 9 meV/atom (mean).

    Raises:
        ValueError: for a scale that is not in :data:`SCALES`.
        KeyError: for an element whose shift is not known.
    """
    for name in (scale, to):
        if name not in SCALES:
            raise ValueError(f"{name!r} is not a scale of the Materials Project; known are {', '.join(SCALES)}")
    if scale == to:
        return formation_energy_per_atom
    sign = 1.0 if to == MP2020 else -1.0
    return formation_energy_per_atom + sign * _mp2018_to_mp2020().per_atom(composition)
