"""What statistics are measured on: batches of samples, checked and brought to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""One tensor, or several for models with several positional or keyword arguments."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(output, target)``: a scalar, the mean over the samples of the batch."""


class Batch(NamedTuple):
    """Some samples; the first axis of every tensor counts them.

    Attributes:
        inputs: what the model is called with: a tensor, a tuple of tensors (positional arguments)
            or a dictionary of tensors (keyword arguments).
        target: what the loss compares the output with.
        labels: (n,) class labels 0, 1, 2, ... as integers.
    """

    inputs: Inputs
    target: Tensor | None = None
    labels: Tensor | None = None


def batch_size(inputs: Inputs) -> int:
    """Number of samples, read from the first tensor.

    Raises:
        UserError: there is no tensor with a first axis.
    """
    if isinstance(inputs, dict):
        first = next(iter(inputs.values()), None)
    elif isinstance(inputs, tuple):
        first = inputs[0] if inputs else None
    else:
        first = inputs
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise UserError(
            f"the inputs of a batch are {type(inputs).__name__}; give a tensor, or a tuple or "
            "dictionary of tensors, whose first axis counts the samples"
        )
    return first.shape[0]


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output on ``inputs``, passed as the kind of argument that they are."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same inputs on a device."""
    if isinstance(inputs, dict):
        return {name: move(value, device) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(move(value, device) for value in inputs)
    return move(inputs, device)


def move(value: Tensor, device: torch.device) -> Tensor:
    """One tensor on a device, usable by autograd even when it was made in inference mode."""
    moved = value.to(device)
    return moved.clone() if moved.is_inference() else moved


def checked(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches that have samples, on the device.

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
        if item.labels is not None:
            _check_labels(item.labels, size)
        yield Batch(
            to_device(item.inputs, device),
            None if item.target is None else move(item.target, device),
            None if item.labels is None else item.labels.to(device, torch.int64),
        )


def small(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The same samples in batches of at most ``most``, each batch cut into equal parts."""
    for batch in batches:
        parts = -(-batch_size(batch.inputs) // most)
        if parts == 1:
            yield batch
            continue
        inputs = _cut(batch.inputs, parts)
        target = [None] * parts if batch.target is None else batch.target.tensor_split(parts)
        labels = [None] * parts if batch.labels is None else batch.labels.tensor_split(parts)
        yield from map(Batch, inputs, target, labels)


def _cut(inputs: Inputs, parts: int) -> list[Inputs]:
    if isinstance(inputs, dict):
        cut = {name: value.tensor_split(parts) for name, value in inputs.items()}
        return [{name: values[part] for name, values in cut.items()} for part in range(parts)]
    if isinstance(inputs, tuple):
        return list(zip(*(value.tensor_split(parts) for value in inputs), strict=True))
    return list(inputs.tensor_split(parts))


def _check_labels(labels: Tensor, size: int) -> None:
    """Raise UserError unless ``labels`` is (size,) with integers that are not negative."""
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or tuple(labels.shape) != (size,) or int(labels.min()) < 0:
        raise UserError(
            f"the labels of a batch of {size} samples have shape {tuple(labels.shape)} and type "
            f"{labels.dtype}; give one integer per sample, 0 or greater"
        )
