"""The calibration data and the example inputs that a person gives, as batches on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from gp_prune.apply.options import missing_data, needs_data
from gp_prune.errors import UserError, check_value, whole
from gp_prune.metric.metric import Metric
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch, batch_size
from gp_prune.statistics.running import map_tensors, to_device
from gp_prune.training.samples import as_data, in_order, sample_count

_BATCH = 32
"""Samples in a batch of a data set; what comes in batches stays in them."""


def example_batch(example_inputs: Any, device: torch.device) -> Any:
    """Return the example inputs on a device, contiguous; a list of arguments becomes a tuple."""
    moved = to_device(example_inputs, device)
    return tuple(moved) if isinstance(moved, list) else moved


def calibration_batches(
    metric: Metric, data: Any, *, passes: int, samples: int | None = None, seed: int = 0
) -> Iterable[Batch]:
    """Return the calibration data that a person gives as batches.

    Args:
        metric: what measures on the data; one that measures nothing gets no batches.
        data: see :func:`gp_prune.prune`; one batch alone becomes a list of it.
        passes: how often the batches are iterated; what can be read only once is kept in memory
            for several.
        samples: see :func:`as_batches`.
        seed: see :func:`as_batches`.

    Raises:
        UserError: the metric measures something and there is nothing to measure, or the data
            yields no batches.
    """
    if not needs_data(metric):
        return ()
    if is_nothing(data):
        raise missing_data(metric)
    batches = as_batches(data, samples=samples, seed=seed)
    return list(batches) if passes > 1 and isinstance(batches, Iterator) else batches


def is_nothing(data: Any) -> bool:
    """Return whether no data is given."""
    return data is None or (isinstance(data, list | tuple) and not data)


def as_batches(data: Any, *, samples: int | None, seed: int) -> Iterable[Batch]:
    """Return data in any form as batches, or some samples of it.

    Args:
        data: see :func:`gp_prune.prune`; one batch alone becomes a list of it.
        samples: most samples: of a data set a choice, of batches the first ones; None means all.
        seed: decides the choice.

    Raises:
        UserError: the data yields no batches, or the number of samples is none.
    """
    if samples is not None:
        check_value("samples", samples, whole(1))
    if is_nothing(data):
        return ()
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(p, Tensor) for p in data)
    if isinstance(data, Batch | Mapping) or pair:
        return _Batches([as_batch(data)], samples)
    if isinstance(data, Iterator):
        return _first(map(as_batch, data), samples)
    if isinstance(data, Dataset):
        all_samples = as_data(data)
        assert isinstance(all_samples, Dataset)
        count = sample_count(all_samples)
        if samples is None or samples >= count:
            return _Batches(all_samples, None)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return _Batches(Subset(all_samples, order[:samples].tolist()), None)
    if isinstance(data, Tensor | str | bytes) or not isinstance(data, Iterable):
        raise UserError(
            f"the data is of type {type(data).__name__}; give a list of batches, a data loader, "
            "a data set, or one pair (inputs, target) of tensors"
        )
    return _Batches(data, samples)


class _Batches:
    """The batches of data that can be iterated again, or those of its first samples."""

    def __init__(self, data: Any, samples: int | None) -> None:
        self._data, self._samples = data, samples

    def __iter__(self) -> Iterator[Batch]:
        return _first(in_order(self._data, _BATCH), self._samples)

    def __length_hint__(self) -> int:
        """Return how many there are; 0 where the data does not tell."""
        if isinstance(self._data, Dataset):
            return -(-length_hint(self._data, 0) // _BATCH)
        return length_hint(self._data, 0) if self._samples is None else 0


def _first(batches: Iterator[Batch], samples: int | None) -> Iterator[Batch]:
    """Yield batches until a number of samples is reached; the last one is cut."""
    if samples is None:
        yield from batches
        return
    for batch in batches:
        size = batch_size(batch.inputs)
        left = samples
        if size > left:
            batch = map_tensors(lambda t: t[:left] if t.dim() else t, batch)  # noqa: B023
        yield batch
        samples -= min(size, left)
        if not samples:
            return
