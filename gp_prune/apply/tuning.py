"""Recalibrate, fine-tune and judge a pruned network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from gp_prune.apply.data import ErrorKind, SplitName, TuningData
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError, pluralize
from gp_prune.pruning import measure
from gp_prune.pruning.modules import masked_parameters
from gp_prune.statistics import Batch, Forward
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import device_of, random_state, to_device
from gp_prune.training import (
    Epoch,
    FineTuning,
    Held,
    History,
    batch_norms,
    fine_tune,
    held_by,
    recalibrate,
)
from gp_prune.training.samples import Data, equal_parts, in_order, sample_count, take

RECALIBRATION_SAMPLES = 2048
"""Most samples on which batch norms are measured again."""
_BATCH = 64


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
        recalibrated: after its batch norms were measured again; None if they were not.
        tuned: after fine-tuning; None if there was none.
        settings: how it was fine-tuned.
        history: the course of the fine-tuning.
    """

    kind: ErrorKind
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
        """Return the figures as a JSON object; an error that is not finite is None."""
        tuning = None
        if self.settings is not None and self.history is not None:
            tuning = {**self.settings.to_json(), "history": self.history.to_json()}
        errors = {
            name: value if value is not None and math.isfinite(value) else None
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
        recalibration: whether to measure batch norms again; nothing is done where there are none.
        forward_fn: runs the networks where ``model(inputs)`` is not the way.
        checkpoint: folder in which the fine-tuning is kept after each epoch, to go on from.
        progress: called with a line for a person before each step and after each epoch.

    Returns:
        The pruned network in its last state, its ``quality`` set, and that quality.

    Raises:
        UserError: data, networks and settings do not fit together, or fine-tuning goes astray (see
            :func:`gp_prune.training.fine_tune`).
    """
    tell = progress or (lambda line: None)
    states: dict[str, nn.Module] = {"dense": dense, "pruned": pruned.model}
    model = copy.deepcopy(pruned.model)
    if recalibration and batch_norms(model):
        tell(f"measuring batch norms again on {data.name}")
        with random_state(0):  # a data loader may shuffle
            recalibrate(model, _first(data.train, RECALIBRATION_SAMPLES), forward_fn=forward_fn)
        states["recalibrated"] = model
    history: History | None = None
    if settings is not None:
        model = copy.deepcopy(model)
        tell(f"fine-tuning for up to {pluralize(settings.epochs, 'epoch')} on {data.name}")
        held = _held(pruned, model)
        history = _fine_tune(model, dense, data, settings, held, forward_fn, checkpoint, tell)
        states["tuned"] = model
    tell(f"judging on the {data.split} samples of {data.name}")
    report = data.read_report()
    results = {
        name: data.evaluate(state, report, forward_fn=forward_fn) for name, state in states.items()
    }
    quality = Quality(
        kind=data.kind,
        split=data.split,
        data=data.name,
        samples=results["dense"].samples,
        settings=settings,
        history=history,
        **{name: result.error for name, result in results.items()},
    )
    (example,) = _first(report, 1)
    inputs = to_device(example.inputs, device_of(model))
    nonzero = measure(model, inputs, forward_fn=forward_fn).nonzero
    after = pruned.after._replace(nonzero=nonzero)
    return replace(pruned, model=model, after=after, quality=quality), quality


def _held(pruned: PrunedModel, model: nn.Module) -> Held | None:
    """Return what must stay zero where a person has made the masks permanent."""
    if pruned.mode != "mask" or any(True for _ in masked_parameters(model)):
        return None
    return held_by(model, pruned.plan, pruned.architecture)


def _fine_tune(
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
        return data.evaluate(network, validation, forward_fn=forward_fn).error

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


def _first(data: Data, most: int) -> Iterator[Batch]:
    """Yield at most ``most`` samples in about equal batches; of given batches at least one."""
    if isinstance(data, Dataset):
        # A seeded choice: the samples may be in the order of their classes.
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(sample_count(data), generator=generator)[:most]
        for chosen in order.tensor_split(equal_parts(len(order), _BATCH)):
            yield take(data, chosen)
        return
    taken = 0
    for batch in in_order(data, _BATCH):
        if taken >= most:
            return
        taken += batch_size(batch.inputs)
        yield batch
    if not taken:
        raise UserError("there is no sample to measure batch norms on; give training data")
