"""The best guess that looks at no input, by which the errors of a task are scaled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.running import call_model, evaluation_mode
from gp_prune.tasks.data import Split
from gp_prune.training.loss import main_output
from gp_prune.training.samples import in_order

_LEAST_SPAN = 0.05
"""Least difference of the guess and the network, as a share of the error of the guess."""
_TINY = 1e-12
_BATCH = 64


def error_span(dense: float, trivial: float) -> float:
    """Return the difference of errors that is 1 on the relative scale, which is positive.

    That is from the dense network to the trivial guess. A network that is hardly better than the
    guess, or worse, has a twentieth of the error of the guess: without a bound its scale would be
    upside down.

    Args:
        dense: error of the dense network.
        trivial: error of the best guess that looks at no input.
    """
    return max(trivial - dense, _LEAST_SPAN * abs(trivial), _TINY)


def class_frequencies(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the logarithms of the class frequencies as the output for one sample.

    A class without a sample counts half of one.

    Args:
        labels: (n, ...) class numbers of the training data.
        shape: of the output for one sample, (classes, ...).

    Raises:
        UserError: a label has no output.
    """
    least, largest = int(labels.min()), int(labels.max())
    if not shape or least < 0 or largest >= shape[0]:
        raise UserError(
            f"the labels of the training data go from {least} to {largest}, and the output for a "
            f"sample has shape {shape}; each class needs an output of its own"
        )
    counts = labels.flatten().bincount(minlength=shape[0]).double()
    logits = counts.clamp_min(0.5).div(counts.sum()).log().float()
    return logits.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


def mean_output(model: nn.Module, data: Split) -> Tensor:
    """Return the mean of what a network gives for the samples of a split."""
    total: Any = 0.0
    with evaluation_mode(model), torch.no_grad():
        for batch in in_order(data, _BATCH):
            total = total + main_output(call_model(model, batch.inputs)).double().sum(0)
    mean: Tensor = total / len(data)
    return mean.to(data.inputs.dtype if data.inputs.is_floating_point() else torch.float32)
