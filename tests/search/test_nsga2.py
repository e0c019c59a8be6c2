"""What a search refuses, and what its evaluations are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.language.parser import parse
from gp_prune.language.registry import builtin_primitives
from gp_prune.pruning import Budget
from gp_prune.runs.executors import InProcess
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.search.archive import Archive
from gp_prune.search.assessor import ladder_evaluation
from gp_prune.search.comparison import _trial, contenders
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import plan_from_json
from gp_prune.search.nsga2 import Search
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import Bench
from gp_prune.search.stacking import Evaluator, outcome_reader

CONFIG = SearchConfig(tasks=("cnn-digits",), calibration=64)


@pytest.fixture(scope="module")
def bench(task_cache: Path) -> Bench:
    return Bench(TaskSource(cache_dir=str(task_cache)).load("cnn-digits"), 64, 0)


@pytest.fixture
def search(bench: Bench, tmp_path: Path, task_cache: Path) -> Iterator[Search]:
    runner = InProcess(TaskSource(cache_dir=str(task_cache)))
    with Journal(tmp_path, outcome_reader()) as journal:
        evaluator = Evaluator(runner, journal, stack=1)
        yield Search(CONFIG, builtin_primitives(), [bench], [], evaluator, journal)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mul(0, gamma)", "constant"),
        ("sum[i,k](by_sum[i,k](abs(W)))", "constant"),
        ("nonzero(maximum(b, gamma))", "constant"),
        ("square(square(square(square(exp(mul(40, exp(gamma)))))))", "not finite"),
        ("nonzero(maximum(sub(gamma, mean[o](gamma)), 0))", "tied"),
    ],
)
def test_formulas_that_rank_nothing_are_refused_by_name(
    search: Search, text: str, reason: str
) -> None:
    found = search.assessor.trials(parse(text, builtin_primitives()))
    assert isinstance(found, str)
    assert reason in found


def test_trials_of_a_task_are_tuned_on_one_order_of_samples(search: Search) -> None:
    primitives = builtin_primitives()
    first = search.assessor.trials(parse("sum[i,k](abs(W))", primitives))
    second = search.assessor.trials(parse("abs(gamma)", primitives))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    seeds = {ladder_evaluation(CONFIG, trial).seed for trial in [*first, *second]}
    keys = {ladder_evaluation(CONFIG, trial).key for trial in [*first, *second]}
    assert len(seeds) == 1
    assert len(keys) == 4


def test_a_plan_travels_as_json(bench: Bench) -> None:
    for text in ("abs(gamma)", "abs(W)"):
        expression = parse(text, builtin_primitives())
        kind = "channels" if text == "abs(gamma)" else "params"
        trial = bench.trial(expression, CONFIG.conventions, Budget(kind, 0.5))
        assert plan_from_json(trial.plan.to_json()) == trial.plan


def test_random_operands_are_drawn_by_seed(bench: Bench) -> None:
    primitives = builtin_primitives()
    (random,) = [
        c
        for c in contenders(CONFIG, Archive(primitives), reference_metrics(primitives))
        if c.name == "random"
    ]
    budget = Budget("channels", 0.5)
    plans = [_trial(CONFIG, bench, random, budget, draw).key for draw in (0, 0, 1, 2)]
    assert plans[0] == plans[1]
    assert len(set(plans)) == 3


def test_a_formula_that_fails_is_named(bench: Bench) -> None:
    expression = parse("abs(gamma)", builtin_primitives())
    broken = Bench.__new__(Bench)
    broken.__dict__ = {**bench.__dict__, "_interpreters": dict.fromkeys(bench.layers)}
    with pytest.raises(UserError, match=r"formula abs\(gamma\) fails on layer .* of cnn-digits"):
        broken.trial(expression, CONFIG.conventions, Budget("channels", 0.5))
