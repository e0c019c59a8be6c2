"""Bring the inputs and data that a person gives into the form that pruning works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

import torch
from torch import Tensor

from gp_prune.apply.options import missing_data, needs_data
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch
from gp_prune.statistics.running import map_tensors


def example_batch(example_inputs: Any, device: torch.device) -> Any:
    """Return the example inputs on a device; a list of arguments becomes a tuple."""
    moved = map_tensors(lambda tensor: tensor.to(device), example_inputs)
    return tuple(moved) if isinstance(moved, list) else moved


def calibration_batches(
    metric: Metric, data: Iterable[Any] | None, *, passes: int
) -> Iterable[Batch]:
    """Return calibration data as batches, kept in memory where a second pass needs it.

    Args:
        metric: what measures on the data; one that measures nothing gets no batches.
        data: what a person gives (see :func:`gp_prune.prune`).
        passes: how often the batches are iterated.

    Raises:
        UserError: the metric measures something and there is nothing to measure.
    """
    if not needs_data(metric):
        return ()
    if data is None or (isinstance(data, list | tuple) and not data):
        raise missing_data(metric)
    batches = given_batches(data)
    return as_batches(list(batches) if passes > 1 and isinstance(batches, Iterator) else batches)


def given_batches(data: Any) -> Iterable[Any]:
    """What a person gives as data, as something that yields batches.

    One batch alone, be it a :class:`Batch`, a pair (inputs, target) of tensors or a dictionary of
    arguments, becomes a list of it.

    Raises:
        UserError: it yields no batches.
    """
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(p, Tensor) for p in data)
    if isinstance(data, Batch | Mapping) or pair:
        return [data]
    if isinstance(data, Tensor | str | bytes) or not isinstance(data, Iterable):
        raise UserError(
            f"the data is a {type(data).__name__}; give a list of batches, a data loader, or one "
            "pair (inputs, target) of tensors"
        )
    return data


class Batches:
    """The items of a data loader as batches, every time anew."""

    def __init__(self, data: Iterable[Any]) -> None:
        """Convert the items of ``data``, which can be iterated again."""
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        """Convert one item after the other."""
        return map(as_batch, self._data)

    def __length_hint__(self) -> int:
        """How many there are; 0 where the data does not tell."""
        return length_hint(self._data, 0)


def as_batches(data: Iterable[Any]) -> Iterable[Batch]:
    """Items of a data loader as batches (see :func:`as_batch`).

    What can be iterated again and again still can, and tells its length if it did.

    Raises:
        UserError: when an item is reached that is no batch.
    """
    return map(as_batch, data) if isinstance(data, Iterator) else Batches(data)
