"""Build the channel groups of a network from what its channels reach in the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch_pruning.ops import OPTYPE

from gp_prune.errors import UserError
from gp_prune.pruning.graph.architecture import (
    DEPTHWISE_SIDE,
    IN,
    NORM_SIDE,
    OUT,
    PAD,
    RESHAPE,
    ChannelGroup,
    Slot,
)
from gp_prune.pruning.graph.coupling import GroupBuilder, couple, fix_overlaps, split
from gp_prune.pruning.graph.following import ChannelGraph, Followed, FollowedItem
from gp_prune.pruning.graph.function_modes import Padded
from gp_prune.pruning.graph.observer import GraphObserver
from gp_prune.pruning.modules import (
    PARAMETER,
    PerChannel,
    Prunable,
    is_depthwise,
    is_grouped,
    unwrapping,
)
from gp_prune.pruning.padding import BACK, FRONT, part_name
from gp_prune.pruning.surgery import side_width

_KEPT_WHOLE = {
    OPTYPE.OUTPUT: "network output",
    OPTYPE.PARAMETER: "a free parameter of the model holds values of its channels",
    OPTYPE.LN: "a layer normalisation spans its channels",
    OPTYPE.GN: "a group normalisation spans its channels",
    OPTYPE.EMBED: "an embedding produces its channels",
    OPTYPE.MHA: "an attention layer works on its channels",
    OPTYPE.LSTM: "a recurrent layer works on its channels",
}
_CUT_ON_DEMAND = (OPTYPE.PARAMETER, OPTYPE.LN, OPTYPE.GN)
CUT_ON_DEMAND = frozenset(_KEPT_WHOLE[operator] for operator in _CUT_ON_DEMAND)
"""Reasons to keep a group whole that ``cut_residual`` takes away."""


def build_groups(
    model: nn.Module,
    graph: ChannelGraph,
    observer: GraphObserver,
    interface: Sequence[str],
    *,
    cut_residual: bool = False,
) -> list[ChannelGroup]:
    """Return all channel groups of the traced model, in module order of their first producers.

    Args:
        model: the model from which the graph was built.
        graph: the dependency graph.
        observer: what was noted during the run from which the graph was built.
        interface: names of layers whose channels stay.
        cut_residual: whether channels under spanning normalisations may go.

    Raises:
        UserError: an interface layer has no channels of its own.
    """
    names: dict[Any, str] = {}
    for name, module in model.named_modules():
        names.setdefault(module, name)
    reader = _ItemReader(model, observer, names, cut_residual)
    builders = [part for followed in graph.groups() for part in split(reader.read(followed))]
    _fix_interface(builders, interface)
    modules = dict(model.named_modules())
    _fix_by_modules(builders, modules)
    fix_overlaps(builders)
    builders = couple(builders, modules)
    return _finish(builders, {name: position for position, name in enumerate(names.values())})


@dataclass(frozen=True)
class _ItemReader:
    """Reads what the channels of a layer reach."""

    model: nn.Module
    observer: GraphObserver
    names: Mapping[Any, str]
    cut_residual: bool

    def read(self, followed: Followed) -> GroupBuilder:
        builder = GroupBuilder(followed.size, reasons=list(followed.reasons))
        for item in followed.items:
            node = item.node
            side = _find_side(item) or (_find_crossing_side(item) if self.cut_residual else "")
            reason = self.observer.ends.get(node.grad_fn) or _KEPT_WHOLE.get(node.type)
            if side and node.type in _CUT_ON_DEMAND:
                builder.crosses |= side == NORM_SIDE
            elif reason:
                builder.reasons.append(reason)
            if node.grad_fn in self.observer.unflattened:
                self._add_unflatten(builder, item)
            if node.grad_fn in self.observer.padded:
                _add_padding(builder, item, self.observer.padded[node.grad_fn])
            if side:
                self._add_side(builder, item, side)
        return builder

    def _add_side(self, builder: GroupBuilder, item: FollowedItem, side: str) -> None:
        module = item.node.module
        if side == PARAMETER:
            name = next(name for name, value in self.model.named_parameters() if value is module)
        else:
            name = self.names[module]
        width = side_width(module, side)
        if item.entries.max() >= width:
            builder.reasons.append(f"the way of its channels to layer {name!r} is not known")
        channels = builder.sides.setdefault((name, side), [-1] * width)
        for entry, channel in zip(item.entries.tolist(), item.channels.tolist(), strict=True):
            if entry < width:
                channels[entry] = channel

    def _add_unflatten(self, builder: GroupBuilder, item: FollowedItem) -> None:
        name = self.observer.unflattened[item.node.grad_fn]
        module: Any = self.model.get_submodule(name)
        first = module.unflattened_size[0]
        if module.dim != 1 or not isinstance(first, int) or first < 0:
            return  # nothing in the module depends on the number of channels
        stride, rest = divmod(int(item.entries.max()) + 1, first)
        channels = dict(zip(item.entries.tolist(), item.channels.tolist(), strict=True))
        blocks = [{channels.get(c * stride + e, -1) for e in range(stride)} for c in range(first)]
        if rest or any(len(block) > 1 for block in blocks):
            builder.reasons.append(f"{name!r} does not unflatten whole channels")
            return
        builder.sides[name, RESHAPE] = [block.pop() for block in blocks]


def _add_padding(builder: GroupBuilder, item: FollowedItem, padded: Padded) -> None:
    """Add the zeros before and after the channels of a map, which are channels of the result."""
    channels = dict(zip(item.entries.tolist(), item.channels.tolist(), strict=True))
    end = padded.front + padded.channels
    for place, entries in (
        (FRONT, range(padded.front)),
        (BACK, range(end, padded.total)),
    ):
        found = [channels.get(entry, -1) for entry in entries]
        if max(found, default=-1) >= 0:
            builder.sides[part_name(padded.module, padded.number, place), PAD] = found


def _find_side(item: FollowedItem) -> str:
    """Return the side of the module that the item cuts; empty for other than known modules."""
    module = item.node.module
    if is_depthwise(module):
        return DEPTHWISE_SIDE
    if isinstance(module, Prunable):
        return IN if item.handler.__name__ == "prune_in_channels" else OUT
    if isinstance(module, PerChannel) and side_width(module, NORM_SIDE) > 1:
        return NORM_SIDE
    return ""


def _find_crossing_side(item: FollowedItem) -> str:
    """Return the side of a spanning normalisation or a free parameter that is cut on demand."""
    node = item.node
    if node.type is OPTYPE.PARAMETER:
        return PARAMETER
    if isinstance(node.module, nn.LayerNorm):
        return NORM_SIDE if len(node.module.normalized_shape) == 1 else ""
    return NORM_SIDE if isinstance(node.module, nn.GroupNorm) else ""


def _fix_interface(builders: list[GroupBuilder], interface: Sequence[str]) -> None:
    for name in interface:
        holders = [
            builder
            for builder in builders
            if any(module == name and side != IN for module, side in builder.sides)
        ]
        if not holders:
            raise UserError(
                f"interface layer {name!r} has no output channels of its own; "
                "name a convolution, linear or normalisation layer"
            )
        for builder in holders:
            builder.reasons.append("named interface")


def _fix_by_modules(builders: list[GroupBuilder], modules: Mapping[str, nn.Module]) -> None:
    owners = Counter(
        id(parameter)
        for module in set(modules.values())
        for parameter in module._parameters.values()
        if parameter is not None
    )
    for builder in builders:
        has_output = any(side == OUT for _, side in builder.sides)
        for name, side in builder.sides:
            if side in (PARAMETER, PAD):
                continue
            module = modules[name]
            if side == DEPTHWISE_SIDE and not has_output:
                builder.reasons.append(f"the inputs of depthwise convolution {name!r} stay")
            if is_grouped(module) and module.groups == module.out_channels:
                # Torch-Pruning takes it for a depthwise one and its inputs for its outputs.
                builder.reasons.append(f"grouped convolution {name!r} sums up several channels")
            if isinstance(module, Prunable) and "weight" not in module._parameters:
                remedy = unwrapping(module)
                builder.reasons.append(
                    f"the weight of {name!r} is computed from other parameters{remedy}"
                )
            if any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False)):
                builder.reasons.append(f"layer {name!r} shares its parameters with another layer")


def _finish(builders: list[GroupBuilder], order: Mapping[str, int]) -> list[ChannelGroup]:
    """Return the groups that have producers, sorted by module order and named."""
    groups = []
    for builder in builders:
        slots = [
            Slot(module, side, tuple(channels), builder.streams.get((module, side), 0))
            for (module, side), channels in builder.sides.items()
        ]
        # A free parameter comes after the modules.
        slots.sort(key=lambda slot: (order.get(slot.module, len(order)), slot.module, slot.side))
        reason = builder.reasons[0] if builder.reasons else ""
        group = ChannelGroup("", builder.size, tuple(slots), reason, builder.crosses)
        if group.producers:
            groups.append(group)
    groups.sort(key=lambda group: [order[name] for name in group.producers])
    taken: Counter[str] = Counter()
    named = []
    for group in groups:
        first = group.producers[0]
        taken[first] += 1
        suffix = f"#{taken[first]}" if taken[first] > 1 else ""
        named.append(replace(group, name=first + suffix))
    return named
