"""Evaluations as jobs of a run: several of one task as one stack, and the queue of them.

A stack is fine-tuned as one network and is one job with one line in the journal. The last bits of a
network's weights depend on its place in a stack and on the widths of the others, so which networks
share a stack follows from the course of the search alone, never from what a journal holds already.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple, Self

from gp_prune.errors import number
from gp_prune.runs.executors import Runner
from gp_prune.runs.job_queue import JobQueue, run_with_journal
from gp_prune.runs.jobs import Decoder, Job, Workbench
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import TEXT, each, optional, reader
from gp_prune.runs.line_index import digest
from gp_prune.search.evaluation import LATENCY_MARK, TEST_MARK, Evaluation, Outcome
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.training.pooling import pool_fast

STACK_ON_GPU = 16
"""Networks per stack on a GPU, unless the settings say otherwise; not yet measured on one."""

_WINDOW = 4
"""Number of stacks that are put together at once, so that networks of one size meet."""

_ERROR = number(least=-WORST_ERROR, most=WORST_ERROR)
_RULES = {"validation": _ERROR, "test": optional(_ERROR), "raw": number(most=math.inf),
          "latency": optional(number(least=0, most=math.inf))}  # fmt: skip
_STACK_RULES = {"members": each(TEXT), **{name: each(rule) for name, rule in _RULES.items()}}


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
            if outcome.test is None and entry["key"].endswith(TEST_MARK):
                raise ValueError("test")
            if outcome.latency is None and LATENCY_MARK in entry["key"] and not outcome.failure:
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
