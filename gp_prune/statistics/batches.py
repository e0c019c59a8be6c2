"""Check the batches that statistics are measured on, and cut them into parts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gp_prune.errors import UserError, brief
from gp_prune.statistics.running import Inputs, map_tensors, tensors_of, to_device

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, target)``: a scalar, the mean over the samples of the batch. ``output`` is what
the model returned, be it a tensor, a tuple or a dictionary."""

Progress = Callable[[int, int | None], None]
"""``progress(done, total)``: batches measured, and how many there are if that is known."""


def check_loss(loss: Any) -> None:
    """Raise UserError unless a loss can be called with an output and a target; None is no loss."""
    remedy = "give a function loss(output, target), such as torch.nn.functional.cross_entropy"
    if isinstance(loss, str):
        wanted = loss.lower().replace("crossentropy", "cross_entropy").removesuffix("loss")
        names = [name for name in dir(functional) if "loss" in name or "entropy" in name]
        near = {name.removesuffix("loss").strip("_"): name for name in names if name[0] != "_"}
        close = difflib.get_close_matches(wanted.strip("_ "), near, n=1)
        if close:
            remedy = f"did you mean the function torch.nn.functional.{near[close[0]]}?"
        raise UserError(f"the loss is the text {loss!r}; {remedy}")
    if isinstance(loss, type):
        raise UserError(
            f"the loss is the class {loss.__name__}; give an object of it: {loss.__name__}()"
        )
    if loss is not None and not callable(loss):
        raise UserError(f"the loss is {brief(loss)}; {remedy}")


class Batch(NamedTuple):
    """Some samples; the first axis of every tensor counts them.

    Attributes:
        inputs: what the model is called with: a tensor, a tuple of tensors (positional arguments)
            or a dictionary of tensors (keyword arguments).
        target: what the loss compares the output with; several tensors may be a tuple or a
            dictionary.
        labels: (n,) class labels 0, 1, 2, ... as integers.
    """

    inputs: Inputs
    target: Any = None
    labels: Tensor | None = None


def as_batch(item: Any) -> Batch:
    """Return one item of a data loader as a batch.

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
    """Return whether a target is one integer per sample."""
    return isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()


def batch_size(inputs: Inputs) -> int:
    """Return the number of samples, read from the first tensor.

    Raises:
        UserError: there is no tensor with a first axis.
    """
    tensors = tensors_of(inputs)
    if not tensors or tensors[0].dim() == 0:
        raise UserError(
            f"the inputs of a batch are {type(inputs).__name__}; give a tensor, or a tuple or "
            "dictionary of tensors, whose first axis counts the samples"
        )
    return tensors[0].shape[0]


def check_batches(
    batches: Iterable[Batch], device: torch.device, *, labelled: bool
) -> Iterator[Batch]:
    """Yield the batches that have samples, on a device.

    Args:
        batches: the data.
        device: where it goes.
        labelled: whether the labels are wanted; otherwise they are neither checked nor passed on.

    Raises:
        UserError: an item is not a :class:`Batch`, or its labels are not one integer per sample.
    """
    for item in batches:
        if not isinstance(item, Batch):
            raise UserError(
                f"the data yields {type(item).__name__} where a Batch is expected; "
                "wrap it as Batch(inputs, target, labels)"
            )
        size = batch_size(item.inputs)
        if size == 0:
            continue
        labels = item.labels if labelled else None
        if labels is not None:
            _check_labels(labels, size)
            labels = labels.to(device, torch.int64)
        yield Batch(to_device(item.inputs, device), to_device(item.target, device), labels)


def _check_labels(labels: Tensor, size: int) -> None:
    """Raise UserError unless ``labels`` is (size,) with integers that are not negative."""
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or tuple(labels.shape) != (size,) or int(labels.min()) < 0:
        raise UserError(
            f"the labels of a batch of {size} samples have shape {tuple(labels.shape)} and type "
            f"{labels.dtype}; give one integer per sample, 0 or greater"
        )


def slice_batch(batch: Batch, start: int, stop: int) -> Batch:
    """Return some samples of a batch."""
    if start == 0 and stop == batch_size(batch.inputs):
        return batch
    return _select(batch, lambda values: values[start:stop])


def select_samples(batch: Batch, rows: Tensor) -> Batch:
    """Return the samples of a batch with these numbers."""
    return _select(batch, lambda values: values[rows.to(values.device)])


def _select(batch: Batch, choose: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch of what is chosen of every tensor that has samples."""

    def choose_samples(values: Tensor) -> Tensor:
        return choose(values) if values.dim() else values

    return Batch(*(map_tensors(choose_samples, field) for field in batch))


def split_batch(batch: Batch, most: int | None) -> list[Batch]:
    """Cut a batch into equal parts of at most ``most`` samples; None keeps it whole."""
    parts = 1 if most is None else -(-batch_size(batch.inputs) // most)
    if parts == 1:
        return [batch]

    def part(number: int) -> Batch:
        return _select(batch, lambda values: values.tensor_split(parts)[number])

    return [part(number) for number in range(parts)]


def in_parts(
    batches: Iterable[Batch], most: int | None, at_once: int | None
) -> Iterator[tuple[Batch, bool]]:
    """Yield parts of batches, each with whether its mini-batch ends with it.

    Args:
        batches: the data.
        most: samples in a mini-batch, which runs from one batch into the next where these are
            small; only the last one may have less. None makes every batch one.
        at_once: largest number of samples in a part.
    """
    seen = 0  # samples of the present mini-batch
    for batch in batches:
        size, start = batch_size(batch.inputs), 0
        while start < size:
            stop = size if most is None else min(size, start + most - seen)
            *parts, last = split_batch(slice_batch(batch, start, stop), at_once)
            seen = (seen + stop - start) % (most or size)
            start = stop
            yield from ((part, False) for part in parts)
            yield last, most is None or seen == 0
