"""SevenNet evaluated on many crystals at once: the same function as its own calculator's, written for small periodic cells.

Two rearrangements, both exact (tests compare with SevenNet's own ASE calculator):

- *Images share features.* A convolution sums, over the bonds e from atom i to the periodic images of atom j, the product of j's features,
  the harmonics Y(e) and the weights W h(e), where W is the last, linear layer of the radial network and h what that layer reads. Nothing
  but h and Y depends on the image, so the sum over images of h(e) Y(e) is taken first, and the costly product once per pair of atoms.
- *Coupling belongs to atoms.* Wigner's symbols are multiplied into the features of each atom, so that what is left of the product is, for
  every channel, one matrix (from all neighbours and harmonics into all atoms of a crystal) times another: a batched matrix product.

SevenNet: Park et al., J. Chem. Theory Comput. 20, 4857 (2024); its architecture is NequIP's (Batzner et al., Nat. Commun. 13, 2453
(2022)). Its features do not tell a vector from a pseudovector, so that an energy may change when the crystal is inverted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from oracles.m3gnet import neighbours
from oracles.symmetric_cell import SymmetricCell

Tensor = torch.Tensor
READOUT, SUMS = "reduce_input_to_hidden", "reduce_total_enegy"  # first layer after the convolutions, first after the atoms' energies
PAIRS_PER_GRAPH = 600  # pairs of atoms; larger graphs fall out of the cache
PAIR, PLACE, SHAPE = "pair", "place", "shape"


@dataclass(frozen=True)
class Path:
    """One product of features with harmonics of one degree.

    Attributes:
        feature, result: places among the blocks of features that go in and of those that come out.
        weight: ``(channels, hidden)``. coupling: Wigner's 3j symbols ``(2l + 1 of the feature, of the harmonic, of the result)``, scaled.
    """

    feature: int
    result: int
    weight: Tensor
    coupling: Tensor


@dataclass(frozen=True)
class AtomGraph:
    """The bonds of several crystals side by side.

    Attributes:
        bonds: ``(edges, 3)`` Cartesian vectors in Å from an atom to a neighbour, a leaf.
        ends: ``(2, edges)`` the atom and its neighbour.
        pair: ``(edges,)`` crystal, atom and neighbour as one number, with room for as many atoms as the largest crystal has.
        place: ``(atoms,)`` crystal and atom likewise. shape: ``(2,)`` crystals, atoms of the largest.
        numbers: ``(atoms,)`` atomic numbers. owner: ``(atoms,)`` crystal of each atom.
        connected: ``(crystals,)`` whether any atom has a neighbour in range.
    """

    bonds: Tensor
    ends: Tensor
    pair: Tensor
    place: Tensor
    shape: Tensor
    numbers: Tensor
    owner: Tensor
    connected: np.ndarray


def atom_graph(cells: Sequence[SymmetricCell], cutoff: float) -> AtomGraph:
    """All bonds within ``cutoff`` (Å) of crystals without symmetry."""
    size = max(len(cell.numbers) for cell in cells)
    bonds, ends, pairs, places, offset = [], [], [], [], 0
    for index, cell in enumerate(cells):
        atom, other, image = neighbours(cell, cutoff)
        bonds.append((cell.positions[other] + image - cell.positions[atom]) @ cell.lattice)
        ends.append(np.stack([atom, other]) + offset)
        pairs.append((index * size + atom) * size + other)
        places.append(index * size + np.arange(len(cell.numbers)))
        offset += len(cell.numbers)
    return AtomGraph(
        bonds=torch.from_numpy(np.concatenate(bonds)).float(),
        ends=torch.from_numpy(np.concatenate(ends, axis=1)),
        pair=torch.from_numpy(np.concatenate(pairs)),
        place=torch.from_numpy(np.concatenate(places)),
        shape=torch.tensor([len(cells), size]),
        numbers=torch.from_numpy(np.concatenate([cell.numbers for cell in cells])).long(),
        owner=torch.from_numpy(np.repeat(np.arange(len(cells)), [len(cell.numbers) for cell in cells])),
        connected=np.array([len(bond) > 0 for bond in bonds]),
    )


class PairConvolution(torch.nn.Module):
    """A convolution of SevenNet with the sum over periodic images taken before the tensor product."""

    def __init__(self, convolution: Any) -> None:
        """Take over the weights of a ``sevenn.nn.convolution.IrrepsConvolution``."""
        from e3nn.o3 import Irreps, wigner_3j

        super().__init__()
        made_of = convolution.convolution_kwargs
        features, harmonics, results = (Irreps(made_of[key]) for key in ("irreps_in1", "irreps_in2", "irreps_out"))
        *first, last = convolution.weight_nn.children()
        self.radial = torch.nn.Sequential(*first)
        weight = last.weight.detach() / (last.h_in * last.var_in / last.var_out) ** 0.5
        columns = np.cumsum([0] + [features[source].mul for source, *_ in made_of["instructions"]])
        self.denominator = convolution.denominator
        self.key_x, self.key_filter, self.key_embedding = convolution.key_x, convolution.key_filter, convolution.key_weight_input
        self.features = [(block, part.mul, part.ir.dim) for block, part in zip(features.slices(), features, strict=True)]
        self.results = len(results)
        self.products: list[tuple[slice, list[Path]]] = []
        for degree, block in enumerate(harmonics.slices()):
            paths = [
                Path(
                    feature=source,
                    result=result,
                    weight=weight[:, columns[number] : columns[number + 1]].t().contiguous(),
                    coupling=wigner_3j(features[source].ir.l, harmonics[degree].ir.l, results[result].ir.l) * results[result].ir.dim ** 0.5,
                )
                for number, (source, filtered, result, *_) in enumerate(made_of["instructions"])
                if filtered == degree
            ]
            self.products.append((block, paths))

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace each atom's features by what it hears from its neighbours."""
        radial, harmonics, pair, place = self.radial(data[self.key_embedding]), data[self.key_filter], data[PAIR], data[PLACE]
        crystals, size = (int(number) for number in data[SHAPE])
        told = []
        for block, channels, width in self.features:
            padded = data[self.key_x].new_zeros(crystals * size, channels * width).index_copy(0, place, data[self.key_x][:, block])
            told.append(padded.view(-1, channels, width).transpose(0, 1))  # (channels, crystals x atoms, 2l + 1)
        heard: list[Any] = [None] * self.results
        for block, paths in self.products:
            outer = harmonics[:, block, None] * radial[:, None, :]  # (edges, 2l + 1, hidden)
            summed = outer.new_zeros(crystals * size * size, *outer.shape[1:]).index_add(0, pair, outer).flatten(0, 1).t()
            for path in paths:
                channels = len(path.weight)
                filters = (path.weight @ summed).view(channels * crystals, size, -1)  # from every neighbour and harmonic into an atom
                coupled = (told[path.feature] @ path.coupling.flatten(1)).view(channels * crystals, -1, path.coupling.shape[2])
                into = torch.bmm(filters, coupled).view(channels, crystals * size, -1).transpose(0, 1)
                heard[path.result] = into.index_select(0, place).flatten(1)
        data[self.key_x] = torch.cat(heard, dim=1) / self.denominator
        return data


class SevenNetEvaluator:
    """Energies, forces and stresses of crystals without symmetry, from the weights of a SevenNet checkpoint."""

    def __init__(self, checkpoint: str) -> None:
        """Load the checkpoint (a path) of a model with one fidelity."""
        from sevenn.nn.convolution import IrrepsConvolution
        from sevenn.util import load_checkpoint

        model: Any = load_checkpoint(checkpoint).build_model()
        self.cutoff = float(model.cutoff)
        self.rows = {int(number): int(row) for number, row in model.type_map.items()}
        layers = {name: PairConvolution(layer) if isinstance(layer, IrrepsConvolution) else layer for name, layer in model.named_children()}
        names = list(layers)
        readout, sums = names.index(READOUT), names.index(SUMS)
        self.layers, self.readout = (
            torch.nn.ModuleList([layers[name] for name in part]) for part in (names[:readout], names[readout:sums])
        )
        for part in (self.layers, self.readout):
            part.eval().requires_grad_(False)

    def evaluate(self, cells: Sequence[SymmetricCell]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Energies ``(n,)`` eV per cell (NaN without a bond), forces ``(atoms, 3)`` eV/Å, stresses ``(n, 3, 3)`` eV/Å3."""
        energies, forces, stresses = np.empty(len(cells)), [np.empty(0)] * len(cells), np.empty((len(cells), 3, 3))
        for group in groups_of_similar_size(cells):
            chosen = [cells[index] for index in group]
            graph = atom_graph(chosen, self.cutoff)
            graph.bonds.requires_grad_()
            found = self._energies(graph)
            (pull,) = torch.autograd.grad(found.sum(), graph.bonds)
            energies[group] = _where_connected(found, graph)
            by_atom, virials = _forces_and_virials(graph, pull.double())
            for index, force, virial in zip(
                group, np.split(by_atom, np.cumsum([len(cell.numbers) for cell in chosen])[:-1]), virials, strict=True
            ):
                forces[index], stresses[index] = force, (virial + virial.T) / (2 * cells[index].volume)
        return energies, forces, stresses

    @torch.no_grad()
    def energies(self, cells: Sequence[SymmetricCell]) -> np.ndarray:
        """``(n,)`` eV per cell, without derivatives: two fifths of the cost."""
        energies = np.empty(len(cells))
        for group in groups_of_similar_size(cells):
            graph = atom_graph([cells[index] for index in group], self.cutoff)
            energies[group] = _where_connected(self._energies(graph), graph)
        return energies

    @torch.no_grad()
    def atom_features(self, cells: Sequence[SymmetricCell]) -> list[np.ndarray]:
        """``(atoms, 128)`` per crystal: the scalars after the last convolution."""
        import sevenn._keys as key

        features = [np.empty(0)] * len(cells)
        for group in groups_of_similar_size(cells):
            chosen = [cells[index] for index in group]
            nodes = self._nodes(atom_graph(chosen, self.cutoff))[key.NODE_FEATURE].double().numpy()
            for index, part in zip(group, np.split(nodes, np.cumsum([len(cell.numbers) for cell in chosen])[:-1]), strict=True):
                features[index] = part
        return features

    def _nodes(self, graph: AtomGraph) -> Any:
        import sevenn._keys as key

        data: Any = {
            key.EDGE_VEC: graph.bonds,
            key.EDGE_IDX: graph.ends,
            key.ATOMIC_NUMBERS: graph.numbers,
            key.NODE_FEATURE: torch.tensor([self.rows[int(number)] for number in graph.numbers]),
            PAIR: graph.pair,
            PLACE: graph.place,
            SHAPE: graph.shape,
        }
        for layer in self.layers:
            data = layer(data)
        return data

    def _energies(self, graph: AtomGraph) -> Tensor:
        """``(crystals,)`` eV, float64."""
        import sevenn._keys as key

        data = self._nodes(graph)
        for layer in self.readout:
            data = layer(data)
        return torch.zeros(len(graph.connected), dtype=torch.float64).index_add(0, graph.owner, data[key.ATOMIC_ENERGY][:, 0].double())


def groups_of_similar_size(cells: Sequence[SymmetricCell]) -> list[np.ndarray]:
    """Indices of the crystals that share a graph: all get room for the pairs of the largest, at most :data:`PAIRS_PER_GRAPH` together."""
    groups: list[list[int]] = []
    for index in np.argsort([len(cell.numbers) for cell in cells], kind="stable"):
        if groups and (len(groups[-1]) + 1) * len(cells[index].numbers) ** 2 <= PAIRS_PER_GRAPH:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return [np.array(group) for group in groups]


def _where_connected(energies: Tensor, graph: AtomGraph) -> np.ndarray:
    return np.where(graph.connected, energies.detach().numpy(), np.nan)


def _forces_and_virials(graph: AtomGraph, pull: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``(atoms, 3)`` eV/Å and ``(crystals, 3, 3)`` eV from the derivative of the energy by each bond."""
    forces = torch.zeros(len(graph.numbers), 3, dtype=torch.float64)
    forces = forces.index_add(0, graph.ends[0], pull).index_add(0, graph.ends[1], -pull)
    dyads = graph.bonds.detach().double()[:, :, None] * pull[:, None, :]
    virials = torch.zeros(len(graph.connected), 3, 3, dtype=torch.float64).index_add(0, graph.owner[graph.ends[0]], dyads)
    return forces.numpy(), virials.numpy()
