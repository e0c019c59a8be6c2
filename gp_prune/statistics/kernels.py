"""How alike the sampled maps of a class are to each other and to all other maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gp_prune.statistics.meters import Seen
from gp_prune.statistics.sampling import Sampled, SampledMaps

_MOST_AT_ONCE = 2**24
"""Kernel values that are held at a time: 128 MB in float64."""


class Kernels:
    """Mean RBF kernel between the sampled maps of each channel, by class.

    ``k(x, y) = exp(-|x - y|^2 / 2)``: the bandwidth is 1, as in the MMD of Liu et al. (GECCO 2022).
    x and y are the values of the activation of two samples at the sampled positions. As there, a
    sample is also paired with itself, so that kPP + kQQ - 2 kPQ is never negative. Only the samples
    of ``activation`` count; a class without a sample among them has 0 wherever it takes part.
    """

    def __init__(self, maps: SampledMaps) -> None:
        """Nothing sampled yet; ``maps`` keeps the positions of ``activation``."""
        self._maps = maps
        self._labels = Sampled()

    def add(self, seen: Seen) -> None:
        """Keep the sampled maps of a batch and their labels."""
        assert seen.labels is not None
        self._maps.put(seen.maps, seen.picks)
        self._labels.put(seen.labels[seen.picks.rows], seen.picks.slots)

    def result(self, classes: int) -> dict[str, Tensor]:
        """``kernel_class``, ``kernel_rest`` and ``kernel_between`` (o, c)."""
        maps, labels = self._maps.result(), self._labels.result()
        if maps is None or labels is None:
            return {}
        member = functional.one_hot(labels, classes).to(torch.float64)  # (n, c)
        step = max(1, _MOST_AT_ONCE // maps.shape[1] ** 2)
        parts = [_block_means(part, member) for part in torch.split(maps, step)]
        within, rest, between = (torch.cat(found) for found in zip(*parts, strict=True))
        return {"kernel_class": within, "kernel_rest": rest, "kernel_between": between}


def _block_means(maps: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means (o, c) of the kernel of ``maps`` (o, n, s) within, outside and across each class."""
    # Differences, not a product of matrices: that would cancel where maps are alike.
    distance = torch.cdist(maps, maps, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = (-distance.square() / 2).exp()  # (o, n, n)
    to_class = kernel @ member  # (o, n, c)
    to_rest = kernel @ (1 - member)
    inside, outside = member.sum(0), (1 - member).sum(0)  # (c,)
    return (
        (member * to_class).sum(1) / inside.square().clamp(min=1),
        ((1 - member) * to_rest).sum(1) / outside.square().clamp(min=1),
        (member * to_rest).sum(1) / (inside * outside).clamp(min=1),
    )
