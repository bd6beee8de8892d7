"""The potentials themselves: matgl models, CHGNet, SevenNet, and any ASE calculator, behind one batched interface."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from oracles.aggregation import Aggregation, set_aggregation
from oracles.potentials import EnergiesForcesStresses, Potential, PotentialRecord
from oracles.symmetric_cell import SymmetricCell

if TYPE_CHECKING:
    from pymatgen.core import Structure

ATOMS_PER_GRAPH = 96  # larger graphs fall out of the cache and are slower per atom
GPA = 160.21766208  # GPa in one eV/Å3


class MatglPotential(Potential):
    """A matgl potential: M3GNet through :mod:`oracles.m3gnet`, any other architecture through matgl's own forward pass."""

    def __init__(self, record: PotentialRecord) -> None:
        """Load the weights and put the record's aggregation convention in place."""
        import matgl

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, on which the self-test has the last word
            self.model: Any = matgl.load_model(record.source)
        self.model.eval()
        super().__init__(record, frozenset(self.model.model.element_types))
        self.use_aggregation(record.aggregation or "source")

    def use_aggregation(self, aggregation: Aggregation) -> None:
        """Sum the messages into this atom of each edge from now on."""
        from oracles.m3gnet import M3GNetEvaluator

        set_aggregation(self.model, aggregation)
        self.record = self.record.model_copy(update={"aggregation": aggregation})
        self.evaluator = M3GNetEvaluator(self.model, aggregation) if M3GNetEvaluator.supports(self.model.model) else None

    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate`."""
        self.check_elements(structures)
        if self.evaluator is not None:
            return self._evaluate_cells([_as_it_is(structure) for structure in structures])
        parts = [self.evaluate_with_matgl(chunk) for chunk in chunks(structures)]
        return _joined(parts)

    def evaluate_cells(self, cells: Sequence[SymmetricCell], derivatives: bool = True) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate_cells`; for M3GNet only representative atoms are computed."""
        if self.evaluator is None:
            return super().evaluate_cells(cells, derivatives)
        if derivatives:
            return self._evaluate_cells(cells)
        return _energies_alone(np.concatenate([self.evaluator.energies(chunk) for chunk in chunks(cells)]), cells)

    def _evaluate_cells(self, cells: Sequence[SymmetricCell]) -> EnergiesForcesStresses:
        assert self.evaluator is not None
        return _joined([EnergiesForcesStresses(*self.evaluator.evaluate(chunk)) for chunk in chunks(cells)])

    def evaluate_with_matgl(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """One batched graph through matgl's own forward pass: the reference for :mod:`oracles.m3gnet`."""
        batch, lattices, connected = self._graphs(structures)
        energy, force, stress, *_ = self.model(batch, lattices)
        return EnergiesForcesStresses(
            np.where(connected, energy.detach().double().numpy().reshape(-1), np.nan),
            np.split(force.detach().double().numpy(), np.cumsum([len(structure) for structure in structures])[:-1]),
            stress.detach().double().numpy().reshape(-1, 3, 3) / GPA,
        )

    def atom_features(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """The node features after the last graph convolution; ``(atoms, 64)`` for M3GNet."""
        self.check_elements(structures)
        if self.evaluator is None:
            return super().atom_features(structures)
        cells = [_as_it_is(structure) for structure in structures]
        return [features for chunk in chunks(cells) for features in self.evaluator.atom_features(chunk)]

    def _graphs(self, structures: Sequence[Structure]) -> tuple[Any, Any, np.ndarray]:
        import torch
        from matgl.ext.pymatgen import Structure2Graph
        from torch_geometric.data import Batch

        converter = Structure2Graph(self.model.model.element_types, self.model.model.cutoff)
        graphs, lattices = zip(*[converter.get_graph(structure)[:2] for structure in structures], strict=True)
        return Batch.from_data_list(list(graphs)), torch.cat(lattices), np.array([graph.num_edges > 0 for graph in graphs])


class ChgnetPotential(Potential):
    """CHGNet with the weights in its wheel; energies carry the Materials Project's corrections."""

    def __init__(self, record: PotentialRecord) -> None:
        """Load the weights."""
        from chgnet.model import CHGNet

        from al_crystal.crystal import ELEMENTS
        from oracles.potentials import CHGNET_VERSION

        with contextlib.redirect_stdout(io.StringIO()):  # it prints its version
            self.model: Any = CHGNet.load(model_name=CHGNET_VERSION, use_device="cpu", verbose=False)
        self.model.graph_converter.set_isolated_atom_response("ignore")  # guards judge such structures, not the converter
        super().__init__(record, frozenset(ELEMENTS[:94]))

    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate`."""
        self.check_elements(structures)
        results = self._predict(structures, task="efs")
        return EnergiesForcesStresses(
            np.array([float(result["e"]) * len(structure) for result, structure in zip(results, structures, strict=True)]),
            [np.asarray(result["f"], dtype=float) for result in results],
            np.array([np.asarray(result["s"], dtype=float) / GPA for result in results]),
        )

    def atom_features(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """The atom features before the last convolution, ``(atoms, 64)``."""
        self.check_elements(structures)
        return [np.asarray(result["atom_fea"], dtype=float) for result in self._predict(structures, task="e", return_atom_feas=True)]

    def _predict(self, structures: Sequence[Structure], task: str, return_atom_feas: bool = False) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        for chunk in chunks(structures):
            graphs = [self.model.graph_converter(structure) for structure in chunk]
            found = self.model.predict_graph(graphs, task=task, return_atom_feas=return_atom_feas, batch_size=len(graphs))
            results += found if isinstance(found, list) else [found]
        return results


class SevenNetPotential(Potential):
    """SevenNet with the weights in its wheel, through :mod:`oracles.sevennet`."""

    def __init__(self, record: PotentialRecord) -> None:
        """Load the weights."""
        from al_crystal.crystal import ELEMENTS
        from oracles.sevennet import SevenNetEvaluator

        self.evaluator = SevenNetEvaluator(record.source)
        super().__init__(record, frozenset(ELEMENTS[number - 1] for number in self.evaluator.rows))

    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate`."""
        self.check_elements(structures)
        return EnergiesForcesStresses(*self.evaluator.evaluate([_as_it_is(structure) for structure in structures]))

    def evaluate_cells(self, cells: Sequence[SymmetricCell], derivatives: bool = True) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate_cells`; all atoms are computed."""
        free = [cell.without_symmetry() for cell in cells]
        if derivatives:
            return EnergiesForcesStresses(*self.evaluator.evaluate(free)).symmetrised(cells)
        return _energies_alone(self.evaluator.energies(free), cells)

    def atom_features(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """The scalars of each atom after the last convolution, ``(atoms, 128)``."""
        self.check_elements(structures)
        return self.evaluator.atom_features([_as_it_is(structure) for structure in structures])


class AsePotential(Potential):
    """Any ASE calculator, one structure at a time."""

    def __init__(self, record: PotentialRecord) -> None:
        """Import ``module:callable`` and call it."""
        module, _, attribute = record.name.partition(":")
        self.calculator: Any = getattr(importlib.import_module(module), attribute)()
        super().__init__(record, None)

    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate`; elements that the calculator does not know raise what it raises."""
        from pymatgen.io.ase import AseAtomsAdaptor

        energies, forces, stresses = [], [], []
        for structure in structures:
            atoms = AseAtomsAdaptor.get_atoms(structure)
            atoms.calc = self.calculator
            energies.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
            stresses.append(atoms.get_stress(voigt=False))
        return EnergiesForcesStresses(np.array(energies), forces, np.array(stresses))


def _as_it_is(structure: Structure) -> SymmetricCell:
    return SymmetricCell.from_structure(structure, symprec=None)


def _energies_alone(energies: np.ndarray, cells: Sequence[SymmetricCell]) -> EnergiesForcesStresses:
    return EnergiesForcesStresses(energies, [np.zeros((len(cell.numbers), 3)) for cell in cells], np.zeros((len(cells), 3, 3)))


def _joined(parts: Sequence[EnergiesForcesStresses]) -> EnergiesForcesStresses:
    return EnergiesForcesStresses(
        np.concatenate([part.energies for part in parts]),
        [force for part in parts for force in part.forces],
        np.concatenate([part.stresses for part in parts]),
    )


Many = TypeVar("Many", "Structure", SymmetricCell)


def chunks(many: Sequence[Many], atoms: int = ATOMS_PER_GRAPH) -> Iterator[list[Many]]:
    """Runs of structures (or cells) whose computed atoms number at most ``atoms`` together; at least one each."""
    chunk: list[Many] = []
    total = 0
    for one in many:
        size = len(one.numbers) if isinstance(one, SymmetricCell) else len(one)
        if chunk and total + size > atoms:
            yield chunk
            chunk, total = [], 0
        chunk.append(one)
        total += size
    if chunk:
        yield chunk
