"""The mean map of every class, of all its other classes, and of all samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics.meters import Seen
from gp_prune.statistics.sampling import Positions

_MOST_VALUES = 2**26
"""Largest o * c * s that is kept for a layer: 0.5 GB in float64."""

_SHORT = 256
"""Samples that are summed in the precision of the maps before float64 takes over: so few lose no
more than the values' own rounding, and it is ten times as fast."""


class Centroids:
    """Sums of the maps of each class at the sampled positions, over all samples.

    The positions are those of ``activation``. A class without samples, or without samples outside
    it, has mean maps of 0.
    """

    def __init__(self, layer: str, positions: Positions) -> None:
        """Nothing summed yet; ``layer`` is what errors name."""
        self._layer = layer
        self._positions = positions
        self._sums: Tensor | None = None  # (c, o, s)
        self._count = torch.zeros(0, dtype=torch.float64)  # (c,) samples

    def add(self, seen: Seen) -> None:
        """Add the maps of a batch.

        Raises:
            UserError: classes, channels and positions together are too many.
        """
        assert seen.labels is not None
        size = seen.maps.shape[2]
        chosen = self._positions.among(size)
        whole = torch.equal(chosen, torch.arange(size))  # spares a copy
        maps = seen.maps if whole else seen.maps[:, :, chosen.to(seen.maps.device)]
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        classes = max(int(seen.labels.max()) + 1, self._count.shape[0])
        self._check_size(classes, *maps.shape[1:])
        if self._sums is None:
            self._sums = maps.new_zeros(0, *maps.shape[1:], dtype=torch.float64)
            self._count = self._count.to(maps.device)
        self._grow(classes)
        parts = (torch.split(value, _SHORT) for value in (maps, seen.labels))
        for some, labels in zip(*parts, strict=True):
            self._sums += _sums_by_label(some, labels, classes)
        self._count += torch.bincount(seen.labels, minlength=classes)

    def _check_size(self, classes: int, channels: int, positions: int) -> None:
        if classes * channels * positions > _MOST_VALUES:
            raise UserError(
                f"the mean maps of layer {self._layer!r} have {classes} classes x {channels} "
                f"channels x {positions} positions, more than {_MOST_VALUES} values; lower "
                "max_positions or leave out the need 'centroids'"
            )

    def _grow(self, classes: int) -> None:
        missing = classes - self._count.shape[0]
        if missing > 0 and self._sums is not None:
            self._sums = functional.pad(self._sums, (0, 0, 0, 0, 0, missing))
            self._count = functional.pad(self._count, (0, missing))

    def result(self, classes: int) -> dict[str, Tensor]:
        """``class_map`` and ``rest_map`` (o, c, s), ``mean_map`` (o, s)."""
        if self._sums is None:
            return {}
        self._grow(classes)
        total, count = self._sums.sum(0), self._count.reshape(-1, 1, 1)
        class_map = self._sums / count.clamp(min=1)
        rest = count.sum() - count
        rest_map = torch.where(rest > 0, (total - self._sums) / rest.clamp(min=1), 0.0)
        return {
            "class_map": class_map.transpose(0, 1).contiguous(),
            "rest_map": rest_map.transpose(0, 1).contiguous(),
            "mean_map": total / count.sum(),
        }


def _sums_by_label(maps: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(c, o, s): the sum of the maps of each class.

    A sum of table rows by bags is what torch does fastest here: twice as fast as ``index_add``.
    """
    counts = torch.bincount(labels, minlength=classes)
    starts = counts.cumsum(0) - counts
    rows = functional.embedding_bag(labels.argsort(), maps.flatten(1), starts, mode="sum")
    return rows.reshape(classes, *maps.shape[1:])
