"""The potentials themselves: matgl models, CHGNet, and any ASE calculator, behind one batched interface."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from oracles.aggregation import set_aggregation
from oracles.potentials import EnergiesForcesStresses, Potential, PotentialRecord

if TYPE_CHECKING:
    from pymatgen.core import Structure

ATOMS_PER_GRAPH = 512  # bounds the memory of one batched graph to a few hundred MB
GPA = 160.21766208  # GPa in one eV/Å3


class MatglPotential(Potential):
    """A matgl potential (M3GNet, TensorNet, ...) evaluated on batched graphs."""

    def __init__(self, record: PotentialRecord) -> None:
        """Load the weights and put the record's aggregation convention in place."""
        import matgl

        self.model: Any = matgl.load_model(record.source)
        self.model.eval()
        if record.aggregation is not None:
            set_aggregation(self.model, record.aggregation)
        super().__init__(record, frozenset(self.model.model.element_types))

    def evaluate(self, structures: Sequence[Structure]) -> EnergiesForcesStresses:
        """See :meth:`Potential.evaluate`."""
        self.check_elements(structures)
        energies, forces, stresses = [], [], []
        for chunk in chunks(structures):
            batch, lattices, connected = self._graphs(chunk)
            energy, force, stress, *_ = self.model(batch, lattices)
            energies.append(np.where(connected, energy.detach().double().numpy().reshape(-1), np.nan))
            forces += np.split(force.detach().double().numpy(), np.cumsum([len(structure) for structure in chunk])[:-1])
            stresses.append(stress.detach().double().numpy().reshape(-1, 3, 3) / GPA)
        return EnergiesForcesStresses(np.concatenate(energies), forces, np.concatenate(stresses))

    def atom_features(self, structures: Sequence[Structure]) -> list[np.ndarray]:
        """The node features after the last graph convolution; ``(atoms, 64)`` for M3GNet."""
        self.check_elements(structures)
        network = self.model.model
        if not hasattr(network, "n_blocks"):
            return super().atom_features(structures)
        features = []
        for chunk in chunks(structures):
            batch, lattices, _ = self._graphs(chunk)
            self.model(batch, lattices)
            nodes = network.feature_dict[f"gc_{network.n_blocks}"]["node_feat"].detach().double().numpy()
            features += np.split(nodes, np.cumsum([len(structure) for structure in chunk])[:-1])
        return features

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


def chunks(structures: Sequence[Structure], atoms: int = ATOMS_PER_GRAPH) -> Iterator[list[Structure]]:
    """Runs of structures of at most ``atoms`` atoms together (at least one structure each)."""
    chunk: list[Structure] = []
    for structure in structures:
        if chunk and sum(len(one) for one in chunk) + len(structure) > atoms:
            yield chunk
            chunk = []
        chunk.append(structure)
    if chunk:
        yield chunk
