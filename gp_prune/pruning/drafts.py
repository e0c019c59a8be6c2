"""Channel groups in the making: which channel each entry of each module side belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Draft:
    """A group in the making.

    Attributes:
        size: number of channels.
        sides: (module, side) -> channel of every entry, -1 where it is of no channel here.
        reasons: why the group is kept whole; empty while it may be cut.
        crosses: whether a normalisation spans the channels and they may be cut all the same.
        streams: (module, side) -> see :attr:`gp_prune.pruning.architecture.Slot.stream`; 0 where
            it is left out.
    """

    size: int
    sides: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    crosses: bool = False
    streams: dict[tuple[str, str], int] = field(default_factory=dict)


def split(draft: Draft) -> list[Draft]:
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
        return [Draft(draft.size, sides, draft.reasons, draft.crosses, draft.streams)]
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
        parts.append(Draft(len(numbering), sides, reasons, draft.crosses, draft.streams))
    return parts


def fix_overlaps(drafts: Iterable[Draft]) -> None:
    """Keep whole what holds the same entry of a module side as another group."""
    holders: dict[tuple[str, str], list[Draft]] = defaultdict(list)
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
