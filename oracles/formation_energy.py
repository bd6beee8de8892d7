"""Formation energy on the Materials Project's scale from one static energy of the potential that relaxed the structure.

The raw energy per atom plus a correction that is linear in composition: references of the elements, terms for the metals that the
Materials Project treats with a Hubbard U in oxides and fluorides, and terms for the dominant anion (the shape of the corrections
of Wang et al., Sci. Rep. 11, 15496 (2021)). The coefficients are fitted per potential on DFT formation energies and ship with
their measured error (``oracles/data/formation_energy_*.json``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from al_crystal.crystal import Value
from oracles.base import Context, Oracle, PropertyUnavailable
from oracles.materials_project import CompositionTerms

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from oracles.potentials import Potential


class ReferenceEnergies(BaseModel):
    """The fitted correction of one potential, its scale and its error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    potential: str = Field(description="level of theory of the raw energies")
    scale: str = Field(description="the scale of formation energies that the correction leads to")
    terms: CompositionTerms = Field(description="the correction, eV per atom")
    error_sizes: dict[str, float] = Field(description="mean absolute error by element, eV/atom; a crystal's is the average over its atoms")
    least_error: float = Field(description="smallest mean absolute error that is claimed, eV/atom")
    error_factor: float = Field(description="standard deviation over mean absolute error, so that 90 % lie within 1.645 of it")

    @property
    def level_of_theory(self) -> str:
        """``"<potential> -> <scale>"``."""
        return f"{self.potential} -> {self.scale}"

    def formation_energy(self, composition: Mapping[str, float], energy_per_atom: float) -> Value:
        """Formation energy per atom (eV/atom) of a composition with this raw energy (eV/atom), with its standard deviation.

        Raises:
            KeyError: for an element that has no reference.
        """
        total = sum(composition.values())
        value = energy_per_atom + self.terms.per_atom(composition)
        size = sum(count * self.error_sizes[element] for element, count in composition.items()) / total
        deviation = self.error_factor * max(size, self.least_error)
        return Value(value=value, level_of_theory=self.level_of_theory, standard_deviation=deviation)


@cache
def reference_energies(potential: str) -> ReferenceEnergies:
    """The shipped references for a potential's level of theory.

    Raises:
        PropertyUnavailable: where none were fitted, naming those that were.
    """
    folder = files("oracles") / "data"
    file = folder / f"formation_energy_{potential}.json"
    if not file.is_file():
        known = sorted(
            item.name[len("formation_energy_") : -len(".json")] for item in folder.iterdir() if item.name.startswith("formation_energy_")
        )
        raise PropertyUnavailable(
            f"no formation-energy references for the potential {potential!r}; fitted are {', '.join(known)}. "
            "Fit them: python -m oracles.training.formation_energy potential"
        )
    data = json.loads(file.read_text())
    return ReferenceEnergies(
        potential=data["potential"],
        scale=data["scale"],
        terms=CompositionTerms(coefficients=data["coefficients"]),
        error_sizes=data["error"]["sizes"],
        least_error=data["error"]["least"],
        error_factor=data["error"]["factor"],
    )


class FormationEnergy(Oracle):
    """Formation energy per atom from the potential's own energy of each structure."""

    kind: Literal["formation_energy"] = Field(
        default="formation_energy", description="formation energy per atom on the Materials Project's scale of 2020, eV/atom"
    )

    provides: ClassVar[tuple[str, ...]] = ("formation_energy_per_atom",)

    def level_of_theory(self, potential: Potential) -> str:
        """``"<potential> -> MP2020 formation energy"``."""
        return reference_energies(potential.level_of_theory).level_of_theory

    def evaluate(self, structures: Sequence[Structure], context: Context) -> list[dict[str, Value]]:
        """See :meth:`Oracle.evaluate`; the energies are the context's."""
        references = reference_energies(context.potential.level_of_theory)
        values = []
        for structure, energy in zip(structures, context.energies, strict=True):
            composition = structure.composition.get_el_amt_dict()
            try:
                value = references.formation_energy(composition, float(energy) / len(structure))
            except KeyError as error:
                raise PropertyUnavailable(f"formation energy of {structure.composition.formula}: {error.args[0]}") from error
            values.append({"formation_energy_per_atom": value})
        return values
