"""Recalibrate, fine-tune and judge a pruned network."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from gp_prune.apply.data import ErrorKind, SplitName, TuningData
from gp_prune.apply.lineage import find_cut, remember_cut
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError, pluralize
from gp_prune.pruning.cost import count_nonzero
from gp_prune.pruning.modules import masked_parameters
from gp_prune.statistics import Batch, Forward
from gp_prune.statistics.batches import Progress, batch_size
from gp_prune.statistics.running import copy_model, device_of, random_state
from gp_prune.tasks import Split
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
from gp_prune.training.loss import Evaluation, Measure
from gp_prune.training.samples import Data, equal_parts, in_order, sample_count, take

_MOST_NATS = 700.0
"""The exponential of more overflows."""
RECALIBRATION_SAMPLES = 2048
"""Most samples on which batch norms are measured again."""
_BATCH = 64


@dataclass(frozen=True)
class Quality:
    """How well the dense network, and each state of the pruned one, does the task.

    Attributes:
        kind: what is measured, less is better: ``"error"``, the share of wrong classes; ``"mse"``;
            ``"nats"``, the cross-entropy per token; or ``"own"``, an error of the user.
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
        constant: error of the best answer that is always the same.
        chance: largest error of a network that knows something, two standard errors below
            ``constant``; None where it is not known.
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
    constant: float | None = None
    chance: float | None = None

    def _perplexities(self, errors: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the perplexity of each state of a language model; nothing for other networks."""
        if self.kind != "nats":
            return {}
        return {"perplexity": {name: _perplexity(value) for name, value in errors.items()}}

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
                ("constant", self.constant),
            )
        }  # fmt: skip
        return {
            "kind": self.kind,
            "split": self.split,
            "data": self.data,
            "samples": self.samples,
            **errors,
            **self._perplexities(errors),
            "fine_tuning": tuning,
        }


def _perplexity(nats: float | None) -> float | None:
    """Return the perplexity of a cross-entropy; None where it has none or would overflow."""
    return math.exp(nats) if nats is not None and nats < _MOST_NATS else None


class DenseResult(NamedTuple):
    """What a network does before it is pruned in place.

    Attributes:
        samples: of the report.
        result: its error on them.
        guess: has looked at their targets.
    """

    samples: Data
    result: Evaluation
    guess: _ConstantAnswer


def judge_dense(
    dense: nn.Module, data: TuningData, *, forward_fn: Forward | None = None
) -> DenseResult:
    """Judge a network that will not be there when the pruned one is judged."""
    report, guess = data.read_report(), _ConstantAnswer(data)
    result = data.evaluate(dense, report, forward_fn=forward_fn, measure=guess.watch("dense"))
    return DenseResult(report, result, guess)


def tune_pruned(
    pruned: PrunedModel,
    dense: nn.Module,
    data: TuningData,
    settings: FineTuning | None = None,
    *,
    recalibration: bool = True,
    before: DenseResult | None = None,
    forward_fn: Forward | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    batch_progress: Progress | None = None,
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
        before: what the dense network did, where it was pruned in place.
        forward_fn: runs the networks where ``model(inputs)`` is not the way.
        checkpoint: folder in which the fine-tuning is kept after each epoch, to go on from.
        progress: called with a line for a person before each step and after each epoch.
        batch_progress: ``batch_progress(done, total)``, called after each step of an epoch.

    Returns:
        The pruned network in its last state, its ``quality`` set, and that quality.

    Raises:
        UserError: data, networks and settings do not fit together, or fine-tuning goes astray (see
            :func:`gp_prune.training.fine_tune`).
    """
    started = time.perf_counter()
    tell = progress or (lambda line: None)
    states: dict[str, nn.Module] = {"dense": dense, "pruned": pruned.model}
    if before is not None:
        del states["dense"]
    changed = settings is not None or (recalibration and bool(batch_norms(pruned.model)))
    model = copy_model(pruned.model) if changed else pruned.model
    if recalibration and batch_norms(model):
        tell(f"measuring batch norms again on {data.name}")
        with random_state(0):  # a data loader may shuffle
            recalibrate(model, _first(data.train, RECALIBRATION_SAMPLES), forward_fn=forward_fn)
        states["recalibrated"] = model
    history: History | None = None
    if settings is not None:
        model = copy_model(model)
        tell(f"fine-tuning for up to {pluralize(settings.epochs, 'epoch')} on {data.name}")
        held = _held(pruned, model)
        history = _fine_tune(
            model, dense, data, settings, held, forward_fn, checkpoint, tell, batch_progress
        )
        states["tuned"] = model
    tell(f"judging on the {data.split} samples of {data.name}")
    report, guess = (
        (data.read_report(), _ConstantAnswer(data))
        if before is None
        else (before.samples, before.guess)
    )
    results = {} if before is None else {"dense": before.result}
    results |= {
        name: data.evaluate(state, report, forward_fn=forward_fn, measure=guess.watch(name))
        for name, state in states.items()
    }
    constant = guess.error_on(report)
    quality = Quality(
        kind=data.kind,
        split=data.split,
        data=data.name,
        samples=results["dense"].samples,
        settings=settings,
        history=history,
        constant=constant,
        chance=guess.chance(constant),
        **{name: result.error for name, result in results.items()},
    )
    after = pruned.after._replace(nonzero=count_nonzero(model))
    notes = tuple(dict.fromkeys((*pruned.notes, *([data.note] if data.note else []))))
    seconds = pruned.seconds + time.perf_counter() - started
    remember_cut(model, find_cut(pruned.model))
    tuned = replace(pruned, model=model, after=after, quality=quality, notes=notes, seconds=seconds)
    return tuned, quality


class _ConstantAnswer:
    """Work out the error of always giving one answer, from the samples that a network is judged on.

    Of classes the answer is the most frequent one, of tokens their frequencies, of numbers their
    mean per entry. For an error of the user it is the guess of the task.
    """

    def __init__(self, data: TuningData) -> None:
        self._data, self._kind = data, data.kind
        self._labels: Counter[int] = Counter()
        self._sums = [0.0, 0.0, 0.0]  # samples, sum of the targets, sum of their squares

    def watch(self, state: str) -> Measure:
        """Return the measure of a state; that of the dense network looks at the targets."""
        measure = self._data.measure
        if state != "dense" or self._kind == "own":
            return measure

        def watched(output: Any, batch: Batch) -> tuple[float, int]:
            result = measure(output, batch)  # which checks the batch
            if self._kind == "error":
                labels = batch.target if batch.labels is None else batch.labels
                self._labels.update(labels.tolist())
            elif self._kind == "nats":
                self._labels.update(batch.target.flatten().tolist())
            else:
                target = batch.target.detach().to("cpu", torch.float64)
                for number, part in enumerate((torch.ones(len(target)), target, target.square())):
                    self._sums[number] = self._sums[number] + part.sum(0)
            return result

        return watched

    def error_on(self, samples: Data) -> float:
        """Return the error of the constant answer on the samples that were watched."""
        if self._kind == "own":
            assert self._data.task is not None and isinstance(samples, Split)  # of the task
            return self._data.task.trivial_error_on(samples)
        if self._kind == "error":
            return 1 - max(self._labels.values()) / self._labels.total()
        if self._kind == "nats":
            shares = [count / self._labels.total() for count in self._labels.values()]
            return -sum(share * math.log(share) for share in shares)
        count, total, squares = map(torch.as_tensor, self._sums)
        return max(0.0, float((squares / count - (total / count).square()).mean()))

    def chance(self, error: float) -> float | None:
        """Return two standard errors less; None where every sample has the same class."""
        if self._kind != "error":
            return error
        spread = math.sqrt(error * (1 - error) / self._labels.total())
        return error - 2 * spread if len(self._labels) > 1 else None


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
    batch_progress: Progress | None,
) -> History:
    """Fine-tune ``model`` in place."""
    teacher = dense
    if settings.distill and device_of(dense) != device_of(model):
        teacher = copy_model(dense).to(device_of(model))

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
        batch_progress=batch_progress,
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
