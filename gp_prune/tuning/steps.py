"""How training proceeds: the learning rate over time, and the order of the samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def schedule(progress: float, warm_up: float) -> float:
    """Share of the highest learning rate at ``progress`` (0 to 1): linear rise, cosine fall."""
    if progress < warm_up:
        return (0.1 * (warm_up - progress) + progress) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def shuffled(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless mini-batches of indices: each pass over the data is a new seeded permutation.

    The samples that do not fill a last batch of a pass are left out of that pass, so that every
    batch has the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def equal_parts(count: int, most: int) -> int:
    """Into how many parts ``count`` samples go so that each has about as many, at most ``most``.

    With ``most`` = 2 and an odd count one part has 3, so that none has a single sample, which a
    batch norm could not learn from.
    """
    parts = -(-count // most)
    return parts if most == 1 else max(1, min(parts, count // 2))
