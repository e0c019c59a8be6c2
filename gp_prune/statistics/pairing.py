"""Find the batch norm of each layer without running the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from gp_prune.statistics.layers import PRUNABLE, is_batch_norm, out_channels


class PairingWarning(UserWarning):
    """The batch norms of layers were guessed."""


_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def pair_without_data(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str | None]:
    """Return the batch norm of each layer, without running the model.

    The model is traced symbolically with torch.fx. Where it cannot be traced (its control flow
    depends on data), a batch norm is taken to belong to the layer that was registered right
    before it and has as many channels, as nearly all models of torchvision have it. Batch norms
    that are called as functions (``F.batch_norm``), and those that do not take the layer's output
    itself, are not found either way.

    Warns:
        PairingWarning: the model cannot be traced and a batch norm was taken to belong to a layer;
            one that runs before the layer would be taken for one that runs after it.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # tracing runs the user's code on proxies, where anything may be raised
        norms = _by_registration(model, layers)
        pairs = [f"{norm!r} to {name!r}" for name, norm in norms.items() if norm is not None]
        if pairs:
            more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
            warnings.warn(
                f"batch norms are taken to belong to the layers after which they are listed "
                f"({pairs[0]}{more}), because the network cannot be traced; give example_inputs, "
                "on which it runs, to find out",
                PairingWarning,
                stacklevel=2,
            )
        return norms
    return _by_graph(model, layers, graph)


class _Tracer(fx.Tracer):
    """Keeps layers and batch norms whole, also those of other libraries."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, PRUNABLE) or is_batch_norm(m)
        return known or bool(super().is_leaf_module(m, module_qualified_name))


def _by_graph(
    model: nn.Module, layers: Mapping[str, nn.Module], graph: fx.Graph
) -> dict[str, str | None]:
    norms: dict[str, str | None] = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in layers and node.target not in norms:
            norms[node.target] = _norm_after(model, node, out_channels(layers[node.target]))
    return {name: norms.get(name) for name in layers}


def _norm_after(model: nn.Module, node: Any, channels: int) -> str | None:
    """Return the first batch norm that takes the node's value itself."""
    for user in node.users:
        if user.op != "call_module":
            continue
        module = model.get_submodule(user.target)
        if is_batch_norm(module) and module.num_features == channels:
            return str(user.target)
        if isinstance(module, _TRANSPARENT):
            return _norm_after(model, user, channels)
    return None


def _by_registration(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str | None]:
    norms: dict[str, str | None] = dict.fromkeys(layers)
    previous: str | None = None
    for name, module in model.named_modules():
        if previous is not None and name.startswith(previous + "."):
            continue  # a reparametrisation inside the layer
        if name in layers:
            previous = name
        elif is_batch_norm(module):
            if previous is not None and module.num_features == out_channels(layers[previous]):
                norms[previous] = name
            previous = None
        elif next(module.children(), None) is None and not isinstance(module, _TRANSPARENT):
            previous = None
    return norms
