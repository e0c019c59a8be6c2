"""How networks are trained and judged on a kind of task: its loss, its measure, its mean error."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics.batches import Loss
from gp_prune.tasks.data import Split
from gp_prune.tasks.models import Kind
from gp_prune.training.loss import (
    Measure,
    evaluate,
    main_output,
    sequences_at_once,
    squared_errors,
    token_loss,
    token_losses,
    wrong_classes,
)
from gp_prune.training.samples import Data, in_order

EVALUATION_BATCH = 1000
_EVALUATION_ELEMENTS = 250_000
"""Numbers in a batch, at most: with larger ones the allocator gives the memory of every layer back
to the system and fetches it again, which takes more than half of the time of a small network."""


def default_loss(kind: Kind) -> Loss:
    """Return the mean cross-entropy (in nats) of a batch, or its mean squared error."""
    if kind == "language":
        return token_loss
    return _cross_entropy if kind == "classification" else _squared_error


def _cross_entropy(output: Any, target: Any) -> Tensor:
    return functional.cross_entropy(main_output(output), target)


def _squared_error(output: Any, target: Any) -> Tensor:
    return functional.mse_loss(main_output(output), target)


def default_measure(kind: Kind) -> Measure:
    """Return what counts wrong classes, or sums squared errors or cross-entropies."""
    if kind == "language":
        return token_losses
    return wrong_classes if kind == "classification" else squared_errors


def mean_error(model: nn.Module, data: Data, measure: Measure, kind: str) -> float:
    """Return the mean of a measure over all samples, in batches that suit the memory.

    Args:
        model: the network.
        data: what it is judged on.
        measure: the error.
        kind: of the task; the outputs of a language model are larger than its inputs.
    """
    size = EVALUATION_BATCH
    if isinstance(data, Split) and kind == "language":
        size = sequences_at_once(data.inputs, size, model)
    elif isinstance(data, Split):
        size = max(1, min(size, _EVALUATION_ELEMENTS // max(1, data.inputs[:1].numel())))
    return evaluate(model, in_order(data, size), measure).error
