"""One evaluation: prune, fine-tune shortly, recalibrate, measure the error.

It runs in a worker process; what travels is a small :class:`Evaluation` there and an
:class:`Outcome` back.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan, compact, mask
from gp_prune.runs.jobs import Workbench
from gp_prune.tasks import Split, Task
from gp_prune.training.pooling import pool_fast

WORST_ERROR = 2.0
"""Relative errors end here (1 is the trivial guess), so that a network that fine-tuning blew up
is bad but finite."""

WORST_RAW = 1.0
"""Every class is wrong, or every pixel as far from the truth as it can be."""


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated: a plan on a task under a protocol.

    Attributes:
        task: name of the task.
        plan: the plan as JSON, of a channel plan or a weight plan.
        steps: mini-batches of fine-tuning.
        seed: decides the order of the fine-tuning samples.
        test: whether the error on the test split is measured too; for final reports alone.
        samples: validation samples that are judged on, the first ones (the order of the split is
            random already); 0 for all.
    """

    task: str
    plan: dict[str, Any]
    steps: int
    seed: int
    test: bool = False
    samples: int = 0

    @property
    def key(self) -> str:
        """Equal exactly for evaluations with the same result."""
        split = (f":first{self.samples}" if self.samples else "") + ("+test" if self.test else "")
        return f"{self.task}:{self.plan['digest']}:{self.steps}:{self.seed}{split}"

    def run(self, workbench: Workbench) -> Outcome:
        """Prune a copy of the task's network, fine-tune, recalibrate, measure.

        Fine-tuning normalises by the statistics of its own mini-batches, so the running ones are
        measured once, after it.

        Channel plans are removed for real; weight plans are held at zero by masks during
        fine-tuning, so nothing regrows.
        """
        task, _ = workbench.task(self.task)
        model = pool_fast(self.pruned(workbench))
        task.fine_tune(model, steps=self.steps, seed=self.seed)
        return self.judged(model, workbench)

    def pruned(self, workbench: Workbench) -> nn.Module:
        """A copy of the task's network that the plan was applied to."""
        task, architecture = workbench.task(self.task)
        return pruned_copy(task.model, plan_from_json(self.plan), architecture)

    def judged(self, model: nn.Module, workbench: Workbench) -> Outcome:
        """Recalibrate a fine-tuned copy and measure its errors."""
        task, _ = workbench.task(self.task)
        task.recalibrate(model)
        raw, validation = self._validated(model, task, workbench)
        if not self.test:
            return Outcome(validation, None, _finite(raw))
        # Read when a final report first asks for it.
        judge = workbench.recall(f"test split of {self.task}", lambda: _judge(task, task.test()))
        raw = task.error(model, judge.split)
        test = relative(raw, judge.dense_error, judge.trivial_error)
        return Outcome(validation, test, _finite(raw))

    def _validated(self, model: nn.Module, task: Task, workbench: Workbench) -> tuple[float, float]:
        """The error on the validation split, or on its first samples, as it is and relative."""
        if not self.samples:
            raw = task.error(model, task.validation)
            return raw, relative(raw, task.dense_error, task.trivial_error)
        judge = workbench.recall(
            f"first {self.samples} validation samples of {self.task}",
            lambda: _judge(task, task.validation.select(slice(self.samples))),
        )
        raw = task.error(model, judge.split)
        return raw, relative(raw, judge.dense_error, judge.trivial_error)

    def failed(self, reason: str) -> Outcome:
        """What counts where an evaluation has no result: the worst error that is finite."""
        return Outcome(WORST_ERROR, WORST_ERROR if self.test else None, WORST_RAW, reason)


class Outcome(NamedTuple):
    """Errors on the scale of their split: 0 as the dense network there, 1 as the trivial guess.

    Attributes:
        validation: relative error on the validation split.
        test: relative error on the test split, None unless it was asked for.
        raw: the error on the judged split (test where asked for) as the task measures it; 1, the
            worst there is, where fine-tuning blew up the network and it is not finite.
        failure: why there is no result; empty if there is one.
    """

    validation: float
    test: float | None
    raw: float
    failure: str = ""


def _finite(raw: float) -> float:
    return raw if math.isfinite(raw) else WORST_RAW


def plan_from_json(data: dict[str, Any]) -> ChannelPlan | WeightPlan:
    """Read either kind of plan; UserError when it is neither."""
    if data.get("kind") == "channel plan":
        return ChannelPlan.from_json(data)
    return WeightPlan.from_json(data)


class _Judge(NamedTuple):
    """A split with the two errors that make its scale."""

    split: Split
    dense_error: float
    trivial_error: float


def _judge(task: Task, split: Split) -> _Judge:
    return _Judge(split, task.error(task.model, split), task.trivial_error_on(split))


def pruned_copy(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture
) -> nn.Module:
    """A smaller copy for a channel plan, a masked copy for a weight plan."""
    if isinstance(plan, ChannelPlan):
        return compact(model, plan, architecture)
    masked = copy.deepcopy(model)
    mask(masked, plan)
    return masked


def relative(error: float, dense: float, trivial: float) -> float:
    """An error on the scale of its split, at most WORST_ERROR and always finite.

    0 is the error of the dense network, 1 that of the best guess that looks at no input.
    """
    value = (error - dense) / (trivial - dense)
    return min(value, WORST_ERROR) if math.isfinite(value) else WORST_ERROR
