"""What a person's own data yields, as batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Any

from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.statistics import Batch


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


def as_batch(item: Any) -> Batch:
    """One item of a data loader as a batch.

    A :class:`Batch` stays as it is; a pair ``(inputs, target)`` becomes one, whose labels are the
    target where that is one integer per sample; a tensor is inputs alone. A dictionary is the
    named arguments of the model, and the target, too, so that the loss can look up what it needs.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch(item)
    if isinstance(item, Mapping):
        return Batch(dict(item), dict(item))
    if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], Tensor | Mapping):
        inputs, target = item
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        return Batch(inputs, target, target if _are_labels(target) else None)
    raise UserError(
        f"the data yields {type(item).__name__}; it must yield Batch, (inputs, target), a "
        "dictionary of arguments or a tensor of inputs"
    )


def _are_labels(target: Any) -> bool:
    """Whether a target is one integer per sample."""
    return isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()
