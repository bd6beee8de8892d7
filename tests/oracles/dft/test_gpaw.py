"""Real GPAW: gaps against the literature, energies against a finer setting, labels of the DFT labeller."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import numpy as np
import pytest

from al_crystal.crystal import AtomicStructure, Label
from oracles.dft.gpaw import problems
from oracles.dft.labelling import DftLabeller, Promoted, primitive
from oracles.dft.references import NoReference, formation_energy, reference_structure
from oracles.dft.settings import GpawSettings

pytestmark = [pytest.mark.dft, pytest.mark.xdist_group("gpaw")]
needs_gpaw = pytest.mark.skipif(importlib.util.find_spec("gpaw") is None, reason="needs GPAW: make test-dft, or rigs/gpaw.sh VENV")

CRYSTALS = {  # space group, PBE lattice constant (Å), species, coordinates, PBE gap (eV)
    "Si": ("Fd-3m", 5.469, ["Si"], [[0, 0, 0]], 0.61),
    "NaCl": ("Fm-3m", 5.69, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]], 5.0),
    "MgO": ("Fm-3m", 4.26, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], 4.5),
}


def structure(name: str) -> AtomicStructure:
    from pymatgen.core import Lattice, Structure

    group, constant, species, coordinates, _ = CRYSTALS[name]
    return AtomicStructure.from_pymatgen(Structure.from_spacegroup(group, Lattice.cubic(constant), species, coordinates))


@cache
def label(name: str, **changes: float) -> Label:
    return DftLabeller(settings=GpawSettings(**changes), geometry="experiment").label(Promoted(id=name, structure=structure(name)))


@needs_gpaw
@pytest.mark.parametrize("name", CRYSTALS)
def test_gaps_at_the_documented_settings(name: str) -> None:
    found = label(name)
    assert found.status == "ok"
    assert found.properties["band_gap"].value == pytest.approx(CRYSTALS[name][4], abs=0.15)
    assert found.checks["max_force"] < 1e-3
    assert found.checks["max_stress"] < 2.5  # GPa: the PBE lattice constant is GPAW's too


@needs_gpaw
@pytest.mark.parametrize("name", ["Si", "MgO"])
def test_energies_are_converged_to_ten_millielectronvolts(name: str) -> None:
    coarse, fine = label(name), label(name, cutoff=900.0, kpoint_density=5.0)
    difference = coarse.properties["energy_per_atom"].value - fine.properties["energy_per_atom"].value
    assert abs(difference) < 0.010
    assert "700 eV, 3.5 k-points" in coarse.properties["energy_per_atom"].level_of_theory
    assert coarse.properties["energy_per_atom"].level_of_theory != fine.properties["energy_per_atom"].level_of_theory


@needs_gpaw
def test_formation_energy_against_elements_of_the_same_settings() -> None:
    settings = GpawSettings(cutoff=450, kpoint_density=2.0)
    labeller = DftLabeller(settings=settings, geometry="experiment")
    compound = labeller.label(Promoted(id="LiF", structure=_lithium_fluoride()))
    elements = {
        symbol: labeller.label(Promoted(id=symbol, structure=reference_structure(symbol), reference_of=symbol)).properties[
            "energy_per_atom"
        ]
        for symbol in ("Li", "F")
    }
    value = formation_energy({"Li": 1, "F": 1}, compound.properties["energy_per_atom"], elements)
    assert value.value == pytest.approx(-3.0, abs=0.2)  # uncorrected PBE; measured -3.19 eV/atom
    assert "uncorrected" in value.level_of_theory
    strange = {symbol: energy.model_copy(update={"level_of_theory": "another"}) for symbol, energy in elements.items()}
    with pytest.raises(ValueError, match="another level of theory"):
        formation_energy({"Li": 1, "F": 1}, compound.properties["energy_per_atom"], strange)


def _lithium_fluoride() -> AtomicStructure:
    from pymatgen.core import Lattice, Structure

    return AtomicStructure.from_pymatgen(Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.07), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]]))


@needs_gpaw
def test_what_cannot_be_calculated_is_rejected_with_the_reason() -> None:
    too_large = DftLabeller(settings=GpawSettings(max_atoms=1), geometry="x").label(Promoted(id="Si", structure=structure("Si")))
    assert (too_large.status, too_large.reason) == ("rejected", "2 atoms in the primitive cell, 1 allowed (max_atoms)")
    settings = GpawSettings(cutoff=300, kpoint_density=1.0, max_iterations=2)
    impatient = DftLabeller(settings=settings, geometry="x").label(Promoted(id="Si", structure=structure("Si")))
    assert impatient.status == "rejected"
    assert "no self-consistency within 2 iterations" in impatient.reason


@needs_gpaw
def test_missing_setups_are_found_beforehand() -> None:
    assert problems(GpawSettings(), frozenset({"Si", "Mg", "O"})) == []
    (problem,) = problems(GpawSettings(), frozenset({"Si", "Po"}))
    assert "no PBE PAW setups for Po" in problem


def test_a_machine_without_gpaw_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "GPAW is not installed" in problems(GpawSettings(), frozenset({"Si"}))[0]


def test_reference_states() -> None:
    assert reference_structure("Mg").species == ("Mg", "Mg")
    assert reference_structure("O").species == ("O", "O")
    aluminium = reference_structure("Al").to_pymatgen()
    assert aluminium.volume == pytest.approx(16.48, abs=0.02)  # PBE volume of the Delta project, Å3/atom
    with pytest.raises(NoReference, match="Mn: no simple ground state"):
        reference_structure("Mn")


def test_ring_of_sulphur() -> None:
    ring = reference_structure("S").to_pymatgen()
    assert ring.composition.formula == "S8"
    for site in ring:
        first, second = sorted(ring.get_neighbors(site, 2.5), key=lambda other: other.nn_distance)
        assert (first.nn_distance, second.nn_distance) == pytest.approx((2.055, 2.055), abs=1e-4)
        bonds = [other.coords - site.coords for other in (first, second)]
        cosine = bonds[0] @ bonds[1] / (first.nn_distance * second.nn_distance)
        assert np.degrees(np.arccos(cosine)) == pytest.approx(108.2, abs=0.01)


def test_cells_are_handed_over_right_handed_and_unmirrored() -> None:
    from pymatgen.core import Lattice, Structure

    lattice = Lattice([[0, 0, 3.0], [0.3, 4.0, 0], [5.0, 0.2, 0.1]])  # left-handed
    crystal = Structure(
        lattice, ["Li", "O", "F", "Mg", "Na"], [[0, 0, 0], [0.1, 0.2, 0.3], [0.5, 0.6, 0.1], [0.3, 0.9, 0.7], [0.8, 0.4, 0.6]]
    )
    assert lattice.matrix[0] @ np.cross(lattice.matrix[1], lattice.matrix[2]) < 0
    given = primitive(Promoted(id="x", structure=AtomicStructure.from_pymatgen(crystal)))
    a, b, c = given.lattice.matrix
    assert a @ np.cross(b, c) > 0
    assert np.allclose(np.sort(given.distance_matrix, axis=None), np.sort(crystal.distance_matrix, axis=None), atol=1e-4)
    ours, theirs = (_chirality(structure) for structure in (given, crystal))
    assert ours == pytest.approx(theirs, abs=1e-3)


def _chirality(structure: Any) -> float:
    """A signed volume that a mirror image has with the other sign."""
    by_name = {site.specie.symbol: site for site in structure}
    start = by_name["Li"]
    arms = []
    for symbol in ("O", "F", "Mg"):
        _, image = start.distance_and_image(by_name[symbol])
        arms.append(by_name[symbol].coords + structure.lattice.get_cartesian_coords(image) - start.coords)
    return float(np.linalg.det(np.array(arms)))
