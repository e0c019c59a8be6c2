"""Evaluations alone and in stacks: what shares a stack, and that nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import content

from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget
from gp_prune.runs.executors import completed
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import Job, TaskSource, Workbench, work
from gp_prune.runs.journal import NAME, Journal
from gp_prune.runs.journal_lines import entries, seal
from gp_prune.runs.processes import ResourceLimits
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import WORST_RAW, Evaluation, Outcome
from gp_prune.search.evaluator import (
    AnyOutcome,
    Evaluator,
    StackBuilder,
    StackedEvaluation,
    StackOutcome,
    outcome_reader,
    stack_size,
)
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.search.results import SearchResult
from gp_prune.search.run import evolve
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed

SMALL = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits", "autoencoder-digits"), population=6, generations=2, seed=5,
    ladder=(0.4,), budgets=(0.4,), fine_tune_steps=3, rung_steps=(0,),
    promote=(0.6,), final_steps=3, final_seeds=2, front_size=4, calibration=128, stack=3,
    budget_kind=("channels",), objectives=("tuned_error", "macs", "params"),
)  # fmt: skip


def evaluation(number: int, steps: int = 3, task: str = "lenet-digits") -> Evaluation:
    kept = derive_seed("kept", number) % 100 / 100
    plan = {"digest": f"plan {number}", "achieved": {"params": kept}}
    return Evaluation(task, plan, steps, 0)


def members_of(job: Job[AnyOutcome]) -> tuple[Evaluation, ...]:
    if isinstance(job, StackedEvaluation):
        return job.members
    assert isinstance(job, Evaluation)
    return (job,)


class Counting:
    """A runner whose errors follow from the network alone; stacks fail where one is unlucky."""

    def __init__(self, unlucky: Sequence[str] = ()) -> None:
        self.jobs: list[Job[AnyOutcome]] = []
        self._unlucky = set(unlucky)

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[Any]) -> Future[Any]:
        self.jobs.append(job)
        return completed(self._result(job))

    def _result(self, job: Job[AnyOutcome]) -> AnyOutcome:
        members = members_of(job)
        if self._unlucky & {member.key for member in members}:
            return job.failed("took more than 1 s, 2 times")
        errors = tuple(derive_seed(member.key) / 2**32 for member in members)
        if isinstance(job, StackedEvaluation):
            keys = tuple(member.key for member in members)
            return StackOutcome(keys, errors, (None,) * len(errors), errors)
        return Outcome(errors[0], None, errors[0])

    def close(self) -> None:
        pass


def asked(folder: Path, runner: Counting, *calls: Sequence[Evaluation]) -> list[dict[str, Outcome]]:
    folder.mkdir(exist_ok=True)
    with Journal(folder, outcome_reader()) as journal:
        evaluator = Evaluator(runner, journal, stack=3)
        return [evaluator.outcomes(call) for call in calls]


def build(given: Sequence[Evaluation], size: int) -> list[tuple[Evaluation, ...]]:
    builder = StackBuilder(size)
    return [stack for e in given for stack in builder.add(e)] + builder.flush()


def test_stacks_are_small_of_one_protocol_and_of_networks_of_one_size() -> None:
    given = [evaluation(n, steps, task) for n in range(40) for steps in (3, 5)
             for task in ("lenet-digits", "cnn-digits")]  # fmt: skip
    stacks = build(given, 4)
    assert sorted(m.key for members in stacks for m in members) == sorted(e.key for e in given)
    assert {len(members) for members in stacks} == {4}
    for members in stacks:
        assert len({(m.task, m.steps, m.seed) for m in members}) == 1
        sizes = [m.plan["achieved"]["params"] for m in members]
        assert sizes == sorted(sizes)
    assert [len(s) for s in build(given[:20:4], 4)] == [2, 3]


def test_what_is_not_fine_tuned_stays_alone_and_is_given_at_once() -> None:
    builder = StackBuilder(4)
    assert builder.add(evaluation(0, steps=0)) == [(evaluation(0, steps=0),)]
    assert builder.flush() == []


def test_the_outcomes_are_those_of_each_network(tmp_path: Path) -> None:
    given = [evaluation(n, steps) for n in range(20) for steps in (0, 3)]
    runner, again = Counting(), Counting()
    (found,) = asked(tmp_path, runner, given + given[:5])
    assert list(found) == [e.key for e in given]
    assert all(found[e.key].raw == derive_seed(e.key) / 2**32 for e in given)
    assert sum(isinstance(job, StackedEvaluation) for job in runner.jobs) == 7
    assert asked(tmp_path, again, given) == [found]
    assert not again.jobs


def test_a_network_is_evaluated_once_in_a_run(tmp_path: Path) -> None:
    given = [evaluation(n) for n in range(9)]
    runner = Counting()
    first, second = asked(tmp_path, runner, given[:4], given)
    members = [member.key for job in runner.jobs for member in members_of(job)]
    assert sorted(members) == sorted(e.key for e in given)
    assert first.items() <= second.items()


def test_stacks_follow_from_the_course_of_the_run_not_from_the_journal(tmp_path: Path) -> None:
    """A run that was killed between two stacks goes on with the same ones."""
    given = [evaluation(n) for n in range(9)]
    whole = Counting()
    asked(tmp_path / "whole", whole, given[:4], given)
    lines = (tmp_path / "whole" / NAME).read_text().splitlines(keepends=True)
    for kept in range(len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / NAME).write_text("".join(lines[:kept]))
        rest = Counting()
        asked(folder, rest, given[:4], given)
        assert [job.key for job in rest.jobs] == [job.key for job in whole.jobs][kept:]
        assert (folder / NAME).read_text() == "".join(lines)


def test_a_stack_that_fails_costs_no_other_network_its_result(tmp_path: Path) -> None:
    given = [evaluation(n) for n in range(6)]
    runner = Counting(unlucky=[given[2].key])
    (found,) = asked(tmp_path, runner, given)
    assert [e.key for e in given if found[e.key].failure] == [given[2].key]
    assert all(found[e.key].raw == derive_seed(e.key) / 2**32 for e in given if e is not given[2])
    assert sum(isinstance(job, Evaluation) for job in runner.jobs) == 3
    again = Counting()
    assert asked(tmp_path, again, given) == [found]
    assert not again.jobs


@pytest.mark.parametrize(
    ("steps", "expected"), [(3, [2, 5, 7, 10]), (0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])]
)
def test_progress_counts_networks(tmp_path: Path, steps: int, expected: list[int]) -> None:
    told: list[tuple[int, int]] = []
    with Journal(tmp_path, outcome_reader()) as journal:
        evaluator = Evaluator(Counting(), journal, stack=3)
        given = [evaluation(n, steps) for n in range(10)]
        evaluator.outcomes([*given, *given], lambda *now: told.append(now))
    assert told == [(done, 10) for done in expected]


def test_a_stack_may_use_what_its_members_may() -> None:
    assert work(evaluation(0)) == 1
    assert work(StackedEvaluation((evaluation(0), evaluation(1), evaluation(2)))) == 3
    assert ResourceLimits(2.0, 100.0).times(3) == ResourceLimits(6.0, 300.0)
    assert not ResourceLimits().times(3).limited


@pytest.mark.parametrize("stack", [1, 3])
def test_what_a_limit_ended_is_remembered_by_its_formula(tmp_path: Path, stack: int) -> None:
    given = [replace(evaluation(n), formula=f"f{n}") for n in range(7)]
    runner = Counting([given[2].key, given[5].key])
    with Journal(tmp_path, outcome_reader()) as journal:
        evaluator = Evaluator(runner, journal, stack=stack)
        evaluator.outcomes(given)
        wanted = {f"formula 'f{n}' on lenet-digits": "took more than 1 s, 2 times" for n in (2, 5)}
        assert evaluator.failures == wanted
    with Journal(tmp_path, outcome_reader()) as journal:
        again = Evaluator(Counting(), journal, stack=stack)
        again.outcomes(given)
        assert again.failures == wanted, "also after a resumption"


def test_the_formula_of_an_evaluation_is_for_people_alone() -> None:
    one, other = (replace(evaluation(1), formula=text) for text in ("f", "g"))
    assert one.key == other.key and one == other
    assert StackBuilder(2).add(one) == [] and len(build([one, other], 2)) == 1


def test_a_stack_that_another_run_lends_is_not_evaluated_again(tmp_path: Path) -> None:
    given = [evaluation(n) for n in range(9)]
    (found,) = asked(tmp_path / "earlier", Counting(), given)
    path = tmp_path / "earlier" / NAME
    lent = dict(
        entry for entry in entries(path, outcome_reader())
        if isinstance(entry, tuple)
    )  # fmt: skip
    runner = Counting()
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.lend(dict(list(lent.items())[:2]))
        assert Evaluator(runner, journal, stack=3).outcomes(given) == found
    assert [job.key for job in runner.jobs] == list(lent)[2:]


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    asked(tmp_path, Counting(), [evaluation(n) for n in range(3)])
    path = tmp_path / NAME
    entry = json.loads(path.read_text())
    del entry["check"]
    path.write_bytes(seal({**entry, "raw": entry["raw"][:2]}))
    with pytest.raises(UserError, match="damaged in line 1"):
        asked(tmp_path, Counting(), [])


def test_by_default_only_a_gpu_stacks() -> None:
    assert stack_size(0, "cpu") == 1
    assert stack_size(0, "cuda:1") > 1
    assert stack_size(5, "cpu") == stack_size(5, "cuda") == 5


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("l1", "random", "taylor_gate", "apoz"), "channels"),
        (("magnitude", "random_weight", "taylor_weight"), "params"),
    ],
)
def test_real_networks_have_the_errors_that_they_have_alone(
    task_cache: Path, names: tuple[str, ...], kind: str
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    for task in SMALL.tasks:
        bench, workbench = TaskScorer(source.load(task), 128, 0), Workbench(source)
        metrics, budget = [Metric.load(name) for name in names], Budget(kind, SMALL.ladder[0])
        plans = [bench.plan(m.expression, SMALL.conventions, budget).plan for m in metrics]
        members = tuple(Evaluation(task, plan.to_json(), 5, 1, test=True) for plan in plans)
        together = StackedEvaluation(members).run(workbench).each()
        assert list(together) == [member.key for member in members]
        for member in members:
            # Half a per cent: one sample that is a near tie.
            alone = member.run(workbench)
            assert together[member.key][:3] == pytest.approx(alone[:3], abs=5e-3)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SMALL, id="some rise"),
        pytest.param(
            replace(SMALL, rung_steps=(), promote=()),
            id="all are fine-tuned",
            marks=pytest.mark.slow,
        ),
    ],
)
def small_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, task_cache: Path
) -> SearchResult:
    folder = tmp_path_factory.mktemp("stacked") / "run"
    return evolve(request.param, folder, source=TaskSource(cache_dir=str(task_cache)))


@pytest.mark.slow
def test_a_run_with_stacks_ends_alike_with_any_number_of_workers(
    small_run: SearchResult, task_cache: Path, tmp_path: Path
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    other = evolve(small_run.config, tmp_path / "other", source=source, workers=2)
    assert content(other.folder) == content(small_run.folder)
    assert (other.folder / NAME).read_bytes() == (small_run.folder / NAME).read_bytes()


@pytest.mark.slow
def test_a_run_with_stacks_is_resumed_bit_for_bit(
    small_run: SearchResult, task_cache: Path, tmp_path: Path
) -> None:
    lines = (small_run.folder / NAME).read_bytes().splitlines(keepends=True)
    stacks = [n for n, line in enumerate(lines) if b'"key": "stack of' in line]
    assert len(stacks) > 3
    folder = tmp_path / "cut"
    folder.mkdir()
    shutil.copy(small_run.folder / CONFIG, folder)
    (folder / NAME).write_bytes(b"".join(lines[: stacks[2]]) + lines[stacks[2]][:20])
    source = TaskSource(cache_dir=str(task_cache))
    resumed = evolve(None, folder, source=source, resume=True)
    assert content(resumed.folder) == content(small_run.folder)


@pytest.mark.slow
def test_a_longer_run_takes_over_stacks(
    small_run: SearchResult, task_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    shorter = replace(small_run.config, generations=1)
    earlier = evolve(shorter, tmp_path / "earlier", source=source)
    ran: list[str] = []

    def run(self: StackedEvaluation, workbench: Workbench) -> StackOutcome:
        ran.append(self.key)
        return really(self, workbench)

    really = StackedEvaluation.run
    monkeypatch.setattr(StackedEvaluation, "run", run)
    reusing = evolve(small_run.config, tmp_path / "reusing", source=source, reuse=earlier.folder)
    assert content(reusing.folder) == content(small_run.folder)
    assert (reusing.folder / NAME).read_bytes() == (small_run.folder / NAME).read_bytes()
    before = (earlier.folder / NAME).read_text()
    assert ran
    assert not any(key in before for key in ran)
    assert (reusing.folder / NAME).read_text().count('"key": "stack of') > 2 * len(ran)


@pytest.mark.parametrize("test", [False, True])
def test_a_network_that_blew_up_is_bad_but_finite(task_cache: Path, test: bool) -> None:
    """So it can be written down, and costs the run nothing."""
    source = TaskSource(cache_dir=str(task_cache))
    bench, workbench = TaskScorer(source.load("autoencoder-digits"), 64, 0), Workbench(source)
    formula = Metric.load("l1").expression
    plan = bench.plan(formula, SearchConfig().conventions, Budget("channels", 0.5)).plan
    evaluation = Evaluation("autoencoder-digits", plan.to_json(), 3, 0, test=test)
    model = evaluation.pruned(workbench)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    outcome = evaluation.judge(model, workbench)
    assert outcome == Outcome(WORST_ERROR, WORST_ERROR if test else None, WORST_RAW)
    json.dumps(outcome, allow_nan=False)
