"""Formulas are shortened within the noise of their error: as far as it allows, and no further."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression, canonical
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.runs.executors import completed
from gp_prune.runs.jobs import Job
from gp_prune.runs.journal import Journal
from gp_prune.search.assessor import Assessor
from gp_prune.search.comparison import plan_records, plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.grammar import Grammar
from gp_prune.search.noise_reduction import reduce_within_noise
from gp_prune.search.reduction import Reducer, single_reductions
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed

PRIMITIVES = builtin_primitives()
CONFIG = SearchConfig(
    tasks=("lenet-digits",), validate_on=(), calibration=64, final_seeds=3, final_steps=1,
    ladder=(0.5,), budgets=(0.5,), aggregate="mean", reduce_within_noise=True,
)  # fmt: skip
FORMULAS = (
    "add(l1[i,k](W), mul(0.3, std[n,s](A)))",
    "mul(add(abs(b), 0.2), sqrt(sum[i,k](square(mul(W, G)))))",
)


class RandomErrors:
    """A runner whose errors follow from the plan and, after fine-tuning, from the seed."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.tested = False

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def error(self, job: Evaluation) -> float:
        plan = derive_seed(job.plan["digest"]) / 2**31
        return 0.2 + 0.2 * plan + (self.noise * derive_seed(job.key) / 2**31 if job.steps else 0)

    def submit(self, job: Job[Any]) -> Future[Any]:
        assert isinstance(job, Evaluation)
        self.tested |= job.test
        return completed(Outcome(self.error(job), None, 0.0))

    def close(self) -> None:
        pass


def shorten(
    text: str, noise: float, bench: TaskScorer, folder: Path
) -> tuple[Contender, Reducer, RandomErrors]:
    folder.mkdir()
    runner = RandomErrors(noise)
    reducer = Reducer(PRIMITIVES, [bench], plan_setting(CONFIG))
    grammar = Grammar(PRIMITIVES, CONFIG.root, NEEDS)
    published = reference_metrics(PRIMITIVES)
    with Journal(folder, outcome_reader()) as journal:
        evaluator = Evaluator(runner, journal, stack=1)
        assessor = Assessor(CONFIG, grammar, [bench], evaluator, journal)
        expression = canonical(parse(text, PRIMITIVES))
        candidate = assessor.measure(expression)
        entered = [Contender("found", expression, CONFIG.conventions, candidate)]
        (shown,) = reduce_within_noise(
            CONFIG, entered, published, [bench], reducer, evaluator, assessor.measure
        )
        assert not runner.tested
        assert shown.candidate is not None
        again = assessor.measure(shown.expression)
        assert shown.candidate.objectives == again.objectives
    return shown, reducer, runner


def errors(expression: Expression, bench: TaskScorer, runner: RandomErrors) -> list[list[float]]:
    """The errors right after pruning, then those of each fine-tuning run."""
    contender = Contender("c", expression, CONFIG.conventions)
    planned = [
        (record, runner.error(replace(evaluation, test=False)))
        for judged in (True, False)
        for record, evaluation in plan_records(CONFIG, bench, contender, judged=judged)
        if record.kind != "ladder"
    ]
    runs = [
        [value for r, value in planned if r.error == "tuned_error" and r.repeat == repeat]
        for repeat in range(CONFIG.final_seeds)
    ]
    return [[value for r, value in planned if r.error == "error"], *runs]


def mean_of_all(runs: list[list[float]]) -> float:
    return statistics.fmean(value for run in runs for value in run)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_shortened_as_far_as_the_noise_allows(
    text: str, lenet_bench: TaskScorer, tmp_path: Path
) -> None:
    shown, reducer, runner = shorten(text, 0.1, lenet_bench, tmp_path / "run")
    original = canonical(parse(text, PRIMITIVES))
    pruned, *runs = errors(original, lenet_bench, runner)
    spread = statistics.stdev(map(statistics.fmean, runs))

    def is_within(tree: Expression) -> bool:
        other, *others = errors(tree, lenet_bench, runner)
        return (
            statistics.fmean(other) <= statistics.fmean(pruned) + spread
            and statistics.fmean(others[0]) <= statistics.fmean(runs[0]) + spread
            and mean_of_all(others) <= mean_of_all(runs) + spread
        )

    assert is_within(shown.expression)
    for other in single_reductions(shown.expression):
        tree = canonical(other.expression)
        if tree.size < shown.expression.size and reducer.is_rankable(tree):
            assert not is_within(tree), str(tree)


def test_without_noise_only_no_worse_forms_are_taken(
    lenet_bench: TaskScorer, tmp_path: Path
) -> None:
    shown, _, runner = shorten(FORMULAS[0], 0.0, lenet_bench, tmp_path / "run")
    original = canonical(parse(FORMULAS[0], PRIMITIVES))
    before, after = (errors(tree, lenet_bench, runner) for tree in (original, shown.expression))
    assert statistics.fmean(after[0]) <= statistics.fmean(before[0])


def test_much_noise_leaves_one_operand(lenet_bench: TaskScorer, tmp_path: Path) -> None:
    shown, _, _ = shorten(FORMULAS[0], 1.5, lenet_bench, tmp_path / "run")
    assert shown.expression.size < canonical(parse(FORMULAS[0], PRIMITIVES)).size
    assert shown.reduction is not None
    assert shown.reduction.original == canonical(parse(FORMULAS[0], PRIMITIVES))
    assert all(step.endswith("(within noise)") for step in shown.reduction.steps)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"final_seeds": 1}, "final_seeds is 1"),
        ({"final_steps": 0}, "final_steps is 0"),
        ({"comparison": False}, "comparison is False"),
    ],
)
def test_a_deviation_is_needed(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **settings)
