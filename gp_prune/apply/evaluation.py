"""How well a network does its task, before and after it was pruned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Forward
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import (
    call_model,
    device_of,
    evaluation_mode,
    to_device,
)
from gp_prune.training import FineTuning, History
from gp_prune.training.loss import main_output

Measure = Literal["error", "mse"]
"""What is measured: the share of samples whose class is wrong, or the mean squared error."""
SplitName = Literal["validation", "test"]
"""What it is measured on: samples that decided when training ended, or that decided nothing."""


class Judged(NamedTuple):
    """What one network was found to do.

    Attributes:
        error: share of wrong classes in [0, 1], or mean squared error per entry of the output.
        samples: on how many samples.
    """

    error: float
    samples: int


@dataclass(frozen=True)
class Quality:
    """How well the dense network, and each state of the pruned one, does the task.

    Attributes:
        kind: what is measured; less is better.
        split: on which part of the data: ``"test"`` samples decided nothing, ``"validation"``
            samples decided which epoch of the fine-tuning is kept.
        data: name of the data.
        samples: number of samples in that part.
        dense: of the original network.
        pruned: right after pruning.
        recalibrated: after its batch norms were measured anew; None if they were not.
        tuned: after fine-tuning; None if there was none.
        settings: how it was fine-tuned.
        history: the course of the fine-tuning.
    """

    kind: Measure
    split: SplitName
    data: str
    samples: int
    dense: float
    pruned: float
    recalibrated: float | None = None
    tuned: float | None = None
    settings: FineTuning | None = None
    history: History | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; an error that is not finite is None."""
        tuning = None
        if self.settings is not None and self.history is not None:
            tuning = {**self.settings.to_json(), "history": self.history.to_json()}
        errors = {
            name: None if value is None or not torch.tensor(value).isfinite() else value
            for name, value in (
                ("dense", self.dense), ("pruned", self.pruned),
                ("recalibrated", self.recalibrated), ("tuned", self.tuned),
            )
        }  # fmt: skip
        return {
            "kind": self.kind,
            "split": self.split,
            "data": self.data,
            "samples": self.samples,
            **errors,
            "fine_tuning": tuning,
        }


def judged(
    model: nn.Module,
    batches: Iterable[Batch],
    kind: Measure,
    *,
    forward_fn: Forward | None = None,
) -> Judged:
    """The error of a network on labelled batches.

    The network runs in evaluation mode without gradients; its flags and torch's random state are
    left as they were.

    Args:
        model: the network.
        batches: the samples; for ``"error"`` with labels (or a target of class numbers), for
            ``"mse"`` with a target of the shape of the output.
        kind: what to measure.
        forward_fn: runs the network where ``model(inputs)`` is not the way.

    Raises:
        UserError: there is no sample, or output and labels (or target) cannot be compared.
    """
    total, samples, count = 0.0, 0, 0
    device, run = device_of(model), forward_fn or call_model
    with evaluation_mode(model, seed=0), torch.no_grad():
        for batch in batches:
            size = batch_size(batch.inputs)
            if not size:
                continue
            output = main_output(run(model, to_device(batch.inputs, device)))
            compare = _wrong if kind == "error" else _squares
            summed, entries = compare(output, batch, size)
            total, samples, count = total + summed, samples + size, count + entries
    if not samples:
        raise UserError("there is no sample to judge the network on; give labelled data")
    return Judged(total / count, samples)


def _wrong(output: Tensor, batch: Batch, size: int) -> tuple[float, int]:
    """Number of wrong classes, and of samples."""
    labels = batch.target if batch.labels is None else batch.labels
    if not isinstance(labels, Tensor) or labels.shape != (size,) or labels.is_floating_point():
        raise UserError(
            "the data has no class labels, one integer per sample, to count errors by; give labels"
        )
    if output.dim() != 2 or len(output) != size:
        raise UserError(
            f"the output of the network has shape {tuple(output.shape)}, where errors are counted "
            f"in an output ({size} samples, classes); use a network that classifies"
        )
    return float(output.argmax(1).ne(labels.to(output.device)).sum()), size


def _squares(output: Tensor, batch: Batch, size: int) -> tuple[float, int]:
    """Sum of the squared errors, and number of entries."""
    target = batch.target
    if not isinstance(target, Tensor) or target.shape != output.shape:
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise UserError(
            f"the output of the network has shape {tuple(output.shape)}, the target {shape}; the "
            "mean squared error needs targets of the output's shape"
        )
    difference = output - target.to(output.device)
    return float(difference.square().sum(dtype=torch.float64)), target.numel()
