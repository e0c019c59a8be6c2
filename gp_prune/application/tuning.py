"""After pruning: recalibrate, fine-tune, and say how well each state does the task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gp_prune.application.evaluation import Judged, Quality, judged
from gp_prune.application.result import PrunedModel
from gp_prune.application.tuning_data import TuningData
from gp_prune.application.wording import several
from gp_prune.errors import UserError
from gp_prune.pruning import measure
from gp_prune.pruning.modules import masked_parameters
from gp_prune.statistics import Batch, Forward
from gp_prune.statistics.batches import batch_size, to_device
from gp_prune.statistics.state import device_of
from gp_prune.tuning import (
    Epoch,
    FineTuning,
    Held,
    History,
    Source,
    batch_norms,
    fine_tune,
    held_by,
    recalibrate,
)
from gp_prune.tuning.context import seeded
from gp_prune.tuning.samples import Data, in_order
from gp_prune.tuning.steps import equal_parts

RECALIBRATION_SAMPLES = 2048
"""Most samples on which batch norms are measured anew."""
_BATCH = 64


def tune_pruned(
    pruned: PrunedModel,
    dense: nn.Module,
    data: TuningData,
    settings: FineTuning | None = None,
    *,
    recalibration: bool = True,
    forward_fn: Forward | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[PrunedModel, Quality]:
    """Recalibrate and fine-tune a pruned network, and judge every state of it.

    The samples of the report are read when everything else is done. Neither network that is given
    is changed.

    Args:
        pruned: what :func:`gp_prune.prune` returned.
        dense: the network that was pruned; judged, and the teacher for distillation.
        data: what to tune and judge on.
        settings: how to fine-tune; None leaves it out.
        recalibration: whether to measure batch norms anew; nothing is done where there are none.
        forward_fn: runs the networks where ``model(inputs)`` is not the way.
        checkpoint: folder in which the fine-tuning is kept after each epoch, to go on from.
        progress: called with a line for a person before each step and after each epoch.

    Returns:
        The pruned network in its last state, its ``quality`` set, and that quality.

    Raises:
        UserError: data, networks and settings do not fit together, or fine-tuning goes astray (see
            :func:`gp_prune.tuning.fine_tune`).
    """
    tell = progress or _say_nothing
    states: dict[str, nn.Module] = {"dense": dense, "pruned": pruned.model}
    model = copy.deepcopy(pruned.model)
    if recalibration and batch_norms(model):
        _recalibrate(model, data, forward_fn, tell)
        states["recalibrated"] = model
    history: History | None = None
    if settings is not None:
        model = copy.deepcopy(model)
        tell(f"fine-tuning for up to {several(settings.epochs, 'epoch')} on {data.name}")
        held = _held(pruned, model)
        history = _tuned(model, dense, data, settings, held, forward_fn, checkpoint, tell)
        states["tuned"] = model
    tell(f"judging on the {data.split} samples of {data.name}")
    report = data.read_report()
    found = {name: _judged(state, report, data, forward_fn) for name, state in states.items()}
    quality = _quality(found, data, settings, history)
    (example,) = _first(report, 1)
    inputs = to_device(example.inputs, device_of(model))
    counted = measure(model, inputs, forward_fn=forward_fn).nonzero
    after = pruned.after._replace(nonzero=counted)
    return replace(pruned, model=model, after=after, quality=quality), quality


def _recalibrate(
    model: nn.Module,
    data: TuningData,
    forward_fn: Forward | None,
    tell: Callable[[str], None],
) -> None:
    """Measure the batch norms anew, in place."""
    tell(f"measuring batch norms anew on {data.name}")
    with seeded(0, device_of(model)):  # a data loader may shuffle
        batches = _first(data.train, RECALIBRATION_SAMPLES)
        recalibrate(model, batches, forward_fn=forward_fn)


def _quality(
    found: dict[str, Judged],
    data: TuningData,
    settings: FineTuning | None,
    history: History | None,
) -> Quality:
    return Quality(
        kind=data.kind,
        split=data.split,
        data=data.name,
        samples=found["dense"].samples,
        settings=settings,
        history=history,
        **{name: result.error for name, result in found.items()},
    )


def _say_nothing(line: str) -> None:
    """Swallow a line of progress."""


def _held(pruned: PrunedModel, model: nn.Module) -> Held | None:
    """What must stay zero where a person has made the masks permanent."""
    if pruned.mode != "mask" or any(True for _ in masked_parameters(model)):
        return None
    return held_by(model, pruned.plan, pruned.architecture)


def _tuned(
    model: nn.Module,
    dense: nn.Module,
    data: TuningData,
    settings: FineTuning,
    held: Held | None,
    forward_fn: Forward | None,
    checkpoint: str | Path | None,
    tell: Callable[[str], None],
) -> History:
    """Fine-tune ``model`` in place."""
    teacher = dense
    if settings.distill and device_of(dense) != device_of(model):
        teacher = copy.deepcopy(dense).to(device_of(model))

    def error(network: nn.Module, validation: Any) -> float:
        return _judged(network, validation, data, forward_fn).error

    def epoch(done: Epoch) -> None:
        tell(
            f"epoch {done.number}/{settings.epochs}: training loss {done.loss:.4f}, "
            f"validation {data.kind} {done.error:.4f}"
        )

    return fine_tune(
        model,
        data.train,
        data.loss,
        settings,
        validation=data.validation,
        error=error,
        teacher=teacher,
        held=held,
        forward_fn=forward_fn,
        checkpoint=checkpoint,
        progress=epoch,
    )


def _judged(
    model: nn.Module, samples: Data, data: TuningData, forward_fn: Forward | None
) -> Judged:
    return judged(model, in_order(samples, _BATCH), data.kind, forward_fn=forward_fn)


def _first(data: Data, most: int) -> Iterator[Batch]:
    """At most so many samples, in batches of about equal size; of given batches one at least."""
    if isinstance(data, Source):
        count = min(most, len(data))
        # A seeded choice: the samples may be in the order of their classes.
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
        for chosen in order.tensor_split(equal_parts(count, _BATCH)):
            yield data.take(chosen)
        return
    taken = 0
    for batch in data:
        if taken >= most:
            return
        taken += batch_size(batch.inputs)
        yield batch
    if not taken:
        raise UserError("there is no sample to measure batch norms on; give training data")
