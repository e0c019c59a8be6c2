"""Couple channels that can only go together because of the module that they pass through.

A grouped convolution must keep groups of one size. There are two ways to cut it, and the one that
leaves more choices is taken:

* whole groups go, each with the inputs that it reads and the outputs that it makes; the number of
  groups shrinks, as in a depthwise convolution, which is the case of one channel per group;
* the same offsets go in every group; the groups become narrower, inputs and outputs each by
  themselves.

Either way a "channel" of the resulting :class:`~gp_prune.pruning.ChannelGroup` has several entries
in the layers around, whose scores are joined.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from gp_prune.pruning.graph.architecture import IN, NORM_SIDE, OUT, PAD, SEVERAL
from gp_prune.pruning.modules import is_grouped

Channel = tuple[int, int]
"""Number of a builder, and a channel of it."""


@dataclass
class GroupBuilder:
    """A channel group that is being put together.

    Attributes:
        size: number of channels.
        sides: (module, side) -> channel of every entry, -1 where it belongs to no channel here.
        reasons: why the group is kept whole; empty while it may be cut.
        crosses: whether a normalisation spans the channels and they may be cut all the same.
        streams: (module, side) -> see :attr:`gp_prune.pruning.graph.architecture.Slot.stream`; 0
            where it is left out.
    """

    size: int
    sides: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    crosses: bool = False
    streams: dict[tuple[str, str], int] = field(default_factory=dict)


def split(builder: GroupBuilder) -> list[GroupBuilder]:
    """Return the parts of a group whose channels have entries in the same places.

    Where maps are concatenated, some channels of one table pass through one layer and some through
    another; as parts, every part can keep one channel in each of its layers.
    """
    # Zeros around a map are no place where a channel would have to be kept.
    pads = {side: channels for side, channels in builder.sides.items() if side[1] == PAD}
    places = {side: channels for side, channels in builder.sides.items() if side not in pads}
    counts = [  # (channels,) for every side, -1 left out
        np.bincount(np.asarray(channels, dtype=np.int64) + 1, minlength=builder.size + 1)[1:]
        for channels in places.values()
    ]
    if all((count == count[0]).all() for count in counts):  # nearly always, and quick
        zipped = zip(places.items(), counts, strict=True)
        sides = {side: channels for (side, channels), count in zipped if count[0]} | pads
        return [
            GroupBuilder(builder.size, sides, builder.reasons, builder.crosses, builder.streams)
        ]
    alike: dict[tuple[int, ...], dict[int, int]] = {}
    for channel, signature in enumerate(zip(*(count.tolist() for count in counts), strict=True)):
        numbering = alike.setdefault(signature, {})
        numbering[channel] = len(numbering)
    parts = []
    for signature, numbering in alike.items():
        sides = {
            side: [numbering.get(channel, -1) for channel in channels]
            for (side, channels), entries in zip(places.items(), signature, strict=True)
            if entries
        }
        for side, channels in pads.items():
            left = [numbering.get(channel, -1) for channel in channels]
            if max(left, default=-1) >= 0:
                sides[side] = left
        reasons = list(builder.reasons)
        parts.append(GroupBuilder(len(numbering), sides, reasons, builder.crosses, builder.streams))
    return parts


def fix_overlaps(builders: Iterable[GroupBuilder]) -> None:
    """Keep whole what holds the same entry of a module side as another group."""
    holders: dict[tuple[str, str], list[GroupBuilder]] = defaultdict(list)
    for builder in builders:
        for side in builder.sides:
            holders[side].append(builder)
    for side, sharing in holders.items():
        if len(sharing) == 1:
            continue  # nearly always, and quick
        held = [{e for e, channel in enumerate(b.sides[side]) if channel >= 0} for b in sharing]
        owners = Counter(entry for entries in held for entry in entries)
        for builder, entries in zip(sharing, held, strict=True):
            reason = f"layer {side[0]!r} ties its channels to those of another group"
            if reason not in builder.reasons and any(owners[entry] > 1 for entry in entries):
                builder.reasons.append(reason)


def couple(
    builders: Sequence[GroupBuilder], modules: Mapping[str, nn.Module]
) -> list[GroupBuilder]:
    """Join channels that a grouped convolution or a group normalisation ties together.

    Args:
        builders: channel groups; those with a reason stay whole, and more may get one.
        modules: name -> module.
    """
    coupling = {
        name: module
        for name, module in modules.items()
        if is_grouped(module) or isinstance(module, nn.GroupNorm)
    }
    if not coupling:
        return list(builders)
    holders: dict[tuple[str, str], dict[int, Channel]] = defaultdict(dict)
    for number, builder in enumerate(builders):
        for side, channels in builder.sides.items():
            holders[side].update({e: (number, c) for e, c in enumerate(channels) if c >= 0})
    coupled = _CoupledChannels(builders)
    for name, module in coupling.items():
        if isinstance(module, nn.GroupNorm):
            normed = holders[name, NORM_SIDE]
            coupled.join_offsets(name, normed, module.num_channels, module.num_groups)
        else:
            _couple_convolution(coupled, name, module, holders[name, IN], holders[name, OUT])
    return coupled.build()


def _couple_convolution(
    coupled: _CoupledChannels,
    name: str,
    module: Any,
    inputs: Mapping[int, Channel],
    outputs: Mapping[int, Channel],
) -> None:
    reads, makes = module.in_channels // module.groups, module.out_channels // module.groups
    known = len(inputs) == module.in_channels and len(outputs) == module.out_channels
    more_groups_than_offsets = module.groups >= min(reads, makes)
    if more_groups_than_offsets and known and coupled.may_go([*inputs.values(), *outputs.values()]):
        by_group = [(entry // reads, channel) for entry, channel in inputs.items()]
        by_group += [(entry // makes, channel) for entry, channel in outputs.items()]
        coupled.join(by_group)
        return
    coupled.join_offsets(name, inputs, module.in_channels, module.groups)
    coupled.join_offsets(name, outputs, module.out_channels, module.groups)


class _CoupledChannels:
    """Sets of channels that go together (a union-find structure)."""

    def __init__(self, builders: Sequence[GroupBuilder]) -> None:
        self._builders = builders
        self._parent: dict[Channel, Channel] = {}

    def may_go(self, channels: Iterable[Channel]) -> bool:
        """Return whether none of the channels has to stay."""
        return not any(self._builders[number].reasons for number, _ in channels)

    def join_offsets(
        self, name: str, entries: Mapping[int, Channel], width: int, groups: int
    ) -> None:
        """Join the channels at equal offsets in ``groups`` parts of a side of module ``name``.

        Where some of the side's entries have to stay, all do.
        """
        if len(entries) == width and self.may_go(entries.values()):
            self.join((e % (width // groups), channel) for e, channel in entries.items())
            return
        for number in {number for number, _ in entries.values()}:
            if not self._builders[number].reasons:
                reason = f"layer {name!r} ties its channels to others that stay"
                self._builders[number].reasons.append(reason)

    def join(self, labelled: Iterable[tuple[Hashable, Channel]]) -> None:
        """Join the channels that have equal labels."""
        first: dict[Hashable, Channel] = {}
        for label, channel in labelled:
            root = self._root(first.setdefault(label, channel))
            other = self._root(channel)
            if other != root:
                # The smaller one leads, so that channels keep their order.
                self._parent[max(root, other)] = min(root, other)

    def _root(self, channel: Channel) -> Channel:
        while channel in self._parent:
            grand = self._parent.get(self._parent[channel])
            if grand is not None:
                self._parent[channel] = grand
            channel = self._parent[channel]
        return channel

    def build(self) -> list[GroupBuilder]:
        """Return the groups with every set as one channel."""
        related = _CoupledChannels(self._builders)
        for channel in self._parent:
            related.join([(0, (channel[0], 0)), (0, (self._root(channel)[0], 0))])
        merged: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._builders)):
            merged[related._root((number, 0))[0]].append(number)
        return [part for numbers in merged.values() for part in self._build_related(numbers)]

    def _build_related(self, numbers: Sequence[int]) -> list[GroupBuilder]:
        roots = {
            (number, channel): self._root((number, channel))
            for number in numbers
            for channel in range(self._builders[number].size)
        }
        if all(channel == root for channel, root in roots.items()):
            return [self._builders[number] for number in numbers]
        held: dict[Channel, set[int]] = defaultdict(set)
        for (number, _), root in roots.items():
            held[root].add(number)
        # Channels that come from different builders may be fixed for different reasons.
        alike: dict[tuple[int, ...], dict[Channel, int]] = defaultdict(dict)
        for root, owners in held.items():
            numbering = alike[tuple(sorted(owners))]
            numbering[root] = len(numbering)
        return [
            part
            for owners, numbering in alike.items()
            for part in split(self._merge(owners, numbering, roots))
        ]

    def _merge(
        self,
        owners: Sequence[int],
        numbering: Mapping[Channel, int],
        roots: Mapping[Channel, Channel],
    ) -> GroupBuilder:
        """Return one builder for the sets of channels of ``owners`` that ``numbering`` numbers."""
        merged = GroupBuilder(len(numbering))
        for stream, owner in enumerate(owners):
            source = self._builders[owner]
            merged.reasons += [r for r in source.reasons if r not in merged.reasons]
            merged.crosses |= source.crosses
            for side, channels in source.sides.items():
                merged.streams[side] = SEVERAL if side in merged.sides else stream
                target = merged.sides.setdefault(side, [-1] * len(channels))
                for entry, channel in enumerate(channels):
                    if channel >= 0:
                        number = numbering.get(roots[owner, channel], -1)
                        target[entry] = max(target[entry], number)
        return merged
