"""Training and validation data: samples that can be picked, or batches that are read in turn.

Data of any form passes :func:`as_data` once, where it comes in. Inside it is a map-style data set
of torch, of which :func:`take` reads batches, or an iterable of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from gp_prune.errors import UserError, first_line, pluralize
from gp_prune.statistics import Batch, Inputs
from gp_prune.statistics.batches import as_batch, batch_size
from gp_prune.statistics.running import map_tensors, tensors_of, to_device

_FEW = 16
"""Samples by which data sets that are read lazily are told apart."""


@dataclass(frozen=True, eq=False)
class Samples(Dataset[Batch]):
    """Samples in memory, as a data set of torch.

    Attributes:
        inputs: what the network is called with; the first axis of every tensor counts the samples.
        target: what the loss compares the output with.
        labels: (n,) class labels, if there are any.
    """

    inputs: Inputs
    target: Any = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return batch_size(self.inputs)

    def __getitem__(self, index: int | slice | Tensor) -> Batch:
        """Return one sample without the first axis, or several as a batch."""

        def pick(value: Tensor) -> Tensor:
            if not value.dim():
                return value
            return value[index.to(value.device) if isinstance(index, Tensor) else index]

        return Batch(*(map_tensors(pick, part) for part in (self.inputs, self.target, self.labels)))

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the samples with these numbers as a batch."""
        return self[torch.tensor(indices, dtype=torch.int64)]

    def select(self, index: slice | Tensor) -> Self:
        """Return some of the samples."""
        return type(self)(*self[index])

    def to(self, device: torch.device) -> Self:
        """Return the samples on a device, contiguous."""
        return type(self)(*to_device((self.inputs, self.target, self.labels), device))


Data = Dataset[Any] | Iterable[Any]
"""What can be trained on: a map-style data set, or batches that can be iterated once per epoch.

An item of a data set is one sample; an item of anything else is a batch in one of the forms of
:func:`gp_prune.statistics.batches.as_batch`.
"""


def as_data(data: Any) -> Data:
    """Check data that a person gives; tensors become :class:`Samples`, the rest stays as it is.

    Args:
        data: a tuple (inputs, target) or (inputs, target, labels) of tensors, one
            :class:`~gp_prune.statistics.Batch` or dictionary of arguments; a map-style data set of
            torch; or batches that can be iterated again and again, such as a data loader.

    Raises:
        UserError: it can be read only once, or not at all.
    """
    if isinstance(data, Batch) or _are_tensors(data):
        return Samples(*data)
    if isinstance(data, Mapping):
        return Samples(*as_batch(data))
    if isinstance(data, TensorDataset) and len(data.tensors) in (2, 3):
        return Samples(*data.tensors)
    unsized = isinstance(data, Dataset) and not hasattr(data, "__len__")
    if unsized or isinstance(data, IterableDataset):
        raise UserError(
            f"the data is of type {type(data).__name__}, whose samples cannot be picked by "
            "number; give a data loader of it with a batch size"
        )
    if isinstance(data, Dataset | Iterable) and not isinstance(
        data, Iterator | Tensor | str | bytes
    ):
        return data
    raise UserError(
        f"the data is of type {type(data).__name__}, which cannot be read once per epoch; "
        "give a data set, a list of batches, a data loader or a pair (inputs, target) of tensors"
    )


def _are_tensors(data: Any) -> bool:
    """Return whether data is a tuple (inputs, target) or (inputs, target, labels) of tensors."""
    fits = isinstance(data, tuple) and len(data) in (2, 3)
    return fits and all(isinstance(part, Tensor) for part in data)


def sample_count(data: Dataset[Any]) -> int:
    """Return the number of samples of a map-style data set."""
    return len(data)  # type: ignore[arg-type]  # torch's class does not declare it


def take(data: Dataset[Any], indices: Tensor) -> Batch:
    """Return the samples with these numbers as a batch.

    Args:
        data: a map-style data set. Its ``__getitems__``, if it has one, may return a
            :class:`~gp_prune.statistics.Batch`; other samples are put together by torch's
            ``default_collate``.
        indices: (n,) numbers of samples.

    Raises:
        UserError: the samples cannot be put together, or there is none.
    """
    if isinstance(data, Samples):
        return data[indices]
    if isinstance(data, Subset):
        return take(data.dataset, torch.as_tensor(data.indices)[indices])
    numbers = indices.tolist()
    if not numbers:
        raise UserError(f"the {type(data).__name__} has no samples; give data that has some")
    several = getattr(data, "__getitems__", None)
    items = several(numbers) if several else [data[number] for number in numbers]
    if isinstance(items, Batch):
        return items
    try:
        return as_batch(default_collate(items))
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"the samples of the {type(data).__name__} cannot be put together ({error}); give "
            "samples of one shape, or a data loader with a collate_fn"
        ) from error


def in_order(data: Data, size: int) -> Iterator[Batch]:
    """Yield all the samples in their order, in batches of at most ``size`` (or their own size)."""
    if isinstance(data, Dataset):
        count = sample_count(data)
        for start in range(0, count, size):
            stop = min(start + size, count)
            # A slice of tensors in memory is not copied.
            in_memory = isinstance(data, Samples)
            yield data[start:stop] if in_memory else take(data, torch.arange(start, stop))
    else:
        yield from map(as_batch, data)


def shuffled(data: Data, size: int, seed: int) -> Iterator[tuple[float, Batch]]:
    """Yield the mini-batches of one epoch, each with the share of the epoch that is done.

    Samples come in an order that ``seed`` decides, in batches that are as equal as possible, so
    none is left out; a sequence of batches comes in such an order, too; other batches come as they
    are iterated. The share is 0 where the number of batches is unknown.

    Args:
        data: what to train on.
        size: most samples per mini-batch; batches that are given have their own size.
        seed: seed of the order.

    Raises:
        UserError: an item is no batch.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(data, Dataset):
        order = torch.randperm(sample_count(data), generator=generator)
        parts = equal_parts(len(order), size) if len(order) else 0
        for number, indices in enumerate(order.tensor_split(parts) if parts else ()):
            yield number / parts, take(data, indices)
    elif isinstance(data, Sequence):
        order = torch.randperm(len(data), generator=generator)
        for number, index in enumerate(order.tolist()):
            yield number / len(data), as_batch(data[index])
    else:
        count = length_hint(data, 0)
        for number, batch in enumerate(data):
            yield min(number / count, 1.0) if count else 0.0, as_batch(batch)


def count_batches(data: Data, size: int) -> int | None:
    """Return how many mini-batches :func:`shuffled` yields, or None where that is not known."""
    if isinstance(data, Dataset):
        count = sample_count(data)
        return equal_parts(count, size) if count else 0
    return length_hint(data, 0) or None


def equal_parts(count: int, most: int) -> int:
    """Return into how many parts of about equal size ``count`` samples go, at most ``most`` each.

    With ``most`` = 2 and an odd count one part has 3, so that none has a single sample, which a
    batch norm could not learn from.
    """
    parts = -(-count // most)
    return parts if most == 1 else max(1, min(parts, count // 2))


def draw(data: Data, most: int, seed: int) -> Samples:
    """Return at most ``most`` samples in memory: drawn by ``seed`` from a data set, else the first.

    Raises:
        UserError: there is none, or the batches cannot be put together.
    """
    if not isinstance(data, Dataset):
        return gather(data, most)
    order = torch.randperm(sample_count(data), generator=torch.Generator().manual_seed(seed))
    return Samples(*take(data, order[:most]))


def gather(data: Any, most: int | None = None) -> Samples:
    """Return all samples of data in any form, or the first ones, in memory.

    Args:
        data: see :func:`as_data`. A target of one integer per sample becomes the labels, too.
        most: number of samples; all by default.

    Raises:
        UserError: there is none, or the batches cannot be put together.
    """
    if isinstance(data, Samples) and (most is None or most >= len(data)):
        return data
    if isinstance(data, Batch | Mapping) or _are_tensors(data):
        data = [data]
    checked = data if isinstance(data, Iterator) else as_data(data)
    if isinstance(checked, Dataset):
        count = sample_count(checked)
        return Samples(*take(checked, torch.arange(count if most is None else min(most, count))))
    batches: list[Batch] = []
    count = 0
    for batch in map(as_batch, checked):
        batches.append(batch)
        count += _checked_size(batch, len(batches))
        if most is not None and count >= most:
            break
    if not batches:
        raise UserError("the data has no batch; give labelled samples")
    try:
        whole = Samples(*(_joined([batch[field] for batch in batches]) for field in range(3)))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"the batches of the data cannot be put together ({reason}); all need the same parts, "
            "with samples of the same shape"
        ) from error
    return whole if most is None else whole.select(slice(most))


def _checked_size(batch: Batch, number: int) -> int:
    """Return the number of samples; UserError unless every tensor of the batch has as many."""
    size = batch_size(batch.inputs)
    for part in tensors_of((batch.inputs, batch.target, batch.labels)):
        if part.dim() and len(part) != size:
            raise UserError(
                f"batch {number} of the data has {pluralize(size, 'sample')}, but one of its "
                f"tensors has {len(part)}; the first axis of every tensor counts the samples"
            )
    return size


def _joined(values: list[Any]) -> Any:
    """One value whose tensors are those of ``values``, one after the other."""
    first = values[0]
    if first is None or any(value is None for value in values):
        return None
    if isinstance(first, Tensor):
        return torch.cat(values) if first.dim() else first
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return type(first)(_joined(list(part)) for part in zip(*values, strict=True))
    return first


def fingerprint(data: Data | None) -> str:
    """Tell data apart: by contents in memory, by number and first samples, or by number alone.

    Batches are not looked into, because to read one may change what the next pass gives.
    """
    if data is None:
        return "none"
    if not isinstance(data, Dataset):
        return f"{length_hint(data, 0)} batches"
    count = sample_count(data)
    if isinstance(data, Samples):
        parts = tensors_of((data.inputs, data.target, data.labels))
        return f"{count} samples {tensor_digest(parts)[:16]}"
    first = tensors_of(tuple(take(data, torch.arange(min(count, _FEW)))))
    return f"{count} samples that begin with {tensor_digest(first)[:16]}"


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the types, shapes and contents of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
