"""Decide which samples and positions of the layers' maps are kept, and keep them.

A network has too many values to keep them all: of every layer's input and output, the maps of at
most :data:`MAX_SAMPLES` samples at :data:`MAX_POSITIONS` positions are. :class:`Sampling` is the
one place where this is decided; the other classes carry it out.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gp_prune.statistics.running import derive_seed

MAX_MEMORY = 2 * 10**9
"""Bytes that may be held beside the forward and the backward pass, by default."""

MAX_SAMPLES = 64
"""Samples (n) that are kept, the same for all layers."""

MAX_POSITIONS = 64
"""Positions (s) that are kept of each layer's maps."""


class Sampling(NamedTuple):
    """How many samples and positions are kept; which ones follows from the seed."""

    seed: int = 0
    max_samples: int = MAX_SAMPLES
    max_positions: int = MAX_POSITIONS

    def samples(self) -> Reservoir:
        """Return a choice of samples, each with the same probability."""
        return Reservoir(self.max_samples, derive_seed(self.seed, "samples", bits=63))

    def positions(self, layer: str, side: str) -> Positions:
        """Return a choice of positions in the maps of one side of a layer, such as "inputs"."""
        return Positions(self.max_positions, derive_seed(self.seed, layer, side, bits=63))


class Picks(NamedTuple):
    """The samples of one batch that are kept: row ``rows[q]`` goes to ``slots[q]``."""

    rows: list[int]
    slots: list[int]


class Reservoir:
    """Choose at most ``size`` samples of a stream, each with the same probability.

    Algorithm R (Vitter 1985), with one random number per sample, so that the choice depends on
    the seed and on the order of the samples but not on how they are cut into batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._random = random.Random(seed)
        self._offered = 0

    def offer(self, samples: int) -> Picks:
        """Decide about the next samples of the stream."""
        chosen: dict[int, int] = {}
        for row in range(samples):
            slot = self._offered
            if slot >= self.size:
                slot = self._random.randrange(self._offered + 1)
            if slot < self.size:
                chosen[slot] = row
            self._offered += 1
        return Picks(list(chosen.values()), list(chosen))


class Positions:
    """The chosen positions of a layer's maps: seeded, distinct and sorted."""

    def __init__(self, max_positions: int, seed: int) -> None:
        self._max_positions = max_positions
        self._seed = seed
        self._size = 0  # positions of the first maps
        self._chosen: Tensor | None = None

    def among(self, size: int) -> Tensor:
        """Return those among ``size``; maps of another size are read at the same places."""
        if self._chosen is None:
            generator = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(size, generator=generator)
            self._chosen, self._size = order[: self._max_positions].sort().values, size
        return self._chosen * size // self._size


class SampledValues:
    """One value of any shape per kept sample."""

    def __init__(self) -> None:
        self._values: Tensor | None = None  # (n, ...)

    def put(self, values: Tensor, slots: list[int]) -> None:
        """Keep row q of ``values`` as the value of slot ``slots[q]``."""
        if self._values is None:
            self._values = values.new_zeros(0, *values.shape[1:])
        missing = max(slots, default=-1) + 1 - self._values.shape[0]
        if missing > 0:
            fresh = values.new_zeros(missing, *values.shape[1:])
            self._values = torch.cat([self._values, fresh])
        self._values[torch.tensor(slots, dtype=torch.int64, device=values.device)] = values

    def result(self) -> Tensor | None:
        """Return the values (n, ...), or None if nothing came."""
        return self._values


class SampledMaps:
    """The maps of the kept samples at the kept positions."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._values = SampledValues()  # (n, channels, s)

    def put(self, maps: Tensor, picks: Picks) -> None:
        """Copy what is kept out of ``maps`` (n, channels, positions)."""
        positions = self._positions.among(maps.shape[2]).to(maps.device)
        rows = torch.tensor(picks.rows, dtype=torch.int64, device=maps.device)
        self._values.put(maps.detach()[rows][:, :, positions], picks.slots)

    def result(self) -> Tensor | None:
        """Return the maps (channels, n, s), float64, or None if none came."""
        values = self._values.result()
        if values is None:
            return None
        return values.transpose(0, 1).to(torch.float64).contiguous()


class MapBatch(NamedTuple):
    """One batch of a layer's activation.

    Attributes:
        maps: (n, o, positions).
        width: number of positions in a row of a map; it divides the number of positions.
        picks: the samples that are kept.
        labels: (n,) class labels, where a need asks for them.
    """

    maps: Tensor
    width: int
    picks: Picks
    labels: Tensor | None


class Meter(Protocol):
    """Accumulates one kind of measurement of one layer over the batches."""

    def add(self, batch: MapBatch) -> None:
        """Take in a batch: the layer's first use in a run of the model."""

    def result(self, classes: int) -> dict[str, Tensor]:
        """Return measurements by field of the record; ``classes`` is the length of axis c."""
