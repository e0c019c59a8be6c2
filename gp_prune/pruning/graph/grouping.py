"""Channel groups of a network, read from Torch-Pruning's dependency graph."""

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
    RESHAPE,
    ChannelGroup,
    Slot,
)
from gp_prune.pruning.graph.coupling import GroupBuilder, fix_overlaps, split, tied
from gp_prune.pruning.graph.observer import GraphObserver
from gp_prune.pruning.modules import PARAMETER, PerChannel, Prunable, is_depthwise, is_grouped
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
CUT_ON_DEMAND = frozenset(_KEPT_WHOLE[kind] for kind in _CUT_ON_DEMAND)
"""Reasons to keep a group whole that ``cut_residual`` takes away."""


def channel_groups(
    model: nn.Module,
    graph: Any,
    watch: GraphObserver,
    interface: Sequence[str],
    *,
    cut_residual: bool = False,
) -> list[ChannelGroup]:
    """All channel groups of the traced model, in module order of their first producers.

    Args:
        model: the model from which the graph was built.
        graph: Torch-Pruning's dependency graph.
        watch: what was noted during the run from which the graph was built.
        interface: names of layers whose channels stay.
        cut_residual: whether channels under spanning normalisations may go.

    Raises:
        UserError: an interface layer has no channels of its own.
    """
    names: dict[Any, str] = {}
    for name, module in model.named_modules():
        names.setdefault(module, name)
    reader = _Reader(model, watch, names, cut_residual)
    drafts = [
        part
        for group in graph.get_all_groups()
        for part in split(reader.draft(_rooted_at_narrowest(graph, list(group))))
    ]
    _fix_interface(drafts, interface)
    modules = dict(model.named_modules())
    _fix_by_modules(drafts, modules)
    fix_overlaps(drafts)
    drafts = tied(drafts, modules)
    order = {name: position for position, name in enumerate(names.values())}
    return _named(drafts, order)


def _rooted_at_narrowest(graph: Any, items: list[Any]) -> list[Any]:
    """The same group, with the entries of its narrowest module side as channels.

    Where a linear layer feeds an unflattened map, several of its outputs are one channel of the
    map, and Torch-Pruning's table keeps only one of them. Rooted at the map, it keeps all.
    """
    modules = [item for item in items if item.dep.target.name and _side(item)]
    narrow = min(modules, key=lambda item: len(set(item.idxs)), default=items[0])
    if len(set(narrow.idxs)) == len(items[0].idxs):
        return items
    target = narrow.dep.target.module
    again = list(graph.get_pruning_group(target, narrow.dep.handler, sorted(set(narrow.idxs))))
    root = items[0].dep.target.module
    covered = {i for item in again if item.dep.target.module is root for i in item.idxs}
    return again if covered >= set(items[0].idxs) else items


@dataclass(frozen=True)
class _Reader:
    """Reads Torch-Pruning's groups."""

    model: nn.Module
    watch: GraphObserver
    names: Mapping[Any, str]
    cut_residual: bool

    def draft(self, items: list[Any]) -> GroupBuilder:
        position = {root: channel for channel, root in enumerate(sorted(set(items[0].idxs)))}
        draft = GroupBuilder(len(position))
        for item in items:
            node = item.dep.target
            side = _side(item) or (_crossing_side(item) if self.cut_residual else "")
            reason = self.watch.ends.get(node.grad_fn) or _KEPT_WHOLE.get(node.type)
            if side and node.type in _CUT_ON_DEMAND:
                draft.crosses |= side == NORM_SIDE
            elif reason:
                draft.reasons.append(reason)
            if node.grad_fn in self.watch.unflattened:
                name = self.watch.unflattened[node.grad_fn]
                _add_unflatten(draft, name, self.model.get_submodule(name), item, position)
            if side:
                self._add(draft, item, side, position)
        return draft

    def _add(self, draft: GroupBuilder, item: Any, side: str, position: Mapping[int, int]) -> None:
        module = item.dep.target.module
        name = self._parameter_name(module) if side == PARAMETER else self.names[module]
        width = side_width(module, side)
        if max(item.idxs) >= width or not position.keys() >= set(item.root_idxs):
            draft.reasons.append(f"the way of its channels to layer {name!r} is not known")
            return
        channels = draft.sides.setdefault((name, side), [-1] * width)
        for entry, root in zip(item.idxs, item.root_idxs, strict=True):
            channels[entry] = position[root]

    def _parameter_name(self, parameter: nn.Parameter) -> str:
        return next(name for name, found in self.model.named_parameters() if found is parameter)


def _side(item: Any) -> str:
    """Which side of the module the item cuts; empty for anything that is not a known module."""
    module = item.dep.target.module
    if is_depthwise(module):
        return DEPTHWISE_SIDE
    if isinstance(module, Prunable):
        return IN if item.dep.handler.__name__ == "prune_in_channels" else OUT
    if isinstance(module, PerChannel) and side_width(module, NORM_SIDE) > 1:
        return NORM_SIDE
    return ""


def _crossing_side(item: Any) -> str:
    """The side of a spanning normalisation or a free parameter that is cut on demand."""
    node = item.dep.target
    if node.type is OPTYPE.PARAMETER:
        return PARAMETER
    if isinstance(node.module, nn.LayerNorm):
        return NORM_SIDE if len(node.module.normalized_shape) == 1 else ""
    return NORM_SIDE if isinstance(node.module, nn.GroupNorm) else ""


def _add_unflatten(
    draft: GroupBuilder, name: str, module: Any, item: Any, position: Mapping[int, int]
) -> None:
    first = module.unflattened_size[0]
    if module.dim != 1 or not isinstance(first, int) or first < 0:
        return  # nothing in the module depends on the number of channels
    stride, rest = divmod(max(item.idxs) + 1, first)
    if rest:
        draft.reasons.append(f"{name!r} does not unflatten whole channels")
        return
    channel_of = dict(zip(item.idxs, (position[root] for root in item.root_idxs), strict=True))
    blocks = [{channel_of.get(c * stride + e, -1) for e in range(stride)} for c in range(first)]
    if any(len(block) > 1 for block in blocks):
        draft.reasons.append(f"{name!r} does not unflatten whole channels")
        return
    draft.sides[name, RESHAPE] = [block.pop() for block in blocks]


def _fix_interface(drafts: list[GroupBuilder], interface: Sequence[str]) -> None:
    for name in interface:
        found = [
            draft
            for draft in drafts
            if any(module == name and side != IN for module, side in draft.sides)
        ]
        if not found:
            raise UserError(
                f"interface layer {name!r} has no output channels of its own; "
                "name a convolution, linear or normalisation layer"
            )
        for draft in found:
            draft.reasons.append("named interface")


def _fix_by_modules(drafts: list[GroupBuilder], modules: Mapping[str, nn.Module]) -> None:
    owners = Counter(
        id(parameter)
        for module in set(modules.values())
        for parameter in module._parameters.values()
        if parameter is not None
    )
    for draft in drafts:
        made = any(side == OUT for _, side in draft.sides)
        for name, side in draft.sides:
            if side == PARAMETER:
                continue
            module = modules[name]
            if side == DEPTHWISE_SIDE and not made:
                draft.reasons.append(f"the inputs of depthwise convolution {name!r} stay")
            if is_grouped(module) and module.groups == module.out_channels:
                # Torch-Pruning takes it for a depthwise one and its inputs for its outputs.
                draft.reasons.append(f"grouped convolution {name!r} sums up several channels")
            if isinstance(module, Prunable) and "weight" not in module._parameters:
                draft.reasons.append(f"the weight of {name!r} is computed from other parameters")
            if any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False)):
                draft.reasons.append(f"layer {name!r} shares its parameters with another layer")


def _named(drafts: list[GroupBuilder], order: Mapping[str, int]) -> list[ChannelGroup]:
    groups = []
    for draft in drafts:
        slots = [
            Slot(module, side, tuple(channels), draft.streams.get((module, side), 0))
            for (module, side), channels in draft.sides.items()
        ]
        # A free parameter stands behind the modules.
        slots.sort(key=lambda slot: (order.get(slot.module, len(order)), slot.module, slot.side))
        reason = draft.reasons[0] if draft.reasons else ""
        group = ChannelGroup("", draft.size, tuple(slots), reason, draft.crosses)
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
