"""Which atom of an edge a matgl model sums its messages into.

Until version 2 matgl summed the message of an edge into its *destination* atom; since version 3 it sums into the *source* atom
(its pull request 761). Weights trained with one convention give silently wrong energies with the other, so the convention is a
property of the weights: :func:`set_aggregation` puts it into a loaded model, and the self-test decides which one the weights need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Aggregation = Literal["source", "destination"]
AGGREGATIONS: tuple[Aggregation, ...] = ("source", "destination")


def set_aggregation(model: nn.Module, aggregation: Aggregation) -> nn.Module:
    """Make every graph convolution of a matgl model (M3GNet, MEGNet, TensorNet) sum its messages into the given atom, in place.

    Args:
        model: the network or the ``Potential`` around it.
        aggregation: ``"source"`` (matgl >= 3) or ``"destination"`` (weights trained with matgl < 3).

    Returns:
        the same model.
    """
    from matgl.layers._embedding import TensorEmbedding
    from matgl.layers._graph_convolution import M3GNetGraphConv, MEGNetGraphConv

    for module in model.modules():
        if isinstance(module, M3GNetGraphConv | MEGNetGraphConv):
            _override(module, "node_update_", _destination_update(module), aggregation)
        elif isinstance(module, TensorEmbedding):
            _override(module, "forward", _destination_forward(module), aggregation)
    return model


def _override(module: Any, name: str, method: Any, aggregation: Aggregation) -> None:
    """Shadow a method of one instance, or bring the class's own back."""
    if aggregation == "destination":
        setattr(module, name, method)
    else:
        module.__dict__.pop(name, None)


def _destination_update(convolution: Any) -> Any:
    """The node update of an M3GNet or MEGNet convolution with the sum (or mean) over the edges that end in an atom.

    The class's own update reads ``edge_index[0]`` for the sum and, for M3GNet, the two ends of the edge for the message. Swapping
    the two rows of ``edge_index`` together with the two blocks of features would change the message, so it is written out here.
    """
    import torch
    from matgl.layers._graph_convolution import M3GNetGraphConv
    from matgl.utils.maths import scatter_add, scatter_mean

    def m3gnet(edge_index: Any, edge_feat: Any, node_feat: Any, rbf: Any, u_per_edge: Any, num_nodes: int) -> Any:
        parts = [node_feat[edge_index[0]], node_feat[edge_index[1]], edge_feat]
        if convolution.include_state:
            parts.append(u_per_edge)
        messages = convolution.node_update_func(torch.hstack(parts)) * convolution.node_weight_func(rbf)
        return scatter_add(messages, edge_index[1], dim_size=num_nodes, dim=0)

    def megnet(edge_index: Any, edge_feat: Any, node_feat: Any, u_per_node: Any, num_nodes: int) -> Any:
        mean = scatter_mean(edge_feat, edge_index[1], dim_size=num_nodes, dim=0)
        return convolution.node_func(torch.hstack([node_feat, mean, u_per_node]))

    return m3gnet if isinstance(convolution, M3GNetGraphConv) else megnet


def _destination_forward(layer: Any) -> Any:
    """The forward pass of a TensorNet layer whose messages are summed over the edges that end in an atom."""
    cls = type(layer)

    def forward(*args: Any, **named: Any) -> Any:
        edge_index = named.get("edge_index", args[1] if cls.__name__ == "TensorEmbedding" else args[0])
        layer.aggregate = lambda messages, _source, dim_size: cls.aggregate(layer, messages, edge_index[1], dim_size)
        try:
            return cls.forward(layer, *args, **named)
        finally:
            del layer.aggregate

    return forward
