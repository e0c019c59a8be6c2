"""What a person's own data yields, as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch


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
