"""Channels that can only go together because of the module that they pass through.

A grouped convolution must keep groups of one size. There are two ways to cut it, and the one that
leaves more choices is taken:

* whole groups go, each with the inputs that it reads and the outputs that it makes; the number of
  groups shrinks, as in a depthwise convolution, which is the case of one channel per group;
* the same offsets go in every group; the groups become narrower, inputs and outputs on their own.

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

from gp_prune.pruning.graph.architecture import IN, NORM_SIDE, OUT, SEVERAL
from gp_prune.pruning.modules import is_grouped


@dataclass
class GroupBuilder:
    """A group in the making.

    Attributes:
        size: number of channels.
        sides: (module, side) -> channel of every entry, -1 where it is of no channel here.
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


def split(draft: GroupBuilder) -> list[GroupBuilder]:
    """The parts of a group whose channels have entries in the same places.

    Where maps are concatenated, some channels of one table pass through one layer and some through
    another; as parts, every part can keep a channel of its own in each of its layers.
    """
    counts = [  # (channels,) for every side, -1 left out
        np.bincount(np.asarray(channels, dtype=np.int64) + 1, minlength=draft.size + 1)[1:]
        for channels in draft.sides.values()
    ]
    if all((found == found[0]).all() for found in counts):  # nearly always, and quick
        zipped = zip(draft.sides.items(), counts, strict=True)
        sides = {side: channels for (side, channels), found in zipped if found[0]}
        return [GroupBuilder(draft.size, sides, draft.reasons, draft.crosses, draft.streams)]
    alike: dict[tuple[int, ...], dict[int, int]] = {}
    for channel, signature in enumerate(zip(*(found.tolist() for found in counts), strict=True)):
        numbering = alike.setdefault(signature, {})
        numbering[channel] = len(numbering)
    parts = []
    for signature, numbering in alike.items():
        sides = {
            side: [numbering.get(channel, -1) for channel in channels]
            for (side, channels), entries in zip(draft.sides.items(), signature, strict=True)
            if entries
        }
        reasons = list(draft.reasons)
        parts.append(GroupBuilder(len(numbering), sides, reasons, draft.crosses, draft.streams))
    return parts


def fix_overlaps(drafts: Iterable[GroupBuilder]) -> None:
    """Keep whole what holds the same entry of a module side as another group."""
    holders: dict[tuple[str, str], list[GroupBuilder]] = defaultdict(list)
    for draft in drafts:
        for side in draft.sides:
            holders[side].append(draft)
    for side, sharing in holders.items():
        if len(sharing) == 1:
            continue  # nearly always, and quick
        held = [{e for e, channel in enumerate(d.sides[side]) if channel >= 0} for d in sharing]
        owners = Counter(entry for entries in held for entry in entries)
        for draft, entries in zip(sharing, held, strict=True):
            reason = f"layer {side[0]!r} ties its channels to those of another group"
            if reason not in draft.reasons and any(owners[entry] > 1 for entry in entries):
                draft.reasons.append(reason)


Place = tuple[int, int]
"""Number of a draft, and a channel of it."""


def tied(drafts: Sequence[GroupBuilder], modules: Mapping[str, nn.Module]) -> list[GroupBuilder]:
    """The drafts with channels joined that a grouped convolution or group norm ties together.

    Args:
        drafts: channel groups; those with a reason stay whole, and more may get one.
        modules: name -> module.
    """
    tying = {
        name: module
        for name, module in modules.items()
        if is_grouped(module) or isinstance(module, nn.GroupNorm)
    }
    if not tying:
        return list(drafts)
    places: dict[tuple[str, str], dict[int, Place]] = {}
    for number, draft in enumerate(drafts):
        for key, channels in draft.sides.items():
            held = places.setdefault(key, {})
            held.update({e: (number, c) for e, c in enumerate(channels) if c >= 0})
    ties = _Ties(drafts)
    for name, module in tying.items():
        if is_grouped(module):
            _tie_convolution(ties, name, module, places)
        elif isinstance(module, nn.GroupNorm):
            normed = places.get((name, NORM_SIDE), {})
            ties.join_offsets(name, normed, module.num_channels, module.num_groups)
    return ties.applied()


def loses_groups(module: Any) -> bool:
    """Whether a grouped convolution has at least as many groups as offsets in each."""
    narrow = min(module.in_channels, module.out_channels) // module.groups
    return bool(module.groups >= narrow)


def _tie_convolution(
    ties: _Ties, name: str, module: Any, places: Mapping[tuple[str, str], Mapping[int, Place]]
) -> None:
    inputs, outputs = places.get((name, IN), {}), places.get((name, OUT), {})
    known = len(inputs) == module.in_channels and len(outputs) == module.out_channels
    if loses_groups(module) and known and ties.may_go([*inputs.values(), *outputs.values()]):
        reads, makes = module.in_channels // module.groups, module.out_channels // module.groups
        both: list[tuple[int, Place]] = [(q // reads, place) for q, place in inputs.items()]
        ties.join([*both, *((q // makes, place) for q, place in outputs.items())])
        return
    ties.join_offsets(name, inputs, module.in_channels, module.groups)
    ties.join_offsets(name, outputs, module.out_channels, module.groups)


class _Ties:
    """Sets of channels that go together (a union-find structure)."""

    def __init__(self, drafts: Sequence[GroupBuilder]) -> None:
        self._drafts = drafts
        self._parent: dict[Place, Place] = {}

    def may_go(self, places: Iterable[Place]) -> bool:
        """Whether none of the channels has to stay."""
        return not any(self._drafts[number].reasons for number, _ in places)

    def join_offsets(
        self, name: str, entries: Mapping[int, Place], width: int, groups: int
    ) -> None:
        """Tie the channels at equal offsets in ``groups`` parts of a side of module ``name``.

        Where some of the side's entries have to stay, all do.
        """
        if len(entries) == width and self.may_go(entries.values()):
            self.join((entry % (width // groups), place) for entry, place in entries.items())
            return
        for number in {number for number, _ in entries.values()}:
            if not self._drafts[number].reasons:
                reason = f"layer {name!r} ties its channels to others that stay"
                self._drafts[number].reasons.append(reason)

    def join(self, labelled: Iterable[tuple[Hashable, Place]]) -> None:
        """Tie the channels that have equal labels."""
        first: dict[Hashable, Place] = {}
        for label, place in labelled:
            root = self._root(first.setdefault(label, place))
            other = self._root(place)
            if other != root:
                # The smaller one leads, so that channels keep their order.
                self._parent[max(root, other)] = min(root, other)

    def _root(self, place: Place) -> Place:
        while place in self._parent:
            grand = self._parent.get(self._parent[place])
            if grand is not None:
                self._parent[place] = grand
            place = self._parent[place]
        return place

    def applied(self) -> list[GroupBuilder]:
        """The drafts with every set as one channel."""
        together = _Ties(self._drafts)
        for place in self._parent:
            together.join([(0, (place[0], 0)), (0, (self._root(place)[0], 0))])
        merged: dict[int, list[int]] = {}
        for number in range(len(self._drafts)):
            merged.setdefault(together._root((number, 0))[0], []).append(number)
        return [part for numbers in merged.values() for part in self._joined(numbers)]

    def _joined(self, numbers: Sequence[int]) -> list[GroupBuilder]:
        drafts = self._drafts
        roots = {
            (number, channel): self._root((number, channel))
            for number in numbers
            for channel in range(drafts[number].size)
        }
        if all(place == root for place, root in roots.items()):
            return [drafts[number] for number in numbers]
        held: dict[Place, set[int]] = {}
        for (number, _), root in roots.items():
            held.setdefault(root, set()).add(number)
        # Channels that come from different drafts may be fixed for different reasons.
        alike: dict[tuple[int, ...], dict[Place, int]] = {}
        for root, owners in held.items():
            members = alike.setdefault(tuple(sorted(owners)), {})
            members[root] = len(members)
        return [
            part
            for owners, numbering in alike.items()
            for part in split(_merged(drafts, owners, numbering, roots))
        ]


def _merged(
    drafts: Sequence[GroupBuilder],
    owners: Sequence[int],
    numbering: Mapping[Place, int],
    roots: Mapping[Place, Place],
) -> GroupBuilder:
    """One draft of the parts of ``owners`` whose sets of channels ``numbering`` numbers."""
    draft = GroupBuilder(len(numbering))
    for stream, owner in enumerate(owners):
        source = drafts[owner]
        draft.reasons += [reason for reason in source.reasons if reason not in draft.reasons]
        draft.crosses |= source.crosses
        for key, channels in source.sides.items():
            draft.streams[key] = SEVERAL if key in draft.sides else stream
            target = draft.sides.setdefault(key, [-1] * len(channels))
            for entry, channel in enumerate(channels):
                if channel >= 0:
                    target[entry] = max(target[entry], numbering.get(roots[owner, channel], -1))
    return draft
