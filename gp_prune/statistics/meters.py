"""What else is measured on the activation of a layer, one meter for each need."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from gp_prune.statistics.sampling import Picks


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
