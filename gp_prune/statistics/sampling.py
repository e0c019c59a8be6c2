"""Decide how much of the layers' maps is kept in memory at a time, and keep it.

Formulas are evaluated on all samples and all positions. What needs all samples of a layer at once
is measured layer by layer, in groups of layers whose maps fit in memory, with one pass over the
data for each. Only where a single layer does not fit are the maps of a sample of its positions kept
and, where one position is still too much, those of a sample of the samples, which is then the
sample for everything that is measured. :func:`share_memory` is the one place where this is decided;
the classes carry it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gp_prune.language.record import Coverage
from gp_prune.statistics.running import derive_seed

MAX_MEMORY = 2 * 10**9
"""Bytes that may be held beside the forward and the backward pass, by default."""

SIDES = {
    "inputs": "inputs",
    "pre_activation": "outputs",
    "activation": "outputs",
    "output_grad": "outputs",
    "class_map": "outputs",
    "rest_map": "outputs",
    "mean_map": "outputs",
    "kernel_class": "outputs",
    "kernel_rest": "outputs",
    "kernel_between": "outputs",
}
"""Fields of a record that are measured on maps, with the side of the layer whose positions they
have."""


class Maps(NamedTuple):
    """The size of what a layer gets or returns for one sample.

    Attributes:
        channels: number of channels.
        positions: positions of the map of each channel.
        item_bytes: bytes of a number.
    """

    channels: int
    positions: int
    item_bytes: int


class Census(NamedTuple):
    """How many samples the data has, and how many classes (0 where labels are not asked for)."""

    samples: int
    classes: int


class Demand(NamedTuple):
    """Bytes that one side of a layer takes.

    Attributes:
        layer: name of the layer.
        side: ``"inputs"`` or ``"outputs"``.
        positions: positions of its maps.
        each: bytes for every position.
        extra: bytes for every position that are taken only while the layer is evaluated.
    """

    layer: str
    side: str
    positions: int
    each: int
    extra: int = 0

    @property
    def total(self) -> int:
        """Return the bytes for all positions."""
        return self.positions * (self.each + self.extra)


@dataclass(frozen=True)
class Sampling:
    """How much is kept of the layers' maps.

    Attributes:
        seed: decides which samples and positions are kept where not all are.
        samples: samples that are seen; None for all of them.
        most: positions that are kept, by layer and side; a side that is missing keeps all.
        groups: the layers that are measured together, in one pass over the data each.
        sizes: positions of the maps, by layer and side.
    """

    seed: int = 0
    samples: int | None = None
    most: Mapping[tuple[str, str], int] = field(default_factory=dict)
    groups: Sequence[Sequence[str]] = ()
    sizes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def positions(self, layer: str, side: str) -> Positions:
        """Return a choice of positions in the maps of one side of a layer, such as "inputs"."""
        seed = derive_seed(self.seed, layer, side, bits=63)
        return Positions(self.most.get((layer, side)), seed)

    def coverage(self, layer: str, name: str, samples: int, of_samples: int) -> Coverage:
        """Return how much a field of a layer saw, when so many samples were seen."""
        side = (layer, SIDES.get(name, ""))
        size = self.sizes.get(side, 1)
        return Coverage(samples, of_samples, min(size, self.most.get(side, size)), size)

    def chosen_samples(self, of: int) -> Tensor | None:
        """Return the sorted numbers of the samples that are seen; None for all of them."""
        if self.samples is None or self.samples >= of:
            return None
        seed = derive_seed(self.seed, "samples", bits=63)
        order = torch.randperm(of, generator=torch.Generator().manual_seed(seed))
        return order[: self.samples].sort().values


def share_memory(
    demands: Sequence[Demand],
    layers: Iterable[str],
    census: Census,
    *,
    memory: int,
    together: bool,
    seed: int,
) -> Sampling:
    """Decide how much is kept of each layer, and which layers are measured together.

    Args:
        demands: what the layers would take for all samples and positions.
        layers: names of all layers, in order.
        census: the size of the data.
        memory: bytes that may be taken; where layers are let go, what is kept of the layers of a
            group takes 5/8 of it, and 7/8 with what evaluating one of them takes for a moment, as
            a layer alone does.
        together: whether all layers are kept until the end; otherwise each is let go when the pass
            of its group has been dealt with.
        seed: decides what is kept where not all is.
    """
    names = list(layers)
    by_layer = {name: [d for d in demands if d.layer == name] for name in names}
    rounds = [list(demands)] if together else list(by_layer.values())
    limit = memory if together else memory * 7 // 8
    most = {side: count for some in rounds for side, count in _fit(some, limit).items()}

    def seen(demand: Demand) -> int:
        return most.get((demand.layer, demand.side), demand.positions)

    least = max((sum((d.each + d.extra) * seen(d) for d in some) for some in rounds), default=0)
    samples = None
    if least > limit:
        samples = max(1, census.samples * limit // least)
    sizes = {(d.layer, d.side): d.positions for d in demands}
    kept = {name: sum(d.each * seen(d) for d in some) for name, some in by_layer.items()}
    moments = {name: sum(d.extra * seen(d) for d in some) for name, some in by_layer.items()}
    groups = [names] if together else _grouped(kept, moments, memory)
    return Sampling(seed, samples, most, groups, sizes)


def _fit(demands: Sequence[Demand], memory: int) -> dict[tuple[str, str], int]:
    """Return the positions of those that get less than they ask for, the largest first.

    All that are cut get the same number of bytes.
    """
    left, most = memory, {}
    asking = (demand for demand in demands if demand.total)
    waiting = sorted(asking, key=lambda demand: (demand.total, demand.layer, demand.side))
    for number, demand in enumerate(waiting):
        share = left // (len(waiting) - number)
        each = demand.each + demand.extra
        count = min(demand.positions, max(1, share // each))
        if count < demand.positions:
            most[demand.layer, demand.side] = count
        left -= min(left, count * each)
    return most


def _grouped(kept: Mapping[str, int], moments: Mapping[str, int], memory: int) -> list[list[str]]:
    """Cut the layers, in order, into groups that fit, each evaluated while all are kept."""
    groups: list[list[str]] = [[]]
    held = moment = 0
    for name, size in kept.items():
        held, moment = held + size, max(moment, moments[name])
        if groups[-1] and (held > memory * 5 // 8 or held + moment > memory * 7 // 8):
            groups.append([])
            held, moment = size, moments[name]
        groups[-1].append(name)
    return groups


class Positions:
    """The chosen positions of a layer's maps: seeded, distinct and sorted.

    Args:
        most: how many are chosen; None for all of them.
        seed: decides which.
    """

    def __init__(self, most: int | None, seed: int) -> None:
        self._most = most
        self._seed = seed
        self._size = 0  # positions of the first maps
        self._chosen: Tensor | None = None

    def among(self, maps: Tensor) -> Tensor:
        """Return ``maps`` (n, channels, positions) at the chosen positions.

        Where some are left out, maps that are larger or smaller than the first ones are read at the
        same places.
        """
        if self._most is None:
            return maps
        size = maps.shape[2]
        if self._chosen is None:
            self._size = size
            generator = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(size, generator=generator)
            self._chosen = order[: self._most].sort().values.to(maps.device)
        if size == self._size == len(self._chosen):
            return maps
        return maps[:, :, self._chosen * size // self._size]


class KeptValues:
    """The values of all samples, in their order and their precision: maps, or one per channel."""

    def __init__(self, samples: int) -> None:
        self._expected = samples
        self._values: Tensor | None = None  # (n, channels[, positions])
        self._filled = 0

    def put(self, values: Tensor) -> None:
        """Keep the values (n, channels[, positions]) of the next samples."""
        stop = self._filled + values.shape[0]
        if self._values is None:
            room = max(stop, self._expected)
            self._values = values.new_empty(room, *values.shape[1:])
        elif stop > self._values.shape[0]:  # more samples than the data told
            room = max(stop, 2 * self._values.shape[0])
            grown = values.new_empty(room, *values.shape[1:])
            grown[: self._filled] = self._values[: self._filled]
            self._values = grown
        self._values[self._filled : stop] = values.detach()
        self._filled = stop

    def result(self) -> Tensor | None:
        """Return the values (channels, n[, positions]), or None if none came."""
        if self._values is None:
            return None
        return self._values[: self._filled].transpose(0, 1)
