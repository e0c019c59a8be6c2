"""What else is measured on the activation of a layer, one meter for each need."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gp_prune.statistics.running import derive_seed


def uniform(shape: tuple[int, ...], seed: int) -> Tensor:
    """Independent uniform numbers in the open interval (0, 1), float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(shape, dtype=torch.float64, generator=generator)
    return numbers.clamp(min=2.0**-54)  # torch.rand may return 0


class Picks(NamedTuple):
    """The samples of one batch that enter the sample: row ``rows[q]`` goes to ``slots[q]``."""

    rows: list[int]
    slots: list[int]


class Reservoir:
    """Chooses at most ``size`` samples of a stream, each with the same probability.

    Algorithm R (Vitter 1985), with one random number per sample, so that the choice depends on
    the seed and on the order of the samples but not on how they are cut into batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        """An empty reservoir for ``size`` samples."""
        self.size = size
        self._random = random.Random(derive_seed(seed, "samples", bits=63))
        self._seen = 0

    def offer(self, samples: int) -> Picks:
        """Decide about the next samples of the stream."""
        chosen: dict[int, int] = {}
        for row in range(samples):
            slot = self._seen
            if slot >= self.size:
                slot = self._random.randrange(self._seen + 1)
            if slot < self.size:
                chosen[slot] = row
            self._seen += 1
        return Picks(list(chosen.values()), list(chosen))


class Positions:
    """The chosen positions of a layer's maps: seeded, distinct and sorted."""

    def __init__(self, max_positions: int, seed: int) -> None:
        """Nothing chosen yet; the choice follows from ``seed`` alone."""
        self._max_positions = max_positions
        self._seed = seed
        self._size = 0  # positions of the first maps
        self._chosen: Tensor | None = None

    def among(self, size: int) -> Tensor:
        """Those among ``size``; maps of another size are read at the same places."""
        if self._chosen is None:
            generator = torch.Generator().manual_seed(self._seed)
            order = torch.randperm(size, generator=generator)
            self._chosen, self._size = order[: self._max_positions].sort().values, size
        return self._chosen * size // self._size


class Sampled:
    """One value of any shape per chosen sample."""

    def __init__(self) -> None:
        """No sample yet."""
        self._values: Tensor | None = None  # (n, ...)

    def put(self, values: Tensor, slots: list[int]) -> None:
        """Row q of ``values`` becomes the value of slot ``slots[q]``."""
        if self._values is None:
            self._values = values.new_zeros(0, *values.shape[1:])
        missing = max(slots, default=-1) + 1 - self._values.shape[0]
        if missing > 0:
            fresh = values.new_zeros(missing, *values.shape[1:])
            self._values = torch.cat([self._values, fresh])
        self._values[torch.tensor(slots, dtype=torch.int64, device=values.device)] = values

    def result(self) -> Tensor | None:
        """(n, ...), or None if nothing came."""
        return self._values


class SampledMaps:
    """The maps of the chosen samples at the chosen positions."""

    def __init__(self, max_positions: int, seed: int) -> None:
        """An empty store whose positions follow from ``seed``."""
        self._positions = Positions(max_positions, seed)
        self._values = Sampled()  # (n, channels, s)

    def put(self, maps: Tensor, picks: Picks) -> None:
        """Copy what is chosen out of ``maps`` (n, channels, positions)."""
        positions = self._positions.among(maps.shape[2]).to(maps.device)
        rows = torch.tensor(picks.rows, dtype=torch.int64, device=maps.device)
        self._values.put(maps.detach()[rows][:, :, positions], picks.slots)

    def result(self) -> Tensor | None:
        """(channels, n, s), float64, or None if no maps came."""
        values = self._values.result()
        if values is None:
            return None
        return values.transpose(0, 1).to(torch.float64).contiguous()


class Seen(NamedTuple):
    """One batch of a layer's activation.

    Attributes:
        maps: (n, o, positions).
        width: number of positions in a row of a map; it divides the number of positions.
        picks: which samples enter the sample.
        labels: (n,) class labels, where a need asks for them.
    """

    maps: Tensor
    width: int
    picks: Picks
    labels: Tensor | None


class Meter(Protocol):
    """Accumulates one kind of measurement of one layer over the batches."""

    def add(self, seen: Seen) -> None:
        """Take in a batch: the layer's first use in a run of the model."""

    def result(self, classes: int) -> dict[str, Tensor]:
        """Field of the record -> measurement; ``classes`` is the length of axis c."""
