"""Describe a network as channel groups and layer costs, in plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gp_prune.base.json_fields import canonical_digest
from gp_prune.pruning.cost import DENSE, DEPTHWISE, CostTable, LayerCost
from gp_prune.pruning.modules import PARAMETER
from gp_prune.statistics import Consumer

# Sides of a slot, beside PARAMETER; see Slot.
OUT = "out"
IN = "in"
DEPTHWISE_SIDE = "depthwise"
NORM_SIDE = "norm"
RESHAPE = "reshape"
HEADS = "heads"
SIZE = "size"
PAD = "pad"
SIDES = (OUT, IN, DEPTHWISE_SIDE, NORM_SIDE, RESHAPE, HEADS, SIZE, PAD, PARAMETER)

Removed = Mapping[str, Sequence[int]]
"""Group name -> channels that go."""

SEVERAL = -1
"""Stream of a slot whose entries belong to more than one: see :attr:`Slot.stream`."""

SCHEMA = 1
"""Version of the JSON form."""


@dataclass(frozen=True)
class Slot:
    """One side of one module that loses entries when channels of a group go.

    Attributes:
        module: dotted name of the module.
        side: ``"out"``: weights and bias of a layer that produces the channels; ``"in"``: input
            side of a layer that reads them; ``"depthwise"``: both sides of a depthwise
            convolution; ``"norm"``: numbers per channel of a batch or instance norm or a PReLU;
            ``"reshape"``: the first size of an ``nn.Unflatten``; ``"heads"``: the heads of an
            opened attention layer; ``"parameter"``: a parameter of no layer, such as a position
            embedding, with its name in place of the module's; ``"size"``: an attribute of a module
            that holds the number of channels, with the attribute's name in place of the module's;
            ``"pad"``: the channels of zeros that the code of a module puts before or after those of
            a map, with a name of :func:`gp_prune.pruning.padding.part_name`.
        channels: ``channels[q]`` is the channel of the group to which entry ``q`` of that side
            belongs, -1 where it belongs to another group or to none.
        stream: a layer reads what the layers of the same stream make. A group has several where a
            grouped convolution ties what it reads to what it makes.
    """

    module: str
    side: str
    channels: tuple[int, ...]
    stream: int = 0

    @cached_property
    def index(self) -> NDArray[np.int64]:
        """``channels`` as an array (entries,)."""
        return np.array(self.channels, dtype=np.int64)


@dataclass(frozen=True)
class Member:
    """The map from the output entries of one producer to the channels of a group.

    Attributes:
        layer: dotted name of the producer.
        width: number of its output entries.
        entries: those that belong to the group; None when entry ``q`` is channel ``q`` throughout.
        channels: the channel of each of ``entries``.
        counts: number of entries per channel (channels of the group,).
    """

    layer: str
    width: int
    entries: NDArray[np.int64] | None
    channels: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that the network ties together, over all modules that hold a part of them.

    Attributes:
        name: name of the first producer in module order.
        size: number of channels.
        slots: every module side that holds entries of these channels.
        fixed: empty when channels may be cut, otherwise the reason why the group is kept whole.
        crosses_normalisation: whether a layer or group normalisation spans the channels, so that
            cutting some changes what is computed of the others, which no mask can imitate.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    fixed: str = ""
    crosses_normalisation: bool = False

    @property
    def producers(self) -> tuple[str, ...]:
        """Return the modules that produce the channels, depthwise too, in module order."""
        return tuple(slot.module for slot in self.slots if slot.side in (OUT, DEPTHWISE_SIDE))

    @property
    def has_heads(self) -> bool:
        """Return whether the channels are the heads of attention layers."""
        return any(slot.side == HEADS for slot in self.slots)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """Return the producers with their index maps, in module order."""
        members = []
        for slot in self.slots:
            if slot.side in (OUT, DEPTHWISE_SIDE):
                entries = np.flatnonzero(slot.index >= 0)
                channels = slot.index[entries]
                counts = np.bincount(channels, minlength=self.size)
                plain = np.array_equal(slot.index, np.arange(self.size))
                width = len(slot.channels)
                mapped = None if plain else entries
                members.append(Member(slot.module, width, mapped, channels, counts))
        return tuple(members)


@dataclass(frozen=True)
class WholeModule:
    """A module with weights of which no channel can be cut, though no group says why.

    Attributes:
        name: dotted name of the module.
        reason: why it is kept whole.
        macs: MACs of the example batch; 0 for one of the layers, where they are counted.
        params: parameters of its own; 0 for one of the layers, where they are counted.
    """

    name: str
    reason: str
    macs: int = 0
    params: int = 0


@dataclass(frozen=True)
class Architecture:
    """Channel groups and layer costs of one network; plain data.

    Attributes:
        groups: all channel groups in module order of their first producers.
        layers: what each layer costs, in module order.
        samples: number of samples of the example batch.
        constant_macs: MACs of the example batch outside ``layers``.
        constant_params: parameters outside ``layers``.
        whole: modules with weights that are in no group.
        uncounted: names of operators that may multiply matrices and whose MACs are not known.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[LayerCost, ...]
    samples: int = 1
    constant_macs: int = 0
    constant_params: int = 0
    whole: tuple[WholeModule, ...] = ()
    uncounted: tuple[str, ...] = ()

    @cached_property
    def free(self) -> tuple[ChannelGroup, ...]:
        """Return the groups that may be cut, in order."""
        return tuple(group for group in self.groups if not group.fixed)

    @cached_property
    def by_name(self) -> dict[str, ChannelGroup]:
        """Return the groups by name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Return the number of channels of each free group (groups,)."""
        return np.array([group.size for group in self.free], dtype=np.int64)

    @cached_property
    def structures(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Return the structure of each free group: side and type of all its modules, in order.

        Groups with the same structure are isomorphic: they are ranked together in that scope.
        """
        types = {layer.name: layer.type or layer.kind for layer in self.layers}
        return tuple(
            tuple((slot.side, types.get(slot.module, "")) for slot in group.slots)
            for group in self.free
        )

    @cached_property
    def scored_layers(self) -> tuple[str, ...]:
        """Return the names of the layers that need scores: the producers of the free groups."""
        names = dict.fromkeys(name for group in self.free for name in group.producers)
        return tuple(names)

    @cached_property
    def prunable_layers(self) -> tuple[str, ...]:
        """Return the names of the layers with weights that a plan may rank, in module order.

        A layer that runs in training mode only has no positions, and is none of them.
        """
        return tuple(x.name for x in self.layers if x.kind in (DENSE, DEPTHWISE) and x.positions)

    @cached_property
    def _table(self) -> CostTable:
        sizes = {group.name: group.size for group in self.groups}
        return CostTable(self.layers, [group.name for group in self.free], sizes)

    def widths(self, removed: Removed) -> NDArray[np.int64]:
        """Return how many channels each free group (groups,) keeps when ``removed`` ones go."""
        kept = [group.size - len(removed.get(group.name, ())) for group in self.free]
        return np.array(kept, dtype=np.int64)

    def costs(self, kept: NDArray[np.int64]) -> tuple[int, int]:
        """Return (MACs per sample, parameters) when free group ``g`` keeps ``kept[g]`` channels."""
        macs, params = self._table.evaluate(kept)
        return (macs + self.constant_macs) // self.samples, params + self.constant_params

    @cached_property
    def dense_costs(self) -> tuple[int, int]:
        """Return (MACs per sample, parameters) of the whole network."""
        return self.costs(self.sizes)

    def entries(self, removed: Removed) -> dict[tuple[str, str], NDArray[np.int64]]:
        """Return which entries of which module side go when ``removed`` channels of the groups go.

        Args:
            removed: group name -> channels.

        Returns:
            (module, side) -> sorted entries, without sides that lose nothing.
        """
        entries: dict[tuple[str, str], NDArray[np.int64]] = {}
        for name, channels in removed.items():
            group = self.by_name[name]
            # One flag more than there are channels: index -1 (no channel) reads the last one.
            goes = np.zeros(group.size + 1, dtype=bool)
            goes[list(channels)] = True
            for slot in group.slots:
                hit = np.flatnonzero(goes[slot.index])
                if not hit.size:
                    continue
                key = (slot.module, slot.side)
                entries[key] = np.union1d(entries[key], hit) if key in entries else hit
        return entries

    def after_cut(self, removed: Removed) -> Architecture:
        """Return the architecture of the network that :func:`gp_prune.pruning.compact` gives.

        Groups keep their names and why they are fixed; the channels that stay are numbered again
        in the same order.

        Args:
            removed: group name -> channels that go.
        """
        entries = self.entries(removed)
        groups = []
        for group in self.groups:
            stays = np.ones(group.size, dtype=bool)
            stays[list(removed.get(group.name, ()))] = False
            # One number more than there are channels: index -1 (no channel) stays -1.
            number = np.append(np.where(stays, stays.cumsum() - 1, -1), -1)
            slots = []
            for slot in group.slots:
                index = np.delete(slot.index, entries.get((slot.module, slot.side), []))
                channels = tuple(number[index].tolist())
                if slot.side != PAD or max(channels, default=-1) >= 0:
                    slots.append(replace(slot, channels=channels))
            groups.append(replace(group, size=int(stays.sum()), slots=tuple(slots)))
        return replace(self, groups=tuple(groups))

    def join_cuts(self, first: Removed, then: Removed) -> dict[str, tuple[int, ...]]:
        """Return what two cuts, one after the other, remove from this network.

        Args:
            first: group name -> channels that go first.
            then: group name -> channels that go of what the first cut left, in its numbers.
        """
        total: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            left = np.delete(np.arange(group.size), list(first.get(group.name, ())))
            left = np.delete(left, list(then.get(group.name, ())))
            if left.size < group.size:
                total[group.name] = tuple(np.setdiff1d(np.arange(group.size), left).tolist())
        return total

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as a JSON object."""
        data = json.loads(json.dumps(asdict(self)))
        # What is new and empty is left out, as it is for most networks.
        for name in ("whole", "uncounted"):
            if not data[name]:
                del data[name]
        for layer in data["layers"]:
            if not layer["owner"]:
                del layer["owner"]
        return {"schema_version": SCHEMA, **data}

    @classmethod
    def from_json(cls, data: Any) -> Architecture:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is unknown, missing, of the wrong type or out of range, or parts do
                not fit one another.
        """
        from gp_prune.pruning.graph.reading import read_architecture

        return read_architecture(data)

    def digest(self) -> str:
        """Return the SHA-256 of the JSON form, which is equal for equal architectures only."""
        return canonical_digest(self.to_json())


def consumers(architecture: Architecture) -> dict[str, tuple[Consumer, ...]]:
    """Return the layers that read each layer's channels, for ``collect(..., outgoing=...)``.

    Channels that the network ties together, such as those that a residual connection adds up,
    are read by every layer that reads the group. A depthwise convolution reads its channels and
    hands them on, so it is a consumer of every layer of the group but itself. A channel that is
    flattened is read at every position. A grouped convolution ends what is read: what it makes
    is tied to what it reads and yet read by others. Layers that run in training mode only are no
    consumers.

    Returns:
        Name of every layer that produces channels -> its consumers in module order; none where
        nothing with weights follows, as after the network's output.
    """
    tables: dict[str, dict[str, list[list[int]]]] = {}
    idle = {layer.name for layer in architecture.layers if not layer.positions}
    for group in architecture.groups:
        for source in group.slots:
            if source.side not in (OUT, DEPTHWISE_SIDE):
                continue
            written = _entries_by_channel(source, group.size)
            readers = tables.setdefault(source.module, {})
            for slot in group.slots:
                same_stream = slot.stream == source.stream or SEVERAL in (
                    slot.stream,
                    source.stream,
                )
                reads = slot.side in (IN, DEPTHWISE_SIDE) and slot != source and same_stream
                if not reads or slot.module in idle:
                    continue
                table = readers.setdefault(slot.module, [[] for _ in source.channels])
                read = _entries_by_channel(slot, group.size)
                for outputs, inputs in zip(written, read, strict=True):
                    for entry, part in zip(outputs, _share_out(inputs, outputs), strict=True):
                        table[entry].extend(part)
    return {
        name: tuple(
            Consumer(module, tuple(tuple(entries) for entries in table))
            for module, table in readers.items()
        )
        for name, readers in tables.items()
    }


def _entries_by_channel(slot: Slot, size: int) -> list[list[int]]:
    entries: list[list[int]] = [[] for _ in range(size)]
    for entry, channel in enumerate(slot.channels):
        if channel >= 0:
            entries[channel].append(entry)
    return entries


def _share_out(inputs: list[int], outputs: list[int]) -> list[list[int]]:
    """Return which inputs of a channel read each of its outputs.

    A channel of a grouped convolution or of attention has several outputs, which are read in
    order, each as often as the others. Where a channel has fewer inputs than outputs, as after an
    unflattened map, every output is read by all of them.
    """
    each, rest = divmod(len(inputs), len(outputs))
    if rest or not each:
        return [inputs for _ in outputs]
    return [inputs[start : start + each] for start in range(0, len(inputs), each)]
