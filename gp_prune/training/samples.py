"""What a network is trained on: samples that can be picked, or batches that are read in turn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import length_hint
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Inputs
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import map_tensors


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


_FEW = 16
"""Samples by which lazily read data is told apart."""


@runtime_checkable
class Source(Protocol):
    """Samples that can be read in any order."""

    def __len__(self) -> int:
        """Number of samples."""

    def take(self, indices: Tensor) -> Batch:
        """The samples with these numbers, as a batch."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples in memory.

    Attributes:
        inputs: what the network is called with; the first axis of every tensor counts the samples.
        target: what the loss compares the output with.
        labels: (n,) class labels, if there are any.
    """

    inputs: Inputs
    target: Any = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return batch_size(self.inputs)

    def take(self, indices: Tensor) -> Batch:
        """The samples with these numbers, as a batch."""

        def pick(value: Tensor) -> Tensor:
            return value[indices.to(value.device)] if value.dim() else value

        return Batch(*(map_tensors(pick, part) for part in (self.inputs, self.target, self.labels)))


Data = Source | Iterable[Batch]
"""What can be trained on: samples to pick from, or batches that can be iterated again."""


class Step(NamedTuple):
    """One mini-batch of a pass.

    Attributes:
        done: share of the pass that lies behind; 0 where the number of batches is unknown.
        batch: the samples.
    """

    done: float
    batch: Batch


def as_data(data: Any) -> Data:
    """A split as samples; samples and batches as they are.

    Args:
        data: a :class:`Source`; a tuple (inputs, target, ...) of tensors, such as the split of a
            task or one :class:`Batch`; or batches that can be iterated again and again.

    Raises:
        UserError: it can be read only once, or not at all.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, Batch) or (isinstance(data, tuple) and _is_split(data)):
        return Samples(*data)
    if isinstance(data, Iterator) or not isinstance(data, Iterable):
        raise UserError(
            f"the training data is a {type(data).__name__}, which cannot be read once per epoch; "
            "give a list of batches, a data loader or a pair (inputs, target) of tensors"
        )
    return data


def _is_split(data: tuple[Any, ...]) -> bool:
    return len(data) in (2, 3) and all(isinstance(part, Tensor) for part in data)


def one_pass(data: Data, size: int, seed: int) -> Iterator[Step]:
    """The mini-batches of one epoch.

    Samples come in an order that ``seed`` decides, in batches that are as equal as possible, so
    none is left out; a sequence of batches comes in such an order, too; other batches come as they
    are iterated.

    Args:
        data: what to train on.
        size: most samples per mini-batch; batches that are given have their own size.
        seed: seed of the order.

    Raises:
        UserError: an item is no batch.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(data, Source):
        order = torch.randperm(len(data), generator=generator)
        parts = equal_parts(len(order), size) if len(order) else 0
        for number, chosen in enumerate(order.tensor_split(parts) if parts else ()):
            yield Step(number / parts, data.take(chosen))
    elif isinstance(data, Sequence):
        order = torch.randperm(len(data), generator=generator)
        for number, index in enumerate(order.tolist()):
            yield Step(number / len(data), _checked(data[index]))
    else:
        count = length_hint(data, 0)
        for number, batch in enumerate(data):
            yield Step(min(number / count, 1.0) if count else 0.0, _checked(batch))


def in_order(data: Data, size: int) -> Iterator[Batch]:
    """All the samples as they stand, in batches of at most ``size`` (or of their own size)."""
    if isinstance(data, Source):
        for start in range(0, len(data), size):
            yield data.take(torch.arange(start, min(start + size, len(data))))
    else:
        yield from map(_checked, data)


def _checked(batch: Any) -> Batch:
    if not isinstance(batch, Batch):
        raise UserError(
            f"the data yields {type(batch).__name__} where a Batch is expected; "
            "wrap it as Batch(inputs, target)"
        )
    return batch


def fingerprint(data: Data | None) -> str:
    """Tells data apart: by contents in memory, by number and first samples, or by number alone.

    Batches are not looked into, because to read one may change what the next pass gives.
    """
    if data is None:
        return "none"
    if isinstance(data, Samples):
        parts: list[Tensor] = []
        map_tensors(parts.append, (data.inputs, data.target, data.labels))
        return f"{len(data)} samples {tensor_digest(parts)[:16]}"
    if isinstance(data, Source):
        first: list[Tensor] = []
        map_tensors(first.append, tuple(data.take(torch.arange(min(len(data), _FEW)))))
        return f"{len(data)} samples that begin with {tensor_digest(first)[:16]}"
    return f"{length_hint(data, 0)} batches"


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
