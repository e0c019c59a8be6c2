"""Floor 9: one evaluation: prune, fine-tune shortly, recalibrate, measure the error.

The functions here run in the worker processes. A worker keeps the tasks that it has loaded; what
travels is a small :class:`Evaluation` there and an :class:`Outcome` back.
"""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan, compact, mask, trace
from gp_prune.tasks import Split, Task, is_trained, load_task

WORST_ERROR = 2.0
"""Relative errors end here (1 is the trivial guess), so that a network that fine-tuning blew up
is bad but finite."""


@dataclass(frozen=True)
class TaskSource:
    """Where workers find the tasks.

    Attributes:
        cache_dir: folder of trained networks; None for the user's cache folder.
        data_root: folder of torchvision's data sets; None for the default.
        download: whether torchvision may fetch a missing data set.
        device: where networks and data are put.
    """

    cache_dir: str | None = None
    data_root: str | None = None
    download: bool = False
    device: str = "cpu"

    def load(self, name: str) -> Task:
        """The task of that name; see :func:`gp_prune.tasks.load_task` for what it raises."""
        return load_task(name, **self._places())

    def trained(self, name: str) -> bool:
        """Whether :meth:`load` takes no training; raises as it does."""
        return is_trained(name, **self._places())

    def _places(self) -> dict[str, Any]:
        return {
            "cache_dir": None if self.cache_dir is None else Path(self.cache_dir),
            "data_root": None if self.data_root is None else Path(self.data_root),
            "download": self.download,
            "device": self.device,
        }


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated: a plan on a task under a protocol.

    Attributes:
        task: name of the task.
        plan: the plan as JSON, of a channel plan or a weight plan.
        steps: mini-batches of fine-tuning.
        seed: decides the order of the fine-tuning samples.
        test: whether the error on the test split is measured too; for final reports alone.
    """

    task: str
    plan: dict[str, Any]
    steps: int
    seed: int
    test: bool = False

    @property
    def key(self) -> str:
        """Equal exactly for evaluations with the same result."""
        split = "+test" if self.test else ""
        return f"{self.task}:{self.plan['digest']}:{self.steps}:{self.seed}{split}"


class Outcome(NamedTuple):
    """Errors on the scale of their split: 0 as the dense network there, 1 as the trivial guess.

    Attributes:
        validation: relative error on the validation split.
        test: relative error on the test split, None unless it was asked for.
        raw: the error on the judged split (test where asked for) as the task measures it.
        failure: why there is no result; empty if there is one.
    """

    validation: float
    test: float | None
    raw: float
    failure: str = ""

    @classmethod
    def failed(cls, evaluation: Evaluation, reason: str) -> Outcome:
        """What counts where an evaluation has no result: the worst error that is finite."""
        test = WORST_ERROR if evaluation.test else None
        # As a raw error 1: every class wrong, or every pixel.
        return cls(WORST_ERROR, test, 1.0, reason)


def plan_from_json(data: dict[str, Any]) -> ChannelPlan | WeightPlan:
    """Read either kind of plan; UserError when it is neither."""
    if data.get("kind") == "channel plan":
        return ChannelPlan.from_json(data)
    return WeightPlan.from_json(data)


def derived_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else (31 bits)."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def network_digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers of a network, with their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


class Evaluator:
    """Evaluates plans; keeps the tasks that it has loaded, with their traced networks.

    Args:
        source: where the tasks are.
    """

    def __init__(self, source: TaskSource) -> None:
        self.source = source
        self._tasks: dict[str, tuple[Task, Architecture]] = {}
        self._tests: dict[str, _Judge] = {}

    def task(self, name: str) -> tuple[Task, Architecture]:
        """A task and its traced network, loaded when first asked for."""
        if name not in self._tasks:
            task = self.source.load(name)
            traced = trace(task.model, task.example_inputs, interface=task.interface)
            self._tasks[name] = task, traced
        return self._tasks[name]

    def evaluate(self, evaluation: Evaluation) -> Outcome:
        """Prune a copy of the task's network, fine-tune, recalibrate, measure.

        Fine-tuning normalises by the statistics of its own mini-batches, so the running ones are
        measured once, after it.

        Channel plans are removed for real; weight plans are held at zero by masks during
        fine-tuning, so nothing regrows.
        """
        task, architecture = self.task(evaluation.task)
        model = pruned_copy(task.model, plan_from_json(evaluation.plan), architecture)
        task.fine_tune(model, steps=evaluation.steps, seed=evaluation.seed)
        task.recalibrate(model)
        raw = task.error(model, task.validation)
        validation = relative(raw, task.dense_error, task.trivial_error)
        if not evaluation.test:
            return Outcome(validation, None, raw)
        judge = self._judge(task)
        raw = task.error(model, judge.split)
        return Outcome(validation, relative(raw, judge.dense_error, judge.trivial_error), raw)

    def _judge(self, task: Task) -> _Judge:
        """The test split of a task, read when a final report first asks for it."""
        if task.name not in self._tests:
            split = task.test()
            dense = task.error(task.model, split)
            self._tests[task.name] = _Judge(split, dense, task.trivial_error_on(split))
        return self._tests[task.name]


class _Judge(NamedTuple):
    """A split with the two errors that make its scale."""

    split: Split
    dense_error: float
    trivial_error: float


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
