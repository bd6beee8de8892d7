from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from oracles.potentials import EnergiesForcesStresses, Potential, PotentialRecord
from oracles.relaxation import Walk, relax, relax_all
from oracles.self_test import reference_structure
from oracles.settings import RelaxationSettings
from oracles.symmetric_cell import SymmetricCell, stirred

SETTINGS = RelaxationSettings()


def alloy() -> Structure:
    """A layered Cu-Au arrangement far from rest, with free coordinates and a free shape."""
    species = ["Cu", "Au"]
    return Structure.from_spacegroup("P4/nmm", Lattice.tetragonal(4.1, 6.6), species, [[0, 0.5, 0.19], [0, 0.5, 0.66]])


def test_gradient_is_the_derivative_of_the_energy(emt):
    """Finite differences along every free coordinate, cell included."""
    for cell in (SymmetricCell.from_structure(alloy()), SymmetricCell.from_structure(alloy()).without_symmetry()):
        walk = Walk(0, cell, SETTINGS)
        found = emt.evaluate_cells([cell])
        walk.receive(float(found.energies[0]), found.forces[0], found.stresses[0])
        gradient = walk.gradient
        for coordinate in range(len(gradient)):
            energies = []
            for sign in (1, -1):
                step = np.zeros(len(gradient))
                step[coordinate] = sign * 1e-4
                energies.append(float(emt.evaluate_cells([walk.stepped(step)]).energies[0]))
            assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(gradient[coordinate], abs=2e-3)


def test_relaxes_to_where_ase_relaxes_to(emt):
    from ase.calculators.emt import EMT
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    cell = SymmetricCell.from_structure(alloy())
    found = relax_all([cell], emt, SETTINGS)[0]
    atoms = AseAtomsAdaptor.get_atoms(cell.to_structure())
    atoms.calc = EMT()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.005, steps=800)
    assert found.outcome == "converged"
    assert found.energy_per_atom == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=2e-3)
    structure = found.cell.to_structure()
    judged = emt.evaluate([structure])  # the whole crystal, not the asymmetric unit
    assert np.linalg.norm(judged.forces[0], axis=1).max() <= SETTINGS.fmax + 1e-9
    assert np.abs(judged.stresses[0]).max() * 160.21766 <= SETTINGS.max_stress + 1e-9


def test_the_gentle_way_is_that_of_fire_in_ase(emt):
    """A step of ASE's FIRE on the conventional cell from the primitive one, nearly its third (coordinates differ), and then the minimum."""
    from ase.calculators.emt import EMT
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from pymatgen.io.ase import AseAtomsAdaptor

    start = Structure.from_spacegroup("I4/mmm", Lattice.tetragonal(4.0, 6.4), ["Cu", "Au"], [[0, 0, 0.29], [0, 0, 0]])
    cell = SymmetricCell.from_structure(start)
    assert cell.number_of_atoms * 2 == len(start)
    for steps, close in ((1, 1e-6), (3, 0.01)):
        atoms = AseAtomsAdaptor.get_atoms(start)
        atoms.calc = EMT()
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=steps)
        found = relax_all([cell], emt, RelaxationSettings(max_steps=steps + 1, fmax=1e-4), gentle_steps=40)[0]
        assert found.energy_per_atom == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=close)
        assert found.cell.volume * 2 == pytest.approx(atoms.get_volume(), rel=close)
    gentle = relax_all([cell], emt, RelaxationSettings(fmax=0.005, max_stress=0.02), gentle_steps=15)[0]
    quick = relax_all([cell], emt, RelaxationSettings(fmax=0.005, max_stress=0.02))[0]
    assert gentle.outcome == quick.outcome == "converged"
    assert gentle.energy_per_atom == pytest.approx(quick.energy_per_atom, abs=1e-3)


def test_a_crystal_does_not_notice_its_neighbours(emt):
    cells = [SymmetricCell.from_structure(reference_structure("Al", 4.4)), SymmetricCell.from_structure(alloy())]
    cells += [SymmetricCell.from_structure(reference_structure("Cu", 3.3))]
    together = relax_all(cells, emt, SETTINGS)
    streamed = sorted(relax(iter(cells), emt, RelaxationSettings(batch_atoms=1)), key=lambda one: one.index)
    for one, other in zip(together, streamed, strict=True):
        assert one.energy == other.energy
        assert one.evaluations == other.evaluations
    assert [one.outcome for one in together] == ["converged"] * 3


def test_fixed_cells_keep_their_lattice(emt):
    cell = SymmetricCell.from_structure(alloy(), fixed_cell=True)
    found = relax_all([cell], emt, SETTINGS)[0]
    assert found.outcome == "converged"
    assert np.array_equal(found.cell.lattice, cell.lattice)
    assert not np.allclose(found.cell.positions, cell.positions)


def test_symmetry_is_kept_or_freed(emt):
    """Copper in a bcc arrangement sits on a saddle: kept it stays, freed it falls to a close-packed one."""
    bcc = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.9), ["Cu"], [[0, 0, 0]])
    kept = relax_all([SymmetricCell.from_structure(bcc)], emt, SETTINGS)[0]
    assert len(kept.cell.point_group) == 48
    doubled = SymmetricCell.from_structure(kept.cell.to_structure() * (2, 2, 2), symprec=None)
    start = kept.cell if doubled is None else doubled
    settled = relax_all([start], emt, SETTINGS)[0]
    freed = relax_all([stirred(settled.cell, np.random.default_rng(0), 0.05)], emt, SETTINGS)[0]
    assert freed.energy_per_atom < kept.energy_per_atom - 0.005


class Rigged(Potential):
    """A potential that says what a test wants."""

    def __init__(self, say):
        super().__init__(PotentialRecord(name="rigged", source="", sha256="", level_of_theory="rigged", reason=""), None)
        self.say = say

    def evaluate(self, structures):
        parts = [self.say(structure) for structure in structures]
        energies, forces, stresses = zip(*parts, strict=True)
        return EnergiesForcesStresses(np.array(energies), list(forces), np.array(stresses))


def _still(structure):
    return np.zeros((len(structure), 3)), np.zeros((3, 3))


def test_guards():
    cell = SymmetricCell.from_structure(reference_structure("Cu"))

    def outcome(say):
        found = relax_all([cell], Rigged(say), SETTINGS)[0]
        return found.outcome, found.reason

    assert outcome(lambda s: (-1.0, *_still(s)))[0] == "converged"
    assert outcome(lambda s: (np.nan, *_still(s))) == (
        "unphysical",
        "the potential gives no finite energy: no atom has a neighbour in range, or atoms overlap",
    )
    assert "energy -50.00 eV/atom outside" in outcome(lambda s: (-50.0, *_still(s)))[1]
    free = SymmetricCell.from_structure(alloy()).without_symmetry()
    pushed = relax_all([free], Rigged(lambda s: (0.0, np.full((len(s), 3), 4000.0), np.zeros((3, 3)))), SETTINGS)[0]
    assert pushed.outcome == "unphysical"
    assert "starting force" in pushed.reason
    swelling = outcome(lambda s: (-s.volume * 0.05, np.zeros((len(s), 3)), -0.05 * np.eye(3)))
    assert swelling[0] == "unphysical"
    assert "volume went to" in swelling[1]


def test_not_converged_is_said_so(emt):
    found = relax_all([SymmetricCell.from_structure(alloy())], emt, RelaxationSettings(max_steps=3))[0]
    assert (found.outcome, found.evaluations) == ("not converged", 3)
    assert "after 3 steps force" in found.reason
    assert not np.allclose(found.cell.lattice, SymmetricCell.from_structure(alloy()).lattice)  # the last state is kept


def test_a_walk_that_will_not_get_below_its_rival_is_given_up(emt):
    """Against a rival far below it ends early; against one above, or one that it will pass, it ends where it would have ended."""
    cells = [SymmetricCell.from_structure(alloy()).without_symmetry()] * 4
    strict = RelaxationSettings(fmax=1e-3, max_stress=1e-3)
    alone = relax_all(cells[:1], emt, strict)[0]
    assert alone.outcome == "converged"
    assert alone.evaluations > 21
    lowest = alone.energy_per_atom
    beaten, close, behind, free = relax_all(cells, emt, strict, rivals=[lowest - 1.0, lowest - 0.004, lowest + 0.1, np.inf])
    assert beaten.outcome == "not converged"
    assert "given up after 20 steps" in beaten.reason
    assert [one.energy for one in (close, behind, free)] == [alone.energy] * 3


def test_a_minimum_in_a_kink_is_found_and_named():
    """Energy |V - 12| per volume: the pressure jumps from -1 to 1 at the minimum and vanishes nowhere, nor where V is 12 to the bit."""

    def say(structure):
        difference = structure.volume - 12.0
        return 0.02 * abs(difference), np.zeros((len(structure), 3)), 0.02 * (1 if difference >= 0 else -1) * np.eye(3)

    cell = SymmetricCell.from_structure(reference_structure("Cu"))
    found = relax_all([cell], Rigged(say), RelaxationSettings(kink=0.002))[0]
    assert found.outcome == "converged"
    assert "kink" in found.reason
    assert found.cell.volume == pytest.approx(12.0, abs=0.05)
    assert relax_all([cell], Rigged(say), RelaxationSettings())[0].outcome == "not converged"


@pytest.mark.models
@pytest.mark.parametrize(("name", "published"), [("MgO", 4.2613), ("NaCl", 5.6913), ("GaAs", 5.75044), ("SrTiO3", 3.945)])
def test_published_lattice_constants_of_m3gnet(m3gnet, name, published):
    start = reference_structure(name, published * 1.03)
    found = relax_all([SymmetricCell.from_structure(start)], m3gnet, RelaxationSettings(max_stress=0.02))[0]
    primitive_to_cubic = {"MgO": 4, "NaCl": 4, "GaAs": 4, "SrTiO3": 1}[name]
    assert found.outcome == "converged"
    assert (found.cell.volume * primitive_to_cubic) ** (1 / 3) == pytest.approx(published, abs=0.005)
