"""Which batch norm belongs to each layer, and whether an activation follows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from gp_prune.statistics.batches import Forward, Inputs, call_model
from gp_prune.statistics.following import Call, Follower
from gp_prune.statistics.layers import PRUNABLE, is_batch_norm, out_channels


class PairingWarning(UserWarning):
    """The batch norms of layers were guessed."""


_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Site:
    """What follows one use of a layer.

    Attributes:
        norm: name of the batch norm module that takes the layer's output, or None.
        activated: whether an activation function takes what comes out.
    """

    norm: str | None = None
    activated: bool = False


class _Observer:
    """Writes down what follows each use of each layer."""

    def __init__(self) -> None:
        self.sites: dict[Call, Site] = {}

    def ran(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        self.sites[call] = Site()

    def normalised(self, call: Call, norm: str, output: Tensor) -> None:
        self.sites[call] = Site(norm, self.sites[call].activated)

    def activating(self, call: Call, before: Tensor) -> None:
        self.sites[call] = Site(self.sites[call].norm, True)

    def activated(self, call: Call, after: Tensor) -> None:
        pass


def observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    inputs: Inputs,
    forward: Forward = call_model,
) -> dict[Call, Site]:
    """Run the model once and see what follows each use of each layer: the exact way.

    The model must be in evaluation mode. Layers that do not run are absent.
    """
    observer = _Observer()
    follower = Follower(model, layers, observer)
    with torch.no_grad(), follower.attached(), follower.run():
        forward(model, inputs)
    return observer.sites


def norms_of(sites: Mapping[Call, Site]) -> dict[str, str | None]:
    """The batch norm behind the first use of each layer."""
    return {call.layer: site.norm for call, site in sites.items() if call.use == 0}


def pair_without_data(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str | None]:
    """The batch norm of each layer, without running the model.

    The model is traced symbolically with torch.fx. Where it cannot be traced (its control flow
    depends on data), a batch norm is taken to belong to the layer that was registered right
    before it and has as many channels, as nearly all models of torchvision have it. Batch norms
    that are called as functions (``F.batch_norm``), and those that do not take the layer's output
    itself, are not found either way.

    Warns:
        PairingWarning: the model cannot be traced and a batch norm was taken to belong to a layer;
            one that runs before the layer would be taken for one that runs behind it.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # tracing runs the user's code on proxies, where anything may be raised
        found = _by_registration(model, layers)
        pairs = [f"{norm!r} to {name!r}" for name, norm in found.items() if norm is not None]
        if pairs:
            more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
            warnings.warn(
                f"batch norms are taken to belong to the layers behind which they are listed "
                f"({pairs[0]}{more}), because the network cannot be traced; give example_inputs, "
                "on which it runs, to find out",
                PairingWarning,
                stacklevel=2,
            )
        return found
    return _by_graph(model, layers, graph)


class _Tracer(fx.Tracer):
    """Keeps layers and batch norms whole, also those of other libraries."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, PRUNABLE) or is_batch_norm(m)
        return known or bool(super().is_leaf_module(m, module_qualified_name))


def _by_graph(
    model: nn.Module, layers: Mapping[str, nn.Module], graph: fx.Graph
) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in layers and node.target not in found:
            found[node.target] = _norm_behind(model, node, out_channels(layers[node.target]))
    return {name: found.get(name) for name in layers}


def _norm_behind(model: nn.Module, node: Any, channels: int) -> str | None:
    """The first batch norm that takes the node's value itself."""
    for user in node.users:
        if user.op != "call_module":
            continue
        module = model.get_submodule(user.target)
        if is_batch_norm(module) and module.num_features == channels:
            return str(user.target)
        if isinstance(module, _TRANSPARENT):
            return _norm_behind(model, user, channels)
    return None


def _by_registration(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(layers)
    previous: str | None = None
    for name, module in model.named_modules():
        if previous is not None and name.startswith(previous + "."):
            continue  # a reparametrisation inside the layer
        if name in layers:
            previous = name
        elif is_batch_norm(module):
            if previous is not None and module.num_features == out_channels(layers[previous]):
                found[previous] = name
            previous = None
        elif next(module.children(), None) is None and not isinstance(module, _TRANSPARENT):
            previous = None
    return found
