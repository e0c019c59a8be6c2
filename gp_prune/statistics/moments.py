"""Means and variances per channel and group of samples, streamed without loss of precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CACHED = 2**17
"""Values that are looked at a time: 1 MB in float64, so that they stay in the cache."""

_SHORT = 256
"""Positions of a float32 map that are summed in float32, of larger maps in float64. The error of
so short a sum is as small as the rounding of the values themselves, and it is twice as fast."""

_CANCELLED = {torch.float32: 0.05, torch.float64: 1e-5}
"""Share of the summed squares below which their difference to the mean's has lost digits."""


def _sums_and_norms(maps: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum and Euclidean norm of every map, both (n, channels), added up in ``precision``."""
    outer = 0 if maps.stride(0) >= maps.stride(1) else 1
    sums, norms = (maps.new_empty(maps.shape[:2], dtype=precision) for _ in range(2))
    count = max(1, _CACHED * maps.shape[outer] // max(1, maps.numel()))
    for start in range(0, maps.shape[outer], count):
        size = min(count, maps.shape[outer] - start)
        values = maps.narrow(outer, start, size).to(precision)
        torch.sum(values, 2, out=sums.narrow(outer, start, size))
        torch.linalg.vector_norm(values, dim=2, out=norms.narrow(outer, start, size))
    return sums.to(torch.float64), norms.to(torch.float64)


def _by_group(maps: Tensor, groups: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and summed squared deviation of each channel in each group, both (channels, c).

    Both come from one look at the values, as sums and sums of squares; the few channels where
    that cancels too many digits are looked at again, in two steps.
    """
    short = maps.dtype == torch.float32 and maps.shape[2] <= _SHORT
    precision = torch.float32 if short else torch.float64
    sums, norms = _sums_and_norms(maps, precision)
    total, energy = sums.T @ member, norms.square_().T @ member
    mean = total / (member.sum(0) * maps.shape[2]).clamp(min=1)
    squares = (energy - total * mean).clamp(min=0)
    inexact = (squares < _CANCELLED[precision] * energy).any(1)
    for channel in torch.nonzero(inexact).flatten().tolist():
        values = maps[:, channel].to(torch.float64)  # (n, s)
        mean[channel] = (values.sum(1) @ member) / (member.sum(0) * maps.shape[2]).clamp(min=1)
        deviation = values - mean[channel, groups].unsqueeze(1)
        squares[channel] = deviation.square().sum(1) @ member
    return mean, squares


class Moments:
    """Count, mean and sum of squared deviations per channel and group, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), which does not
    subtract large numbers as sums of squares would, so that the order and size of the batches do
    not matter. A group is a class of samples; with one group these are plain moments.
    """

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.count = torch.zeros(0, dtype=torch.float64)  # (c,) values: samples times positions
        self.mean = torch.zeros(0, 0, dtype=torch.float64)  # (channels, c)
        self.squares = torch.zeros(0, 0, dtype=torch.float64)  # (channels, c)

    def add(self, maps: Tensor, groups: Tensor, size: int) -> None:
        """Merge a batch.

        Args:
            maps: (n, channels, s).
            groups: (n,) group of each sample, below ``size``.
            size: number of groups known so far; never smaller than before.
        """
        member = functional.one_hot(groups, size).to(torch.float64)  # (n, c)
        count = member.sum(0) * maps.shape[2]
        mean, squares = _by_group(maps, groups, member)
        if self.mean.numel() == 0:
            self.count, self.mean, self.squares = count, mean, squares
            return
        self.grow(size)
        self._merge(count, mean, squares)

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        delta = mean - self.mean
        share = count / (self.count + count).clamp(min=1)
        self.squares = self.squares + squares + delta.square() * self.count * share
        self.mean = self.mean + delta * share
        self.count = self.count + count

    def grow(self, size: int) -> None:
        """Add empty groups up to ``size``."""
        missing = (0, size - self.count.shape[0])
        if missing[1] > 0:
            self.count = functional.pad(self.count, missing)
            self.mean = functional.pad(self.mean, missing)
            self.squares = functional.pad(self.squares, missing)

    @property
    def variance(self) -> Tensor:
        """(channels, c) population variance; 0 for a group without values."""
        return self.squares / self.count.clamp(min=1)

    def rest(self) -> Moments:
        """The moments of all other groups together, for each group."""
        others = Moments()
        keep = 1 - torch.eye(
            self.count.shape[0], dtype=torch.float64, device=self.count.device
        )  # keep[c, q]: group q is another group than c
        weight = keep * self.count  # (c, q)
        others.count = weight.sum(1)
        total = others.count.clamp(min=1)
        others.mean = (self.mean @ weight.T) / total
        others.squares = self.squares @ keep.T
        for group in range(self.count.shape[0]):  # one at a time: (o, c, c) may not fit
            deviation = self.mean[:, group : group + 1] - others.mean
            others.squares = others.squares + deviation.square() * weight[:, group]
        return others
