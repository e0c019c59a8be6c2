"""Which layers read the output channels of each layer, from the channel groups."""

from __future__ import annotations

from gp_prune.pruning.architecture import DEPTHWISE_SIDE, IN, OUT, Architecture, ChannelGroup, Slot
from gp_prune.statistics import Reader


def readers(architecture: Architecture) -> dict[str, tuple[Reader, ...]]:
    """The layers that read each layer's output channels, for ``collect(..., outgoing=...)``.

    Channels that the network ties together, such as those that a residual connection adds up,
    are read by every layer that reads the group. A depthwise convolution reads its channels and
    hands them on, so it counts as a reader for every layer of the group but itself. A channel that
    is flattened is read at every position.

    Returns:
        Name of every layer that produces channels -> its readers in module order; no readers
        where nothing with weights follows, as behind the network's output.
    """
    found: dict[str, dict[str, list[list[int]]]] = {}
    for group in architecture.groups:
        for source in group.slots:
            if source.side not in (OUT, DEPTHWISE_SIDE):
                continue
            width = len(source.channels)
            per_layer = found.setdefault(source.module, {})
            for slot in _reading(group, source):
                by_channel = _entries(slot, group.size)
                own = per_layer.setdefault(slot.module, [[] for _ in range(width)])
                for entry, channel in enumerate(source.channels):
                    if channel >= 0:
                        own[entry].extend(by_channel[channel])
    return {
        name: tuple(
            Reader(module, tuple(tuple(entries) for entries in table))
            for module, table in per_layer.items()
        )
        for name, per_layer in found.items()
    }


def _reading(group: ChannelGroup, source: Slot) -> list[Slot]:
    """The input sides of the group, without the depthwise side that is the source itself."""
    return [slot for slot in group.slots if slot.side in (IN, DEPTHWISE_SIDE) and slot != source]


def _entries(slot: Slot, size: int) -> list[list[int]]:
    """The input entries of each channel of the group."""
    found: list[list[int]] = [[] for _ in range(size)]
    for entry, channel in enumerate(slot.channels):
        if channel >= 0:
            found[channel].append(entry)
    return found
