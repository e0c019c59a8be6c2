"""Evaluations of pruned networks: prune, fine-tune shortly, recalibrate, measure the error.

They run in worker processes; what travels is a small :class:`Evaluation` there and an
:class:`Outcome` back.
"""

from __future__ import annotations

import copy
import math
import statistics
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from gp_prune.pruning import ChannelPlan, WeightPlan, compact, mask
from gp_prune.pruning.timing import timed_pass
from gp_prune.runs.jobs import Workbench
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.statistics.running import evaluation_mode
from gp_prune.tasks import Split, Task
from gp_prune.tasks.trivial import error_span
from gp_prune.training.pooling import pool_fast

EVALUATION_VERSION = 3
"""Raised where an evaluation with the same key gives another result; runs of others are not mixed.

3: batch norm is recalibrated on 256 samples; before on 512, and in version 1 on 2048.
"""

WORST_RAW = 1.0
"""Every class is wrong, or every pixel as far from the truth as it can be."""


TEST_MARK, LATENCY_MARK = "+test", "+latency"
"""Ends of the key of an evaluation that measures more than the validation error."""

_TIMED_SAMPLES = 64
_TIMED_TURNS = 15


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
        latency: whether the time of a forward pass is measured too; it is never the same twice.
        formula: for a person: the first formula that leads to the plan.
    """

    task: str
    plan: dict[str, Any]
    steps: int
    seed: int
    test: bool = False
    samples: int = 0
    latency: bool = False
    formula: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        """Return the formula and the task."""
        return f"formula {self.formula!r} on {self.task}"

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for evaluations with the same result."""
        split = f":first{self.samples}" if self.samples else ""
        more = (LATENCY_MARK if self.latency else "") + (TEST_MARK if self.test else "")
        return f"{self.task}:{self.plan['digest']}:{self.steps}:{self.seed}{split}{more}"

    def run(self, workbench: Workbench) -> Outcome:
        """Prune a copy of the task's network, fine-tune, recalibrate, measure.

        Fine-tuning normalises by the statistics of its own mini-batches, so the running ones are
        measured once, after it.
        """
        task, _ = workbench.task(self.task)
        model = pool_fast(self.pruned(workbench))
        task.fine_tune(model, steps=self.steps, seed=self.seed)
        return self.judge(model, workbench)

    def pruned(self, workbench: Workbench) -> nn.Module:
        """Return a smaller copy of the task's network for a channel plan, else a masked copy."""
        task, architecture = workbench.task(self.task)
        plan = plan_from_json(self.plan)
        if isinstance(plan, ChannelPlan):
            return compact(task.model, plan, architecture)
        masked = copy.deepcopy(task.model)
        mask(masked, plan)
        return masked

    def judge(self, model: nn.Module, workbench: Workbench) -> Outcome:
        """Recalibrate a fine-tuned copy and measure its errors."""
        task, _ = workbench.task(self.task)
        task.recalibrate(model)
        scale = _Scale(task.validation, task.dense_error, task.trivial_error)
        if self.samples:
            scale = workbench.recall(
                f"first {self.samples} validation samples of {self.task}",
                lambda: _Scale.of(task, task.validation.select(slice(self.samples))),
            )
        raw, validation = scale.measure(task, model)
        latency = self._time(model, workbench) if self.latency else None
        if not self.test:
            return Outcome(validation, None, raw, latency=latency)
        # Read when a final report first asks for it.
        scale = workbench.recall(f"test split of {self.task}", lambda: _Scale.of(task, task.test()))
        raw, test = scale.measure(task, model)
        return Outcome(validation, test, raw, latency=latency)

    def _time(self, model: nn.Module, workbench: Workbench) -> float:
        """Return the time of a forward pass as a share of that of the dense network.

        It is the median of turns in which both run once.
        """
        task, _ = workbench.task(self.task)
        dense = workbench.recall(
            f"network of {self.task} to time", lambda: pool_fast(copy.deepcopy(task.model)).eval()
        )
        inputs = task.validation.inputs[:_TIMED_SAMPLES]
        with evaluation_mode(model), torch.no_grad():
            turns = [
                (timed_pass(model, inputs), timed_pass(dense, inputs))
                for _ in range(1 + _TIMED_TURNS)
            ]
        return statistics.median(pruned / whole for pruned, whole in turns[1:])

    def failed(self, reason: str) -> Outcome:
        """Return what counts where there is no result: the worst error that is finite."""
        return Outcome(WORST_ERROR, WORST_ERROR if self.test else None, WORST_RAW, reason)


class Outcome(NamedTuple):
    """Errors on the scale of their split: 0 as the dense network there, 1 as the trivial guess.

    Attributes:
        validation: relative error on the validation split.
        test: relative error on the test split, None unless it was asked for.
        raw: the error on the judged split (test where asked for) as the task measures it; 1, the
            worst there is, where fine-tuning blew up the network and it is not finite.
        failure: why there is no result; empty if there is one.
        latency: time of a forward pass, as a share of that of the dense network; None unless it
            was asked for.
    """

    validation: float
    test: float | None
    raw: float
    failure: str = ""
    latency: float | None = None


class _Scale(NamedTuple):
    """A split with the two errors that define its scale."""

    split: Split
    dense_error: float
    trivial_error: float

    @classmethod
    def of(cls, task: Task, split: Split) -> _Scale:
        return cls(split, task.error(task.model, split), task.trivial_error_on(split))

    def measure(self, task: Task, model: nn.Module) -> tuple[float, float]:
        """Return the error of a network, and its relative error; both are finite."""
        raw = task.error(model, self.split)
        finite = raw if math.isfinite(raw) else WORST_RAW
        return finite, relative(raw, self.dense_error, self.trivial_error)


def relative(error: float, dense: float, trivial: float) -> float:
    """Return an error on the scale of its split, within WORST_ERROR of 0 and always finite.

    0 is the error of the dense network, 1 that of the best guess that looks at no input.
    """
    value = (error - dense) / error_span(dense, trivial)
    return max(-WORST_ERROR, min(value, WORST_ERROR)) if math.isfinite(value) else WORST_ERROR


def plan_from_json(data: dict[str, Any]) -> ChannelPlan | WeightPlan:
    """Read either kind of plan.

    Raises:
        UserError: it is neither.
    """
    if data.get("kind") == "channel plan":
        return ChannelPlan.from_json(data)
    return WeightPlan.from_json(data)
