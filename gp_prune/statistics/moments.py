"""Measure activations by class: moments, mean maps, and how alike the maps of a class are."""

from __future__ import annotations

from collections.abc import Iterator

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
    """Return sum and Euclidean norm of every map, both (n, channels), added in ``precision``."""
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
    """Return mean and summed squared deviation of each channel in each group, both (channels, c).

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
        """Return the population variance (channels, c); 0 for a group without values."""
        return self.squares / self.count.clamp(min=1)

    def rest(self) -> Moments:
        """Return the moments of all other groups together, for each group."""
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


class Centroids:
    """Sums of the maps of each class, over all samples.

    A class without samples, or without samples outside it, has mean maps of 0.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # (c, o, s)
        self._count = torch.zeros(0, dtype=torch.float64)  # (c,) samples

    def add(self, maps: Tensor, labels: Tensor) -> None:
        """Add the maps (n, o, positions) of some samples with their labels (n,)."""
        classes = max(int(labels.max()) + 1, self._count.shape[0])
        if self._sums is None:
            self._sums = maps.new_zeros(0, *maps.shape[1:], dtype=torch.float64)
            self._count = self._count.to(maps.device)
        self._grow(classes)
        step = max(1, _CACHED // max(1, maps[0].numel()))
        parts = (torch.split(value, step) for value in (maps, labels))
        for some, of_some in zip(*parts, strict=True):
            _add_by_label(self._sums, some, of_some)
        self._count += torch.bincount(labels, minlength=classes)

    def _grow(self, classes: int) -> None:
        missing = classes - self._count.shape[0]
        if missing > 0 and self._sums is not None:
            self._sums = functional.pad(self._sums, (0, 0, 0, 0, 0, missing))
            self._count = functional.pad(self._count, (0, missing))

    def result(self, classes: int) -> dict[str, Tensor]:
        """Return ``class_map`` and ``rest_map`` (o, c, s), ``mean_map`` (o, s)."""
        if self._sums is None:
            return {}
        self._grow(classes)
        total, count = self._sums.sum(0), self._count.reshape(-1, 1, 1)
        class_map = self._sums / count.clamp(min=1)
        rest = count.sum() - count
        rest_map = (total - self._sums).div_(rest.clamp(min=1)).mul_(rest > 0)
        return {
            "class_map": class_map.transpose(0, 1),
            "rest_map": rest_map.transpose(0, 1),
            "mean_map": total / count.sum(),
        }


def _add_by_label(sums: Tensor, maps: Tensor, labels: Tensor) -> None:
    """Add the maps of each class to its sum (c, o, s), in float64.

    A sum of table rows by bags is what torch does fastest here: twice as fast as ``index_add``.
    """
    if len(labels) == 1:
        sums[labels[0]].add_(maps[0])
        return
    present, bags = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    counts = torch.bincount(bags)
    starts = counts.cumsum(0) - counts
    rows = functional.embedding_bag(bags.argsort(), maps.flatten(1).double(), starts, mode="sum")
    sums[present] += rows.reshape(len(present), *maps.shape[1:])


_MOST_AT_ONCE = 2**21
"""Numbers that are worked on at a time: 16 MB in float64."""

_SHARES, _BLOCK = 8, 2**18
"""Parts of the rows of a matrix of kernels, which is symmetric, so that about half of it is
computed; and numbers in the parts of several channels that are computed at a time."""

_LOST_DIGITS = 1e-10
"""Error of a squared distance above which it is not taken from a product of matrices."""


def mean_kernels(
    maps: Tensor, labels: Tensor, classes: int, growth: float = 1.0
) -> dict[str, Tensor]:
    """Return the mean RBF kernel between the maps of each channel, by class.

    ``k(x, y) = exp(-|x - y|^2 / 2)``: the bandwidth is 1, as in the MMD of Liu et al. (GECCO 2022).
    x and y are the maps of two samples. As there, a sample is also paired with itself, so that
    kPP + kQQ - 2 kPQ is never negative. A class without a sample has 0 wherever it takes part.

    Args:
        maps: (o, n, positions), in any precision.
        labels: (n,).
        classes: the length of axis c.
        growth: all positions, as a multiple of those that the maps have; squared distances are
            sums over the positions, and grow alike.

    Returns:
        ``kernel_class``, ``kernel_rest`` and ``kernel_between`` (o, c), by field of the record.
    """
    member = functional.one_hot(labels, classes).to(torch.float64)  # (n, c)
    samples = maps.shape[1]
    rows = max(1, min(-(-samples // _SHARES), _MOST_AT_ONCE // samples))
    step = max(1, min(_BLOCK // (rows * samples), _MOST_AT_ONCE // maps[0].numel()))
    parts = [
        _block_means(part.to(torch.float64), member, growth, rows)
        for part in torch.split(maps, step)
    ]
    within, rest, between = (torch.cat(blocks) for blocks in zip(*parts, strict=True))
    return {"kernel_class": within, "kernel_rest": rest, "kernel_between": between}


def _squared_distances(maps: Tensor, size: int) -> Iterator[Tensor]:
    """Yield the squared distances between the maps (o, n, s) of each channel, some rows at a time.

    Each part has ``size`` rows or less and leaves out the columns before them: (o, rows, rest).
    A product of matrices is several times as fast as differences, but cancels where maps are alike;
    about their mean, they are so small that this matters for few networks.
    """
    centred = maps - maps.mean(1, keepdim=True)
    squares = centred.square().sum(2)
    apart = float(squares.max()) * torch.finfo(torch.float64).eps > _LOST_DIGITS
    for start in range(0, maps.shape[1], size):
        rows, rest = slice(start, start + size), slice(start, None)
        if apart:
            by_difference = "donot_use_mm_for_euclid_dist"
            some = torch.cdist(maps[:, rows], maps[:, rest], compute_mode=by_difference)
            yield some.square_()
            continue
        both = squares[:, rows].unsqueeze(2) + squares[:, rest].unsqueeze(1)
        found = both.baddbmm_(centred[:, rows], centred[:, rest].mT, alpha=-2)
        found.diagonal(0, dim1=1, dim2=2).zero_()
        yield found.clamp_(min=0)


def _kernel_sums(maps: Tensor, member: Tensor, growth: float, size: int) -> Tensor:
    """Sum the kernel of ``maps`` (o, n, s) over the pairs of samples of each two classes."""
    classes = member.shape[1]
    sums = maps.new_zeros(maps.shape[0], classes, classes)
    start = 0
    for squares in _squared_distances(maps, size):
        kernel = squares.mul_(-growth / 2).exp_()  # (o, rows, rest)
        stop = start + kernel.shape[1]
        rows = member[start:stop].T
        sums += rows @ (kernel[:, :, : stop - start] @ member[start:stop])
        if stop < maps.shape[1]:
            later = rows @ (kernel[:, :, stop - start :] @ member[stop:])
            sums += later + later.mT  # of each pair both orders
        start = stop
    return sums


def all_but(sums: Tensor) -> Tensor:
    """Return, for each entry of the last axis, the sum of the others; nothing is subtracted."""
    before = functional.pad(sums.cumsum(-1)[..., :-1], (1, 0))
    after = functional.pad(sums.flip(-1).cumsum(-1)[..., :-1], (1, 0)).flip(-1)
    return before + after


def _block_means(
    maps: Tensor, member: Tensor, growth: float, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the kernel of ``maps`` (o, n, s) within, outside and across each class: (o, c)."""
    sums = _kernel_sums(maps, member, growth, size)
    others = all_but(sums)  # of a class with all but another one
    inside, outside = member.sum(0), (1 - member).sum(0)  # (c,)
    return (
        sums.diagonal(dim1=1, dim2=2) / inside.square().clamp(min=1),
        all_but(others.mT).diagonal(dim1=1, dim2=2) / outside.square().clamp(min=1),
        others.diagonal(dim1=1, dim2=2) / (inside * outside).clamp(min=1),
    )
