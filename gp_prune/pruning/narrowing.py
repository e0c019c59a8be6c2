"""The architecture of a network that was cut already, and plans for it in the first one's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gp_prune.pruning.architecture import Architecture

Removed = Mapping[str, Sequence[int]]
"""Group name -> channels that go."""


def narrowed(architecture: Architecture, removed: Removed) -> Architecture:
    """The architecture of the network that :func:`gp_prune.pruning.compact` makes.

    Groups keep their names and why they are fixed; what stays of their channels is numbered anew
    in the same order.

    Args:
        architecture: the whole network.
        removed: group name -> channels that go.
    """
    entries = architecture.entries(removed)
    groups = []
    for group in architecture.groups:
        gone = set(removed.get(group.name, ()))
        number = np.full(group.size + 1, -1, dtype=np.int64)  # index -1 (no channel) stays -1
        number[[c for c in range(group.size) if c not in gone]] = np.arange(group.size - len(gone))
        slots = []
        for slot in group.slots:
            stay = np.delete(slot.index, entries.get((slot.module, slot.side), []))
            slots.append(replace(slot, channels=tuple(number[stay].tolist())))
        groups.append(replace(group, size=group.size - len(gone), slots=tuple(slots)))
    return replace(architecture, groups=tuple(groups))


def joined_cuts(
    architecture: Architecture, first: Removed, then: Removed
) -> dict[str, tuple[int, ...]]:
    """What two cuts, one after the other, remove from the network that ``architecture`` is of.

    Args:
        architecture: the whole network.
        first: group name -> channels of it that go first.
        then: group name -> channels that go of what the first cut left, in its numbers.
    """
    total: dict[str, tuple[int, ...]] = {}
    for group in architecture.groups:
        gone = set(first.get(group.name, ()))
        left = [channel for channel in range(group.size) if channel not in gone]
        gone.update(left[channel] for channel in then.get(group.name, ()))
        if gone:
            total[group.name] = tuple(sorted(gone))
    return total
