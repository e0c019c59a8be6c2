"""Evaluations whose networks are fine-tuned as one, and how they are put together.

The last bits of a network's weights depend on its place in a stack and on the widths of the others.
So which networks share a stack follows from the course of the search alone, never from what a
journal holds already; and a stack is one job with one line in the journal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from gp_prune.runs.disk import Results
from gp_prune.runs.executors import Runner, run_with_journal
from gp_prune.runs.jobs import Decoder, Job, Workbench
from gp_prune.runs.journal import Journal, reader
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.training.pooling import pool_fast

ON_GPU = 16
"""Networks per stack on a GPU, unless the settings say otherwise; not yet measured on one."""

_WINDOW = 4
"""So many stacks are put together at once, so that networks of one size meet."""


class Outcomes(NamedTuple):
    """The outcomes of a stack, field by field in the order of its networks.

    Attributes:
        members: keys of the evaluations.
        validation: see :class:`Outcome`; the next two as well.
        test: None for each unless asked for.
        raw: the errors as the task measures them.
        failure: why the stack has no result; empty if it has one.
    """

    members: tuple[str, ...]
    validation: tuple[float, ...]
    test: tuple[float | None, ...]
    raw: tuple[float, ...]
    failure: str = ""

    def each(self) -> dict[str, Outcome]:
        """The outcomes of the networks by the keys of their evaluations.

        Raises:
            ValueError: the fields do not have as many entries each.
        """
        columns = zip(self.members, self.validation, self.test, self.raw, strict=True)
        return {key: Outcome(validation, test, raw) for key, validation, test, raw in columns}


@dataclass(frozen=True)
class StackedEvaluation:
    """Evaluations of one protocol whose networks are fine-tuned as one.

    Attributes:
        members: at least two evaluations, alike but for their plans.
    """

    members: tuple[Evaluation, ...]

    @property
    def key(self) -> str:
        """Equal exactly for stacks with the same result."""
        joined = "\n".join(member.key for member in self.members)
        return f"stack of {len(self.members)}:{hashlib.sha256(joined.encode()).hexdigest()}"

    @property
    def task(self) -> str:
        """The task of all."""
        return self.members[0].task

    @property
    def work(self) -> int:
        """A stack may use so many times what one evaluation may."""
        return len(self.members)

    def run(self, workbench: Workbench) -> Outcomes:
        """Prune copies of the task's network, fine-tune them as one, judge them one by one.

        Judging does not gain by stacking: it is limited by arithmetic, which padding adds to.
        """
        first = self.members[0]
        task, _ = workbench.task(first.task)
        models = [member.pruned(workbench) for member in self.members]
        task.fine_tune_stacked(models, steps=first.steps, seed=first.seed)
        found = [
            member.judged(pool_fast(model), workbench)
            for member, model in zip(self.members, models, strict=True)
        ]
        return Outcomes(
            tuple(member.key for member in self.members),
            tuple(outcome.validation for outcome in found),
            tuple(outcome.test for outcome in found),
            tuple(outcome.raw for outcome in found),
        )

    def failed(self, reason: str) -> Outcomes:
        """No outcomes; the members may be tried one by one."""
        return Outcomes((), (), (), (), reason)


AnyOutcome = Outcome | Outcomes


def outcome_reader() -> Decoder[AnyOutcome]:
    """Reads the outcomes of evaluations and of stacks."""
    single, stacked = reader(Outcome), reader(Outcomes)

    def read(entry: Mapping[str, Any]) -> AnyOutcome:
        if "members" not in entry:
            return single(entry)
        outcomes = stacked(entry)
        outcomes.each()  # refuses a damaged line
        return outcomes

    return read


def stack_size(asked: int, device: str) -> int:
    """Networks per stack: as asked for, or what suits the device where 0 is asked for.

    On a CPU it pays for some networks and not for others (see benchmarks/stacking.py), and other
    runs can reuse single evaluations but hardly ever a stack, so nothing is stacked unless asked
    for.
    """
    return asked or (ON_GPU if device.startswith("cuda") else 1)


class Evaluator:
    """Evaluates, each network once in a run, in stacks or one by one.

    Args:
        runner: runs what the journal does not know.
        journal: what is known already, and where the rest is written.
        stack: most networks that are fine-tuned as one; 1 for each by itself.
    """

    def __init__(self, runner: Runner, journal: Journal[AnyOutcome], stack: int) -> None:
        self._runner, self._journal, self._stack = runner, journal, stack
        self._evaluated = Results(reader(Outcome))

    def outcomes(
        self,
        evaluations: Iterable[Evaluation],
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> dict[str, Outcome]:
        """The outcome of every evaluation by its key.

        A stack that fails is taken apart: each of its networks is evaluated by itself, so that it
        costs no other network its result.

        Args:
            evaluations: what is wanted; of an iterator, the first are evaluated while it makes the
                others.
            progress: hears how many of how many distinct evaluations are done, those of a stack
                together; of an iterator, of how many so far.
        """
        if self._stack == 1:
            return self._alone(evaluations, progress)
        wanted: dict[str, None] = {}
        stacks: dict[str, tuple[Evaluation, ...]] = {}

        def jobs() -> Iterator[Job[AnyOutcome]]:
            for members in composed(self._unknown(evaluations, wanted), self._stack):
                job = job_of(members)
                stacks[job.key] = members
                yield job

        def tell(done: int, of: int) -> None:
            progress(len(wanted) * done // of, len(wanted))

        # All jobs of a list are known before the first is done, which the progress needs.
        given = list(jobs()) if isinstance(evaluations, Sequence) else jobs()
        found = run_with_journal(given, self._runner, self._journal, tell)
        result: dict[str, Outcome] = {}
        lost: list[Evaluation] = []
        for key, members in stacks.items():
            outcome = found[key]
            if isinstance(outcome, Outcome):
                result[key] = outcome
            elif outcome.failure:
                lost += members
            else:
                result.update(outcome.each())
        result.update(self._alone(lost))
        for key, single in result.items():
            self._evaluated.put(key, single)
        return {key: self._evaluated[key] for key in wanted}

    def _alone(
        self,
        evaluations: Iterable[Evaluation],
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> dict[str, Outcome]:
        """The outcomes of networks that are evaluated by themselves."""
        found = run_with_journal(evaluations, self._runner, self._journal, progress)
        return {key: outcome for key, outcome in found.items() if isinstance(outcome, Outcome)}

    def _unknown(
        self, evaluations: Iterable[Evaluation], wanted: dict[str, None]
    ) -> Iterator[Evaluation]:
        """Those that have not been evaluated in this run; ``wanted`` gets the keys of all."""
        for evaluation in evaluations:
            key = evaluation.key
            new = key not in wanted and key not in self._evaluated
            wanted[key] = None
            if new:
                yield evaluation


def composed(evaluations: Iterable[Evaluation], size: int) -> Iterator[tuple[Evaluation, ...]]:
    """Put evaluations of one protocol together, those of similar networks.

    What is not fine-tuned stays by itself: there is nothing to gain.

    Args:
        evaluations: no two alike; not all are read before the first stack is given.
        size: most of a stack.
    """
    waiting: dict[tuple[object, ...], list[Evaluation]] = {}
    for evaluation in evaluations:
        if not evaluation.steps:
            yield (evaluation,)
            continue
        alike = waiting.setdefault(_protocol(evaluation), [])
        alike.append(evaluation)
        if len(alike) == _WINDOW * size:
            yield from _cut(alike, size)
            alike.clear()
    for alike in waiting.values():
        yield from _cut(alike, size)


def job_of(members: tuple[Evaluation, ...]) -> Job[AnyOutcome]:
    """The job that evaluates them: a single one is evaluated as it is without stacks."""
    return members[0] if len(members) == 1 else StackedEvaluation(members)


def _protocol(evaluation: Evaluation) -> tuple[object, ...]:
    """What is equal for the members of a stack."""
    return tuple(
        getattr(evaluation, field.name) for field in fields(evaluation) if field.name != "plan"
    )


def _cut(evaluations: Sequence[Evaluation], size: int) -> Iterator[tuple[Evaluation, ...]]:
    """Stacks of about equal length, the networks that keep least in the first."""
    if not evaluations:
        return
    ordered = sorted(evaluations, key=lambda e: (e.plan["achieved"]["params"], e.key))
    stacks = -(-len(ordered) // size)
    for part in range(stacks):
        yield tuple(ordered[len(ordered) * part // stacks : len(ordered) * (part + 1) // stacks])
