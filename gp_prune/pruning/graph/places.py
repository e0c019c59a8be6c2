"""Find the place of each layer in a traced network: what its channels free, where it stands."""

from __future__ import annotations

import numpy as np

from gp_prune.pruning.cost import DENSE, DEPTHWISE, CostTable
from gp_prune.pruning.graph.architecture import OUT, SEVERAL, Architecture, ChannelGroup
from gp_prune.statistics import LayerPlace


def is_stream(group: ChannelGroup) -> bool:
    """Return whether several layers make the channels together: a residual sum, a gated product.

    A depthwise convolution makes nothing of its own, and the layers that a grouped convolution
    ties make different channels. Attention heads are no stream.
    """
    made = [slot.stream for slot in group.slots if slot.side == OUT and slot.stream != SEVERAL]
    return not group.has_heads and len(made) > len(set(made))


def layer_places(architecture: Architecture) -> dict[str, LayerPlace]:
    """Return the place of every layer that makes channels, for ``collect(..., places=...)``.

    A channel frees its MACs and parameters in all layers that make or read it. Both are divided by
    their mean over the channels that may be cut (over all where none may), so that a formula does
    not depend on the size of the network.
    """
    groups = architecture.groups
    sizes = {group.name: group.size for group in groups}
    table = CostTable(architecture.layers, [*sizes], sizes)
    whole = np.array([*sizes.values()], dtype=np.int64)
    dense = np.array(table.evaluate(whole), dtype=np.float64)
    less = [table.evaluate(whole - one) for one in np.eye(len(groups), dtype=np.int64)]
    freed = dense - np.array(less, dtype=np.float64).reshape(-1, 2)  # (groups, MACs and parameters)
    free = np.array([not group.fixed for group in groups], dtype=bool)
    counts = np.where(free | ~free.any(), whole, 0)
    means = counts @ freed / max(1, counts.sum())
    relative = freed / np.where(means > 0, means, 1)
    layers = [x.name for x in architecture.layers if x.kind in (DENSE, DEPTHWISE)]
    depth = {name: (number + 0.5) / len(layers) for number, name in enumerate(layers)}
    return {
        layer: LayerPlace(macs, params, group.size, depth.get(layer, 0.5), is_stream(group))
        for group, (macs, params) in zip(groups, relative.tolist(), strict=True)
        for layer in group.producers
    }
