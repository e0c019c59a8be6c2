"""Which layers read the output channels of each layer, from the channel groups."""

from __future__ import annotations

from gp_prune.pruning.graph.architecture import (
    DEPTHWISE_SIDE,
    IN,
    OUT,
    SEVERAL,
    Architecture,
    ChannelGroup,
    Slot,
)
from gp_prune.statistics import Consumer


def consumers(architecture: Architecture) -> dict[str, tuple[Consumer, ...]]:
    """The layers that read each layer's output channels, for ``collect(..., outgoing=...)``.

    Channels that the network ties together, such as those that a residual connection adds up,
    are read by every layer that reads the group. A depthwise convolution reads its channels and
    hands them on, so it counts as a reader for every layer of the group but itself. A channel that
    is flattened is read at every position. A grouped convolution ends what is read: what it makes
    is tied to what it reads and yet read by others. Layers that run in training mode only are no
    consumers.

    Returns:
        Name of every layer that produces channels -> its consumers in module order; no consumers
        where nothing with weights follows, as behind the network's output.
    """
    found: dict[str, dict[str, list[list[int]]]] = {}
    layers = {layer.name: layer for layer in architecture.layers}
    for group in architecture.groups:
        for source in group.slots:
            if source.side not in (OUT, DEPTHWISE_SIDE):
                continue
            width = len(source.channels)
            per_layer = found.setdefault(source.module, {})
            for slot in _reading(group, source):
                reader = layers.get(slot.module)
                if reader and not reader.positions:
                    continue  # it runs in training mode only
                own = per_layer.setdefault(slot.module, [[] for _ in range(width)])
                written, read = _entries(source, group.size), _entries(slot, group.size)
                for outputs, inputs in zip(written, read, strict=True):
                    for entry, part in zip(outputs, _shared_out(inputs, outputs), strict=True):
                        own[entry].extend(part)
    return {
        name: tuple(
            Consumer(module, tuple(tuple(entries) for entries in table))
            for module, table in per_layer.items()
        )
        for name, per_layer in found.items()
    }


def _reading(group: ChannelGroup, source: Slot) -> list[Slot]:
    """The input sides in the source's stream, without the depthwise side that is the source."""
    return [
        slot
        for slot in group.slots
        if slot.side in (IN, DEPTHWISE_SIDE)
        and slot != source
        and (slot.stream == source.stream or SEVERAL in (slot.stream, source.stream))
    ]


def _shared_out(inputs: list[int], outputs: list[int]) -> list[list[int]]:
    """Which inputs of a channel read each of its outputs.

    A channel of a grouped convolution or of attention has several outputs, which are read in
    order, each as often as the others. Where a channel has fewer inputs than outputs, as behind an
    unflattened map, every output is read by all of them.
    """
    each, rest = divmod(len(inputs), len(outputs))
    if rest or not each:
        return [inputs for _ in outputs]
    return [inputs[start : start + each] for start in range(0, len(inputs), each)]


def _entries(slot: Slot, size: int) -> list[list[int]]:
    """The entries of the slot that belong to each channel of the group."""
    found: list[list[int]] = [[] for _ in range(size)]
    for entry, channel in enumerate(slot.channels):
        if channel >= 0:
            found[channel].append(entry)
    return found
