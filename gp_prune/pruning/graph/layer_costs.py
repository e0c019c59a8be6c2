"""Count what every layer costs, and say of every other module with weights why it stays whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.cost import ATTENTION, DENSE, DEPTHWISE, NORM, LayerCost, Side
from gp_prune.pruning.graph.architecture import (
    HEADS,
    IN,
    NORM_SIDE,
    OUT,
    Architecture,
    ChannelGroup,
    WholeModule,
)
from gp_prune.pruning.graph.observer import GraphObserver, holds_other_weights
from gp_prune.pruning.modules import (
    PARAMETER,
    Conv,
    PerChannel,
    Prunable,
    Spanning,
    find_part,
    is_depthwise,
    sample_count,
    unwrapping,
)
from gp_prune.pruning.surgery import side_width


def build_architecture(
    model: nn.Module,
    inputs: Any,
    observed: GraphObserver,
    groups: Sequence[ChannelGroup] | None,
) -> Architecture:
    """Return the architecture with these groups, and with the costs that they explain.

    Args:
        model: the network.
        inputs: the example batch.
        observed: what was noted when it ran.
        groups: the channel groups; None where single weights are pruned.
    """
    free = [group for group in groups or () if not group.fixed]
    layers = tuple(_layer_costs(model, free, observed.positions))
    bare = Architecture(tuple(groups or ()), layers)
    params = sum(parameter.numel() for parameter in model.parameters())
    layer_macs, layer_params = bare.dense_costs
    return replace(
        bare,
        samples=sample_count(inputs),
        constant_macs=observed.macs - layer_macs,
        constant_params=params - layer_params,
        whole=tuple(_find_whole(model, bare, observed, by_weight=groups is None)),
        uncounted=observed.uncounted,
    )


def _find_whole(
    model: nn.Module, architecture: Architecture, observed: GraphObserver, *, by_weight: bool
) -> Iterator[WholeModule]:
    """Yield the modules with weights of which nothing can go, where no group says why."""
    grouped = {slot.module for group in architecture.groups for slot in group.slots}
    costs = {layer.name for layer in architecture.layers}
    modules = dict(model.named_modules())
    counted = {
        id(parameter)
        for name in costs & modules.keys()
        for parameter in modules[name].parameters(recurse=False)
    }
    for name, module in modules.items():
        reason, macs = "", 0
        if isinstance(module, Prunable) and name in costs:
            ungrouped = name not in grouped and not by_weight
            reason = "its channels cannot be followed" if ungrouped else ""
            if ungrouped and name in observed.quiet:
                reason = (
                    "it runs without gradients (no_grad, detach), by which channels are followed"
                )
        elif isinstance(module, Prunable) and not observed.positions[name]:
            reason = "it does not run in evaluation mode on these inputs"
        elif isinstance(module, Prunable):
            reason = f"the weight of {name!r} is computed from other parameters{unwrapping(module)}"
            macs = observed.positions[name] * int(module.weight.numel())
        elif holds_other_weights(module) and ".parametrizations." not in f".{name}":
            kind = type(module).__name__
            reason = f"a layer of type {kind} has no channels or weights that can be cut"
            macs = observed.others[name]
        leaves = [leaf for leaf, _ in module.named_parameters(recurse=False)]
        cut = any(f"{name}.{leaf}".lstrip(".") in grouped for leaf in leaves)
        if reason and not cut:
            own = module.parameters(recurse=isinstance(module, Prunable))
            new = {id(parameter): parameter.numel() for parameter in own}
            yield WholeModule(name, reason, macs, sum(new[key] for key in new.keys() - counted))
            counted |= new.keys()


def _layer_costs(
    model: nn.Module, free: Sequence[ChannelGroup], positions: Counter[str]
) -> list[LayerCost]:
    terms: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for group in free:
        for slot in group.slots:
            entries = slot.channels.count(0)
            terms.setdefault((slot.module, slot.side), []).append((group.name, entries))
    sizes = {group.name: group.size for group in free}

    def side(name: str, module: nn.Module, which: str) -> Side:
        own_terms = tuple(terms.get((name, which), ()))
        varying = sum(entries * sizes[group] for group, entries in own_terms)
        return Side(side_width(module, which) - varying, own_terms)

    costs = []
    owners: dict[int, str] = {}  # of parameters that several layers share: the first one
    for name, module in model.named_modules():
        uses = positions[name]
        if isinstance(module, Prunable) and "weight" in module._parameters:
            if uses or any((name, which) in terms for which in (IN, OUT)):
                cost = _weighted_cost(name, module, uses, side)
                owner = owners.setdefault(id(module.weight), name)
                if owner != name:
                    own_bias = cost.bias and owners.setdefault(id(module.bias), name) == name
                    cost = replace(cost, owner=owner, bias=own_bias)
                elif cost.bias:
                    owners[id(module.bias)] = name
                costs.append(cost)
        elif isinstance(module, (*PerChannel, *Spanning)) and (name, NORM_SIDE) in terms:
            count = sum(1 for _ in module.parameters())
            width = side(name, module, NORM_SIDE)
            costs.append(LayerCost(name, NORM, 0, count, 1, False, Side(1), width))
        elif isinstance(module, HeadAttention) and uses:
            count, heads = module.head_parameters(), side(name, module, HEADS)
            costs.append(LayerCost(name, ATTENTION, uses, count, 1, False, Side(1), heads))
    for name, which in terms:
        if which == PARAMETER:
            parameter = find_part(model, name, which)
            count = parameter.numel() // side_width(parameter, which)
            width = side(name, parameter, which)
            costs.append(LayerCost(name, NORM, 0, count, 1, False, Side(1), width))
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    return [replace(cost, type=types.get(cost.name, "")) for cost in costs]


def _weighted_cost(name: str, module: Any, positions: int, side: Any) -> LayerCost:
    taps = module.weight[0, 0].numel() if isinstance(module, Conv) else 1
    bias = module.bias is not None
    if is_depthwise(module):
        width = side(name, module, "depthwise")
        return LayerCost(name, DEPTHWISE, positions, taps, 1, bias, Side(1), width)
    groups = module.groups if isinstance(module, Conv) else 1
    inputs, outputs = side(name, module, IN), side(name, module, OUT)
    if groups > 1 and {group for group, _ in inputs.terms} & {group for group, _ in outputs.terms}:
        # Whole groups go: each output keeps the inputs that it reads.
        inputs, groups = Side(module.in_channels // groups), 1
    return LayerCost(name, DENSE, positions, taps, groups, bias, inputs, outputs)
