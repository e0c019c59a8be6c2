"""Evaluations of pruned networks: prune, fine-tune shortly, recalibrate, measure the error.

They run in worker processes; what travels is a small :class:`Evaluation` there and an
:class:`Outcome` back. Several evaluations of one task may be fine-tuned as one stack, which is one
job with one line in the journal. The last bits of a network's weights depend on its place in a
stack and on the widths of the others, so which networks share a stack follows from the course of
the search alone, never from what a journal holds already.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from gp_prune.errors import number
from gp_prune.pruning import ChannelPlan, WeightPlan, compact, mask
from gp_prune.pruning.timing import timed_pass
from gp_prune.runs.executors import Runner
from gp_prune.runs.job_queue import JobQueue, run_with_journal
from gp_prune.runs.jobs import Decoder, Job, Workbench
from gp_prune.runs.journal import TEXT, Journal, each, optional, reader
from gp_prune.runs.line_index import digest
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.statistics.running import evaluation_mode
from gp_prune.tasks import Split, Task
from gp_prune.tasks.trivial import error_span
from gp_prune.training.pooling import pool_fast

EVALUATION_VERSION = 2
"""Raised where an evaluation with the same key gives another result; runs of others are not mixed.

2: batch norm is recalibrated on 512 samples, before on 2048.
"""

WORST_RAW = 1.0
"""Every class is wrong, or every pixel as far from the truth as it can be."""

STACK_ON_GPU = 16
"""Networks per stack on a GPU, unless the settings say otherwise; not yet measured on one."""

_TEST, _LATENCY = "+test", "+latency"
"""Ends of the key of an evaluation that measures more than the validation error."""

_TIMED_SAMPLES = 64
_TIMED_TURNS = 15

_WINDOW = 4
"""Number of stacks that are put together at once, so that networks of one size meet."""


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
        more = (_LATENCY if self.latency else "") + (_TEST if self.test else "")
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


_ERROR = number(least=-WORST_ERROR, most=WORST_ERROR)
_RULES = {"validation": _ERROR, "test": optional(_ERROR), "raw": number(most=math.inf),
          "latency": optional(number(least=0, most=math.inf))}  # fmt: skip
_STACK_RULES = {"members": each(TEXT), **{name: each(rule) for name, rule in _RULES.items()}}


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


class StackOutcome(NamedTuple):
    """The outcomes of a stack, field by field in the order of its networks.

    Attributes:
        members: keys of the evaluations.
        validation: see :class:`Outcome`; the next two as well.
        test: None for each unless asked for.
        raw: the errors as the task measures them.
        failure: why the stack has no result; empty if it has one.
        latency: None for each unless asked for; empty for none at all.
    """

    members: tuple[str, ...]
    validation: tuple[float, ...]
    test: tuple[float | None, ...]
    raw: tuple[float, ...]
    failure: str = ""
    latency: tuple[float | None, ...] = ()

    def each(self) -> dict[str, Outcome]:
        """Return the outcomes of the networks by the keys of their evaluations.

        Raises:
            ValueError: the fields do not have as many entries each.
        """
        latency = self.latency or (None,) * len(self.members)
        columns = zip(self.members, self.validation, self.test, self.raw, latency, strict=True)
        return {
            key: Outcome(validation, test, raw, latency=latency)
            for key, validation, test, raw, latency in columns
        }


@dataclass(frozen=True)
class StackedEvaluation:
    """Evaluations of one protocol whose networks are fine-tuned as one.

    Attributes:
        members: at least two evaluations, alike but for their plans.
    """

    members: tuple[Evaluation, ...]

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for stacks with the same result."""
        return _stack_key([member.key for member in self.members])

    @property
    def title(self) -> str:
        """Return the formulas and the task."""
        formulas = ", ".join(repr(member.formula) for member in self.members)
        return f"formulas {formulas} on {self.task}"

    @property
    def task(self) -> str:
        """Return the name of the task of all."""
        return self.members[0].task

    @property
    def work(self) -> int:
        """Return the number of evaluations, whose limits the stack may use together."""
        return len(self.members)

    def run(self, workbench: Workbench) -> StackOutcome:
        """Prune copies of the task's network, fine-tune them as one, judge them one by one.

        Judging does not gain by stacking: it is limited by arithmetic, which padding adds to.
        """
        first = self.members[0]
        task, _ = workbench.task(first.task)
        models = [member.pruned(workbench) for member in self.members]
        task.fine_tune_stacked(models, steps=first.steps, seed=first.seed)
        outcomes = [
            member.judge(pool_fast(model), workbench)
            for member, model in zip(self.members, models, strict=True)
        ]
        validation, test, raw, _, latency = zip(*outcomes, strict=True)
        keys = tuple(member.key for member in self.members)
        return StackOutcome(keys, validation, test, raw, latency=latency if first.latency else ())

    def failed(self, reason: str) -> StackOutcome:
        """Return no outcomes; the members may be tried one by one."""
        return StackOutcome((), (), (), (), reason)


def _stack_key(members: Sequence[str]) -> str:
    return f"stack of {len(members)}:{hashlib.sha256(chr(10).join(members).encode()).hexdigest()}"


AnyOutcome = Outcome | StackOutcome


def outcome_reader() -> Decoder[AnyOutcome]:
    """Return a decoder of the outcomes of evaluations and of stacks."""
    single, stacked = reader(Outcome, _RULES), reader(StackOutcome, _STACK_RULES)

    def read(entry: Mapping[str, Any]) -> AnyOutcome:
        if "members" not in entry:
            outcome = single(entry)
            if outcome.test is None and entry["key"].endswith(_TEST):
                raise ValueError("test")
            if outcome.latency is None and _LATENCY in entry["key"] and not outcome.failure:
                raise ValueError("latency")
            return outcome
        outcomes = stacked(entry)
        outcomes.each()  # refuses a damaged line
        if not outcomes.failure and entry["key"] != _stack_key(outcomes.members):
            raise ValueError("members")
        return outcomes

    return read


def stack_size(asked: int, device: str) -> int:
    """Return the number of networks per stack; where 0 is asked for, what suits the device.

    On a CPU it pays for some networks and not for others (see benchmarks/stacking.py), and other
    runs can reuse single evaluations but hardly ever a stack, so nothing is stacked unless asked
    for.
    """
    return asked or (STACK_ON_GPU if device.startswith("cuda") else 1)


class StackBuilder:
    """Puts evaluations of one protocol together, those of similar networks.

    What is not fine-tuned stays alone: there is nothing to gain.

    Args:
        size: most networks of a stack.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._windows: dict[tuple[object, ...], list[Evaluation]] = {}

    def add(self, evaluation: Evaluation) -> list[tuple[Evaluation, ...]]:
        """Take an evaluation; return the stacks that are complete now."""
        if self._size == 1 or not evaluation.steps:
            return [(evaluation,)]
        protocol = tuple(
            getattr(evaluation, f.name)
            for f in fields(evaluation)
            if f.name not in ("plan", "formula")
        )
        window = self._windows.setdefault(protocol, [])
        window.append(evaluation)
        if len(window) < _WINDOW * self._size:
            return []
        self._windows[protocol] = []
        return self._cut(window)

    def flush(self) -> list[tuple[Evaluation, ...]]:
        """Return the stacks of all evaluations that are left."""
        windows, self._windows = self._windows, {}
        return [stack for window in windows.values() if window for stack in self._cut(window)]

    def _cut(self, window: list[Evaluation]) -> list[tuple[Evaluation, ...]]:
        """Cut stacks of about equal length, the networks that keep least in the first."""
        ordered = sorted(window, key=lambda e: (e.plan["achieved"]["params"], e.key))
        count = -(-len(ordered) // self._size)
        cuts = [len(ordered) * part // count for part in range(count + 1)]
        return [tuple(ordered[start:end]) for start, end in pairwise(cuts)]


def job_of(members: tuple[Evaluation, ...]) -> Job[AnyOutcome]:
    """Return the job that evaluates them: a single one is evaluated as it is without stacks."""
    return members[0] if len(members) == 1 else StackedEvaluation(members)


class Evaluator:
    """The queue of a run's evaluations; each network is evaluated once, in a stack or alone.

    As a context manager it cancels the evaluations that have not begun when its body raises.

    Args:
        runner: runs what the journal does not know.
        journal: what is known already, and where the rest is written.
        stack: most networks that are fine-tuned as one; 1 for each by itself.

    Attributes:
        failures: formula and task -> why it has the worst error: a limit that the user set, or the
            user's decision to set lost ones aside.
        waiting: evaluations that were submitted and have no result yet.
        listener: called whenever one more has its result.
    """

    def __init__(self, runner: Runner, journal: Journal[AnyOutcome], stack: int) -> None:
        self._runner, self._journal, self._stack = runner, journal, stack
        # With stacks: digest of an evaluation's key -> key of the job that evaluated it.
        self._evaluated: dict[bytes, str] = {}
        self._builder = StackBuilder(stack)
        self.failures: dict[str, str] = {}
        self.listener: Callable[[], None] = lambda: None
        self._start_round()

    def _start_round(self) -> None:
        self._progress: Callable[[int], None] | None = None
        self._done = self.waiting = 0
        self._wanted: dict[str, None] = {}
        self._members: dict[str, tuple[Evaluation, ...]] = {}
        self._jobs = JobQueue(self._runner, self._journal, self._tell)

    def submit(self, evaluation: Evaluation) -> None:
        """Begin an evaluation, if it is new in this run and its stack is complete."""
        key = evaluation.key
        new = key not in self._wanted and digest(key) not in self._evaluated
        self._wanted[key] = None
        if new:
            self.waiting += 1
            self._begin(self._builder.add(evaluation))

    def _begin(self, stacks: list[tuple[Evaluation, ...]]) -> None:
        for members in stacks:
            job = job_of(members)
            self._members[job.key] = members
            self._jobs.submit(job)

    def _tell(self, done: int, of: int) -> None:
        newest = next(reversed(self._jobs.results))
        count = len(self._members[newest])
        self._done += count
        self.waiting -= count
        self.listener()
        if self._progress is not None:
            self._progress(self._done)

    def collect(self) -> dict[str, Outcome]:
        """Wait for all that was submitted since the last call; return the outcomes by key.

        A stack that fails is taken apart: each of its networks is evaluated by itself, so that it
        costs no other network its result.
        """
        self._begin(self._builder.flush())
        outcomes: dict[str, Outcome] = {}
        failed: list[Evaluation] = []
        results = self._jobs.collect()
        for job, members in self._members.items():
            result = results[job]
            if isinstance(result, StackOutcome) and result.failure:
                failed += members
            else:
                outcomes |= self._keep(job, result)
        for job, result in run_with_journal(failed, self._runner, self._journal).items():
            outcomes |= self._keep(job, result)
        for evaluation in itertools.chain(*self._members.values()):
            outcome = outcomes.get(evaluation.key)
            if outcome is not None and outcome.failure:
                self.failures[evaluation.title] = outcome.failure
        for key in self._wanted:
            if key not in outcomes:
                earlier = self._journal.known(self._evaluated[digest(key)])
                assert earlier is not None
                outcomes |= _outcomes(key, earlier)
        wanted = {key: outcomes[key] for key in self._wanted}
        self._start_round()
        return wanted

    def _keep(self, job: str, result: AnyOutcome) -> dict[str, Outcome]:
        """Return the outcomes of a job, and remember where they stand in the journal."""
        outcomes = _outcomes(job, result)
        if self._stack > 1:
            self._evaluated |= {digest(key): job for key in outcomes}
        return outcomes

    def outcomes(
        self,
        evaluations: Sequence[Evaluation],
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> dict[str, Outcome]:
        """Return the outcome of every evaluation by its key.

        Args:
            evaluations: what is wanted.
            progress: hears how many of how many distinct evaluations are done, those of a stack
                together.
        """
        of = len({evaluation.key for evaluation in evaluations})
        self._progress = lambda done: progress(done, of)
        for evaluation in evaluations:
            self.submit(evaluation)
        return self.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._jobs.__exit__(*error)


def _outcomes(job: str, result: AnyOutcome) -> dict[str, Outcome]:
    return {job: result} if isinstance(result, Outcome) else result.each()
