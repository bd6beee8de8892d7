"""M3GNet evaluated on asymmetric units: the same function as matgl's, written for speed.

Three identities, all exact (tests compare with matgl's own forward pass):

- *Quotient graph.* Features are invariant, so symmetry-equivalent atoms have equal ones; only edges that start at representative
  atoms are computed. A sum over the edges that *end* in an atom of orbit J equals the sum over computed edges from orbits I to J,
  each weighted by multiplicity(I) / multiplicity(J).
- *Addition theorem.* The three-body term sums P_l(cos angle) over pairs of bonds; with P_l(cos) = sum_m Y_lm(u) Y_lm(v) it becomes
  moments of each atom's bonds, so no pair of bonds is ever listed.
- *Split first layer.* A linear layer on [atom i, atom j, bond] is a sum of three layers, of which two are evaluated per atom.

M3GNet: C. Chen and S. P. Ong, Nature Computational Science 2, 718 (2022), equations 2 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any

import numpy as np
import torch

from oracles.symmetric_cell import SymmetricCell

Tensor = torch.Tensor


@dataclass(frozen=True)
class QuotientGraph:
    """Edges that start at representative atoms, of several crystals side by side.

    Attributes:
        bonds: ``(edges, 3)`` Cartesian vectors in Å, connected to ``positions`` and ``strain`` for derivatives.
        source, destination: ``(edges,)`` representative indices; sources ascend.
        multiplicities: ``(orbits,)`` atoms each representative stands for.
        kind: ``(orbits,)`` row of the element embedding.
        owner: ``(orbits,)`` crystal of each representative.
        positions: ``(orbits, 3)`` fractional, leaf. strain: ``(crystals, 3, 3)``, leaf.
        connected: ``(crystals,)`` whether any atom has a neighbour in range.
    """

    bonds: Tensor
    source: Tensor
    destination: Tensor
    multiplicities: Tensor
    kind: Tensor
    owner: Tensor
    positions: Tensor
    strain: Tensor
    connected: np.ndarray


def quotient_graph(cells: Sequence[SymmetricCell], kinds: dict[int, int], cutoff: float) -> QuotientGraph:
    """The edges of all crystals within ``cutoff`` (Å); ``kinds`` maps atomic numbers to rows of the element embedding."""
    sources, destinations, images, rotations, translations, owners, counts = [], [], [], [], [], [], []
    offset = 0
    for cell in cells:
        source, atom, image = neighbours(cell, cutoff)
        sources.append(source + offset)
        destinations.append(cell.orbit[atom] + offset)
        rotations.append(cell.rotations[atom])
        translations.append(cell.translations[atom] + image)
        counts.append(len(source))
        owners.append(len(cell.numbers))
        offset += len(cell.numbers)
        images.append(cell.lattice)
    crystals = np.arange(len(cells))
    owner = torch.from_numpy(np.repeat(crystals, owners))
    edge_owner = torch.from_numpy(np.repeat(crystals, counts))
    positions = torch.from_numpy(np.concatenate([cell.positions for cell in cells])).requires_grad_()
    strain = torch.zeros(len(cells), 3, 3, dtype=torch.float64, requires_grad=True)
    lattices = torch.from_numpy(np.stack(images)) @ (torch.eye(3, dtype=torch.float64) + strain)
    source_index = torch.from_numpy(np.concatenate(sources))
    destination_index = torch.from_numpy(np.concatenate(destinations))
    ends = torch.from_numpy(np.concatenate(rotations)) @ positions.index_select(0, destination_index)[:, :, None]
    fractional = ends[:, :, 0] + torch.from_numpy(np.concatenate(translations)) - positions.index_select(0, source_index)
    return QuotientGraph(
        bonds=(fractional[:, None, :] @ lattices.index_select(0, edge_owner))[:, 0].float(),
        source=source_index,
        destination=destination_index,
        multiplicities=torch.from_numpy(np.concatenate([cell.multiplicities for cell in cells])).float(),
        kind=torch.tensor([kinds[int(number)] for cell in cells for number in cell.numbers]),
        owner=owner,
        positions=positions,
        strain=strain,
        connected=np.array(counts) > 0,
    )


def neighbours(cell: SymmetricCell, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs within ``cutoff`` of a representative: ``(edges,)`` representative, ``(edges,)`` atom, ``(edges, 3)`` lattice translation."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    atoms = cell.atom_positions
    wrapping = np.floor(atoms)
    own_wrapping = np.floor(cell.positions)
    source, atom, image, distance = find_points_in_spheres(
        np.ascontiguousarray((atoms - wrapping) @ cell.lattice),
        np.ascontiguousarray((cell.positions - own_wrapping) @ cell.lattice),
        r=cutoff,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(cell.lattice),
        tol=1e-8,
    )
    keep = distance > 1e-8
    source, atom, image = source[keep], atom[keep], image[keep]
    order = np.argsort(source, kind="stable")
    source, atom = source[order], atom[order]
    return source, atom, image[order] - wrapping[atom] + own_wrapping[source]


class GatedLayers:
    """A gated network of matgl with both branches side by side in one matrix product per layer."""

    def __init__(self, network: Any, split: tuple[int, ...] = ()) -> None:
        """``split`` gives the widths of the parts that the input is the concatenation of."""
        branches = [[layer for layer in branch if isinstance(layer, torch.nn.Linear)] for branch in (network.layers, network.gates)]
        first = torch.cat([branch[0].weight for branch in branches]).detach()  # (2 x width, inputs)
        self.first = [part.t().contiguous() for part in first.split(split or (first.shape[1],), dim=1)]
        self.bias = torch.cat([branch[0].bias for branch in branches]).detach() if branches[0][0].bias is not None else None
        self.later = [[(layer.weight.detach(), layer.bias.detach()) for layer in branch[1:]] for branch in branches]
        self.activate_last = network.activate_last

    def after_first(self, hidden: Tensor) -> Tensor:
        """The network's output, given the sum of the first layer's parts (bias not yet added)."""
        if self.bias is not None:
            hidden = hidden + self.bias
        value, gate = hidden.chunk(2, dim=1)
        silu = torch.nn.functional.silu
        for weight, bias in self.later[0]:
            value = torch.nn.functional.linear(silu(value), weight, bias)
        for weight, bias in self.later[1]:
            gate = torch.nn.functional.linear(silu(gate), weight, bias)
        return (silu(value) if self.activate_last else value) * torch.sigmoid(gate)

    def __call__(self, *parts: Tensor) -> Tensor:
        """The network of the concatenation of ``parts``."""
        hidden = parts[0] @ self.first[0]
        for part, weight in zip(parts[1:], self.first[1:], strict=True):
            hidden = hidden + part @ weight
        return self.after_first(hidden)


class M3GNetEvaluator:
    """Energies, forces and stresses of symmetric cells from the weights of a matgl M3GNet potential."""

    def __init__(self, potential: Any, aggregation: str) -> None:
        """``potential`` is a loaded ``matgl.apps.pes.Potential`` around an M3GNet that :func:`supports` accepts."""
        from al_crystal.crystal import ATOMIC_NUMBER

        network = potential.model
        self.destination_sum = aggregation == "destination"
        self.kinds = {ATOMIC_NUMBER[symbol]: row for row, symbol in enumerate(network.element_types)}
        self.cutoff, self.three_body_cutoff = float(network.cutoff), float(network.threebody_cutoff)
        self.radial = network.bond_expansion.rbf
        self.embedding = network.embedding
        width = network.embedding.dim_node_embedding
        split = (width, width, network.embedding.dim_edge_embedding)
        self.blocks = []
        for three_body, layer in zip(network.three_body_interactions, network.graph_layers, strict=True):
            convolution = layer.conv
            self.blocks.append(
                (
                    three_body.update_network_atom,
                    GatedLayers(three_body.update_network_bond),
                    GatedLayers(convolution.edge_update_func, split),
                    convolution.edge_weight_func.weight.detach().t().contiguous(),
                    GatedLayers(convolution.node_update_func, split),
                    convolution.node_weight_func.weight.detach().t().contiguous(),
                )
            )
        self.readout = GatedLayers(network.final_layer.gated)
        self.scale, self.shift = potential.data_std.detach(), potential.data_mean.detach()
        self.references = potential.element_refs.property_offset.detach().double() if potential.element_refs is not None else None
        for parameter in potential.parameters():
            parameter.requires_grad_(False)

    @staticmethod
    def supports(network: Any) -> bool:
        """Whether a matgl network is the kind of M3GNet written out here."""
        return (
            type(network).__name__ == "M3GNet"
            and not (network.include_state or network.is_intensive)
            and (network.max_n, network.max_l) == (3, 3)
            and not network.basis_expansion.use_phi
            and not network.basis_expansion.use_smooth
            and type(network.bond_expansion.rbf).__name__ == "SphericalBesselFunction"
        )

    def evaluate(self, cells: Sequence[SymmetricCell]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Energies ``(n,)`` eV per cell, forces on the representatives ``(orbits, 3)`` eV/Å, stresses ``(n, 3, 3)`` eV/Å3."""
        graph = quotient_graph(cells, self.kinds, self.cutoff)
        energies = self._energies(graph)
        by_position, by_strain = torch.autograd.grad(energies.sum(), [graph.positions, graph.strain])
        gradients = np.split(by_position.numpy(), np.cumsum([len(cell.numbers) for cell in cells])[:-1])
        forces, stresses = [], np.empty((len(cells), 3, 3))
        for index, (cell, gradient) in enumerate(zip(cells, gradients, strict=True)):
            cartesian = -gradient @ np.linalg.inv(cell.lattice).T / cell.multiplicities[:, None]
            forces.append(cell.symmetric_forces(cartesian))
            stresses[index] = cell.symmetric_stress(by_strain[index].numpy() / cell.volume)
        return np.where(graph.connected, energies.detach().numpy(), np.nan), forces, stresses

    def energies(self, cells: Sequence[SymmetricCell]) -> np.ndarray:
        """``(n,)`` eV per cell, without derivatives: about a third of the cost."""
        with torch.no_grad():
            graph = quotient_graph(cells, self.kinds, self.cutoff)
            return np.where(graph.connected, self._energies(graph).numpy(), np.nan)

    def atom_features(self, cells: Sequence[SymmetricCell]) -> list[np.ndarray]:
        """``(atoms, 64)`` per crystal: node features after the last convolution, in the order of the cells' atoms."""
        with torch.no_grad():
            nodes = self._nodes(quotient_graph(cells, self.kinds, self.cutoff)).double().numpy()
        parts = np.split(nodes, np.cumsum([len(cell.numbers) for cell in cells])[:-1])
        return [part[cell.orbit] for cell, part in zip(cells, parts, strict=True)]

    def _energies(self, graph: QuotientGraph) -> Tensor:
        atomic = self.readout(self._nodes(graph))[:, 0] * graph.multiplicities
        total = torch.zeros(len(graph.strain), dtype=torch.float64).index_add(0, graph.owner, atomic.double() * self.scale)
        if self.references is not None:
            offsets = self.references[graph.kind] * graph.multiplicities
            total = total.index_add(0, graph.owner, offsets)
        return total + self.shift

    def _nodes(self, graph: QuotientGraph) -> Tensor:
        """``(orbits, 64)`` node features after the last convolution."""
        source, destination = graph.source, graph.destination
        distance = graph.bonds.norm(dim=1)
        radial = self.radial(distance)  # (edges, 9), by l then n: both the two-body basis and the radial part of the three-body one
        angular = _harmonics(graph.bonds / distance[:, None])
        envelope = _envelope(distance, self.three_body_cutoff)[:, None]
        weighted_radial = radial * envelope
        into = destination if self.destination_sum else source
        share = (graph.multiplicities[source] / graph.multiplicities[destination])[:, None] if self.destination_sum else 1.0
        nodes, edges, _ = self.embedding(graph.kind, radial, None)
        for atom_gate, bond_update, edge_update, edge_weight, node_update, node_weight in self.blocks:
            strengths = weighted_radial * atom_gate(nodes).index_select(0, destination)
            edges = edges + bond_update(self._three_body(strengths, angular, source, len(nodes)) * envelope)
            hidden = _pair(nodes, edge_update, source, destination) + edges @ edge_update.first[2]
            edges = edges + edge_update.after_first(hidden) * (radial @ edge_weight)
            hidden = _pair(nodes, node_update, source, destination) + edges @ node_update.first[2]
            messages = node_update.after_first(hidden) * ((radial * share) @ node_weight)
            nodes = nodes.index_add(0, into, messages)
        return nodes

    @staticmethod
    def _three_body(strengths: Tensor, angular: Tensor, source: Tensor, nodes: int) -> Tensor:
        """For each bond, the sum over the *other* bonds of its atom of strength x Y_l0(angle between them); ``(edges, 9)``."""
        edges = len(strengths)
        expanded = strengths.view(edges, 3, 3).repeat_interleave(_PER_L, dim=1) * angular[:, :, None]  # (edges, 9 harmonics, 3 n)
        moments = torch.zeros(nodes, 27).index_add(0, source, expanded.reshape(edges, 27)).index_select(0, source).view(edges, 9, 3)
        products = moments * angular[:, :, None]
        sums = torch.stack([products[:, 0], products[:, 1:4].sum(dim=1), products[:, 4:9].sum(dim=1)], dim=1).reshape(edges, 9)
        return (sums - strengths) * _Y_NORM


_PER_L = torch.tensor([1, 3, 5])
_Y_NORM = torch.tensor([sqrt((2 * degree + 1) / (4 * pi)) for degree in range(3) for _ in range(3)])


def _pair(nodes: Tensor, network: GatedLayers, source: Tensor, destination: Tensor) -> Tensor:
    """What the two ends of each edge contribute to the first layer, ``(edges, 128)``."""
    return (nodes @ network.first[0]).index_select(0, source) + (nodes @ network.first[1]).index_select(0, destination)


def _harmonics(unit: Tensor) -> Tensor:
    """``(edges, 9)`` real functions with sum over one degree l of f(u) f(v) = P_l(u.v), for l = 0, 1, 2."""
    x, y, z = unit.unbind(dim=1)
    root = sqrt(3.0)
    second = (root * x * y, root * y * z, root * x * z, root / 2 * (x * x - y * y), (3 * z * z - 1) / 2)
    return torch.stack([torch.ones_like(x), x, y, z, *second], dim=1)


def _envelope(distance: Tensor, cutoff: float) -> Tensor:
    """1 - 10 t^3 + 15 t^4 - 6 t^5 with t = distance / cutoff, 0 beyond: value and two derivatives vanish at the cutoff."""
    ratio = (distance / cutoff).clamp(max=1.0)
    return 1 - ratio**3 * (10 - ratio * (15 - 6 * ratio))
