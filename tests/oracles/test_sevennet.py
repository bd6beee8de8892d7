from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles.potentials import SEVENNET_MODELS, PotentialNotFound, PotentialRefused, UnknownElement, load, resolve
from oracles.self_test import examine, reference_structure, references
from oracles.symmetric_cell import SymmetricCell

installed = pytest.mark.skipif(
    importlib.util.find_spec("sevenn") is None, reason="sevenn is not installed (pip install 'al-crystal[sevennet]')"
)


@pytest.fixture(scope="module", params=sorted(SEVENNET_MODELS))
def sevennet(request):
    return load(resolve(request.param))


def scattered(elements, atoms, seed):
    """A triclinic cell with atoms at random places no closer than 1.7 Å, and 16 Å3 for each."""
    generator = np.random.default_rng(seed)
    edge = (16.0 * atoms) ** (1 / 3)
    lattice = Lattice.from_parameters(edge, 0.9 * edge, 1.2 * edge, 84, 97, 103)
    places: list[np.ndarray] = []
    while len(places) < atoms:
        place = generator.random(3)
        if not places or lattice.get_all_distances([place], places).min() > 1.7:
            places.append(place)
    return Structure(lattice, generator.choice(elements, atoms), places)


CRYSTALS = [
    reference_structure("SrTiO3"),
    scattered(["Li", "Fe", "O"], 13, 1),
    reference_structure("Cu"),
    scattered(["Na", "Cl"], 5, 2),
    scattered(["Ga", "As", "La"], 30, 3),
]


def test_where_it_is_not_installed_the_error_says_how(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PotentialNotFound, match=r"pip install 'al-crystal\[sevennet\]'"):
        resolve("SevenNet-0")


@installed
def test_the_same_as_its_own_calculator(sevennet):
    from pymatgen.io.ase import AseAtomsAdaptor
    from sevenn.calculator import SevenNetCalculator

    with pytest.warns(UserWarning, match="accelerator"):
        calculator = SevenNetCalculator(sevennet.record.source, device="cpu")
    found = sevennet.evaluate(CRYSTALS)
    for number, crystal in enumerate(CRYSTALS):
        atoms = AseAtomsAdaptor.get_atoms(crystal)
        atoms.calc = calculator
        assert found.energies_per_atom[number] == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=5e-6)
        largest = np.abs(atoms.get_forces()).max()
        assert np.allclose(found.forces[number], atoms.get_forces(), atol=5e-6 * max(1.0, largest))
        assert np.allclose(found.stresses[number], atoms.get_stress(voigt=False), atol=1e-6 * max(1.0, largest))


@installed
def test_a_crystal_does_not_see_the_others_of_its_batch(sevennet):
    together = sevennet.evaluate(CRYSTALS)
    for number, crystal in enumerate(CRYSTALS):
        alone = sevennet.evaluate([crystal])
        assert together.energies[number] == pytest.approx(alone.energies[0], abs=1e-5 * len(crystal))
        assert np.allclose(together.forces[number], alone.forces[0], atol=1e-4)


@installed
def test_symmetric_cells_carry_the_symmetric_part(sevennet):
    structure = Structure.from_spacegroup("P4/nmm", Lattice.tetragonal(4.4, 6.1), ["Cu", "Au"], [[0, 0.5, 0.17], [0, 0.5, 0.67]])
    cell = SymmetricCell.from_structure(structure)
    whole, symmetric = sevennet.evaluate([cell.to_structure()]), sevennet.evaluate_cells([cell])
    assert symmetric.energies == pytest.approx(whole.energies, abs=1e-5)
    assert symmetric.forces[0].shape == (2, 3)
    assert np.allclose(symmetric.forces[0], cell.on_representatives(whole.forces[0]), atol=1e-4)
    assert np.allclose(symmetric.stresses[0], cell.symmetric_stress(whole.stresses[0]), atol=1e-6)
    assert sevennet.evaluate_cells([cell], derivatives=False).energies == pytest.approx(whole.energies, abs=1e-5)


@installed
def test_atoms_out_of_range_have_no_energy(sevennet):
    lonely = Structure(Lattice.cubic(12), ["Ar"], [[0, 0, 0]])
    assert np.isnan(sevennet.evaluate([lonely]).energies).all()
    found = sevennet.evaluate([lonely, CRYSTALS[0]])
    assert np.isnan(found.energies[0])
    assert found.energies[1] == pytest.approx(sevennet.evaluate([CRYSTALS[0]]).energies[0], abs=1e-5)


@installed
def test_features_do_not_turn_with_the_crystal(sevennet):
    from pymatgen.core.operations import SymmOp

    crystal = CRYSTALS[3]
    turned = crystal.copy()
    turned.apply_operation(SymmOp.from_axis_angle_and_translation([1, 2, 3], 71))
    straight, rotated = sevennet.atom_features([crystal, turned])
    assert straight.shape == (5, 128)
    assert np.abs(straight).max() > 0.1
    assert np.allclose(straight, rotated, atol=2e-4)


@installed
def test_the_self_test_knows_its_golden_values(sevennet):
    assert sevennet.level_of_theory in references()["golden_energy_per_atom"]
    assert examine(sevennet) == []
    with pytest.raises(UnknownElement, match="does not know Rn"):
        sevennet.evaluate([Structure(Lattice.cubic(5), ["Rn"], [[0, 0, 0]])])


@installed
def test_what_is_not_its_weights_is_refused(tmp_path):
    broken = tmp_path / "checkpoint.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(PotentialRefused, match="cannot be loaded"):
        load(resolve("SevenNet-0").model_copy(update={"source": str(broken)}))
