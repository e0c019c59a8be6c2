"""How good a network is: the loss it is trained with and the error it is judged by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics.running import training_mode
from gp_prune.tasks.models import Kind

_EVALUATION_BATCH = 1000
_EVALUATION_ELEMENTS = 250_000
"""Numbers in a batch, at most: with larger ones the allocator gives the memory of every layer back
to the system and fetches it again, which takes more than half of the time of a small network."""


class Split(NamedTuple):
    """One part of a task's data.

    Attributes:
        inputs: (n, channels, height, width) float32 in [0, 1].
        target: what the loss compares with: the labels of a classification, the inputs themselves
            of a reconstruction.
        labels: (n,) int64 class numbers, for both kinds of task.
    """

    inputs: Tensor
    target: Tensor
    labels: Tensor


def loss(kind: Kind, output: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy (in nats) of a classification, mean squared error of a reconstruction."""
    if kind == "classification":
        return functional.cross_entropy(output, target)
    return functional.mse_loss(output, target)


def error(kind: Kind, model: nn.Module, split: Split) -> float:
    """Share of wrong classes in [0, 1], or mean squared error per pixel, over a whole split.

    The model runs in evaluation mode without gradients, and its training flags come back as they
    were. A model whose outputs are not finite has a reconstruction error that is not finite.

    Args:
        kind: what the model is for.
        model: network on the device of the split.
        split: the samples to judge on.
    """
    total = 0.0
    size = max(1, min(_EVALUATION_BATCH, _EVALUATION_ELEMENTS // split.inputs[:1].numel()))
    with training_mode(model, False), torch.no_grad():
        for start in range(0, len(split.inputs), size):
            chosen = slice(start, start + size)
            total += _summed_error(kind, model(split.inputs[chosen]), split.target[chosen])
    return total / (split.labels if kind == "classification" else split.target).numel()


def _summed_error(kind: Kind, output: Tensor, target: Tensor) -> float:
    """Number of wrong classes, or sum of squared errors."""
    if kind == "classification":
        return float(output.argmax(1).ne(target).sum())
    return float((output - target).square().sum(dtype=torch.float64))


def trivial_error(kind: Kind, train: Split, judged: Split) -> float:
    """Error on ``judged`` of the best prediction that looks at no input.

    That is the most frequent class of the training labels, or the mean training image.
    """
    if kind == "classification":
        frequent = train.labels.bincount().argmax()
        return float(judged.labels.ne(frequent).double().mean())
    mean = train.target.double().mean(0)
    return float((judged.target.double() - mean).square().mean())
