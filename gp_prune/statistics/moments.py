"""Means and variances per channel and group of samples, streamed without loss of precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_CACHED = 2**16
"""Values that are looked at a time: 0.5 MB in float64, so that they stay in the cache."""


def _within(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and summed squared deviation over the positions of every map, (n, channels).

    In two steps, which cancels nothing; a few maps at a time, which is five times as fast.
    """
    outer = 0 if maps.stride(0) >= maps.stride(1) else 1
    average = maps.new_full((maps.shape[2],), 1 / max(1, maps.shape[2]), dtype=torch.float64)
    means, inner = [], []
    count = max(1, _CACHED * maps.shape[outer] // max(1, maps.numel()))
    for start in range(0, maps.shape[outer], count):
        part = maps.narrow(outer, start, min(count, maps.shape[outer] - start))
        values = part.to(torch.float64)
        mean = values @ average
        deviation = values - mean.unsqueeze(2)
        means.append(mean)
        inner.append(torch.linalg.vector_norm(deviation, dim=2).square())
    return torch.cat(means, outer), torch.cat(inner, outer)


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
        mean, inner = _within(maps)
        member = functional.one_hot(groups, size).to(torch.float64)  # (n, c)
        samples = member.sum(0)
        positions = maps.shape[2]
        group_mean = (mean.T @ member) / samples.clamp(min=1)  # (o, c)
        deviation = mean.T - group_mean[:, groups]  # (o, n)
        squares = (inner.T + positions * deviation.square()) @ member
        if self.mean.numel() == 0:
            self.count, self.mean, self.squares = samples * positions, group_mean, squares
            return
        self.grow(size)
        self._merge(samples * positions, group_mean, squares)

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
