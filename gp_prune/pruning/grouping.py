"""Channel groups of a network, read from Torch-Pruning's dependency graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch_pruning.ops import OPTYPE

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import (
    DEPTHWISE_SIDE,
    IN,
    NORM_SIDE,
    OUT,
    RESHAPE,
    ChannelGroup,
    Slot,
)
from gp_prune.pruning.modules import PerChannel, Prunable, is_depthwise, is_grouped
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


@dataclass
class _Draft:
    """A group in the making: (module, side) -> channel of every entry."""

    size: int
    sides: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def channel_groups(
    model: nn.Module, graph: Any, unflattened: Mapping[Any, str], interface: Sequence[str]
) -> list[ChannelGroup]:
    """All channel groups of the traced model, in module order of their first producers.

    Args:
        model: the model from which the graph was built.
        graph: Torch-Pruning's dependency graph.
        unflattened: autograd node -> name of the ``nn.Unflatten`` that made it.
        interface: names of layers whose channels stay.

    Raises:
        UserError: an interface layer has no channels of its own.
    """
    names: dict[Any, str] = {}
    for name, module in model.named_modules():
        names.setdefault(module, name)
    drafts = [
        part
        for group in graph.get_all_groups()
        for part in _split(
            _draft(_rooted_at_narrowest(graph, list(group)), names, unflattened, model)
        )
    ]
    _fix_interface(drafts, interface)
    _fix_by_modules(drafts, dict(model.named_modules()))
    _fix_overlaps(drafts)
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


def _draft(
    items: list[Any],
    names: Mapping[Any, str],
    unflattened: Mapping[Any, str],
    model: nn.Module,
) -> _Draft:
    position = {root: channel for channel, root in enumerate(sorted(set(items[0].idxs)))}
    draft = _Draft(len(position))
    for item in items:
        node = item.dep.target
        reason = _KEPT_WHOLE.get(node.type)
        if reason:
            draft.reasons.append(reason)
        if node.grad_fn in unflattened:
            name = unflattened[node.grad_fn]
            _add_unflatten(draft, name, model.get_submodule(name), item, position)
        side = _side(item)
        if side:
            name = names[node.module]
            width = side_width(node.module, side)
            if max(item.idxs) >= width or not position.keys() >= set(item.root_idxs):
                draft.reasons.append(f"the way of its channels to layer {name!r} is not known")
                continue
            channels = draft.sides.setdefault((name, side), [-1] * width)
            for entry, root in zip(item.idxs, item.root_idxs, strict=True):
                channels[entry] = position[root]
    return draft


def _split(draft: _Draft) -> list[_Draft]:
    """The parts of a group whose channels have entries in the same places.

    Where maps are concatenated, some channels of one table pass through one layer and some through
    another; as parts, every part can keep a channel of its own in each of its layers.
    """
    counts = {side: Counter(channels) for side, channels in draft.sides.items()}
    alike: dict[tuple[int, ...], dict[int, int]] = {}
    for channel in range(draft.size):
        numbering = alike.setdefault(tuple(found[channel] for found in counts.values()), {})
        numbering[channel] = len(numbering)
    parts = []
    for signature, numbering in alike.items():
        sides = {
            side: [numbering.get(channel, -1) for channel in channels]
            for (side, channels), entries in zip(draft.sides.items(), signature, strict=True)
            if entries
        }
        parts.append(_Draft(len(numbering), sides, list(draft.reasons)))
    return parts


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


def _add_unflatten(
    draft: _Draft, name: str, module: Any, item: Any, position: Mapping[int, int]
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


def _fix_interface(drafts: list[_Draft], interface: Sequence[str]) -> None:
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


def _fix_by_modules(drafts: list[_Draft], modules: Mapping[str, nn.Module]) -> None:
    owners = Counter(
        id(parameter)
        for module in set(modules.values())
        for parameter in module._parameters.values()
        if parameter is not None
    )
    for draft in drafts:
        for name, _ in draft.sides:
            module = modules[name]
            if is_grouped(module):
                draft.reasons.append("grouped convolution")
            if isinstance(module, Prunable) and "weight" not in module._parameters:
                draft.reasons.append(f"the weight of {name!r} is computed from other parameters")
            if any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False)):
                draft.reasons.append(f"layer {name!r} shares its parameters with another layer")


def _fix_overlaps(drafts: list[_Draft]) -> None:
    holders: dict[tuple[str, str, int], list[_Draft]] = defaultdict(list)
    for draft in drafts:
        for (name, side), channels in draft.sides.items():
            for entry, channel in enumerate(channels):
                if channel >= 0:
                    holders[name, side, entry].append(draft)
    for (name, _, _), sharing in holders.items():
        if len(sharing) > 1:
            for draft in sharing:
                reason = f"layer {name!r} ties its channels to those of another group"
                if reason not in draft.reasons:
                    draft.reasons.append(reason)


def _named(drafts: list[_Draft], order: Mapping[str, int]) -> list[ChannelGroup]:
    groups = []
    for draft in drafts:
        slots = [Slot(module, side, tuple(c)) for (module, side), c in draft.sides.items()]
        slots.sort(key=lambda slot: (order[slot.module], slot.side))
        reason = draft.reasons[0] if draft.reasons else ""
        group = ChannelGroup("", draft.size, tuple(slots), reason)
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
