"""What a search refuses, what it evaluates, what ends it, restarts, and the random baseline."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.pruning import Budget
from gp_prune.runs.evolution import LEAST_GROWTH, Growth
from gp_prune.runs.executors import InProcess
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME, Journal
from gp_prune.search.archive import Archive, hypervolume
from gp_prune.search.assessor import ladder_evaluations
from gp_prune.search.comparison import _cut, plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import contenders
from gp_prune.search.evaluation import plan_from_json
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.nsga2 import Search, make_grammar
from gp_prune.search.objectives import Objectives
from gp_prune.search.reduction import Reducer
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics import collect

TUNED = ("tuned_error", "macs", "params")
CONFIG = SearchConfig(
    tasks=("cnn-digits",), calibration=64, budget_kind=("channels",), objectives=TUNED
)
WORST = (2.0, 1.0, 1.0)
QUARTERS = st.integers(0, 4)
POINTS = st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS), max_size=8)


@pytest.fixture(scope="module")
def bench(task_cache: Path) -> TaskScorer:
    return TaskScorer(TaskSource(cache_dir=str(task_cache)).load("cnn-digits"), 64, 0)


@pytest.fixture
def search(bench: TaskScorer, tmp_path: Path, task_cache: Path) -> Iterator[Search]:
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
    found = search.assessor.score(parse(text, builtin_primitives()))
    assert isinstance(found, str)
    assert reason in found


def test_trials_of_a_task_are_tuned_on_one_order_of_samples(search: Search) -> None:
    primitives = builtin_primitives()
    first = search.assessor.score(parse("sum[i,k](abs(W))", primitives))
    second = search.assessor.score(parse("abs(gamma)", primitives))
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    evaluations = [ladder_evaluations(CONFIG, cut)["tuned_error"] for cut in [*first, *second]]
    assert len({evaluation.seed for evaluation in evaluations}) == 1
    assert len({evaluation.key for evaluation in evaluations}) == 4


def test_a_plan_travels_as_json(bench: TaskScorer) -> None:
    for text in ("abs(gamma)", "abs(W)"):
        expression = parse(text, builtin_primitives())
        kind = "channels" if text == "abs(gamma)" else "params"
        trial = bench.plan(expression, CONFIG.conventions, Budget(kind, 0.5))
        assert plan_from_json(trial.plan.to_json()) == trial.plan


def test_random_operands_are_drawn_by_seed(bench: TaskScorer) -> None:
    primitives = builtin_primitives()
    reducer = Reducer(primitives, [bench], plan_setting(CONFIG))
    archive = Archive(primitives, CONFIG.names)
    entered = contenders(CONFIG, archive, reference_metrics(primitives), reducer)
    (random,) = [c for c in entered if c.name == "random"]
    budget = Budget("channels", 0.5)
    plans = [_cut(CONFIG, bench, random, budget, draw).key for draw in (0, 0, 1, 2)]
    assert plans[0] == plans[1]
    assert len(set(plans)) == 3


def test_a_formula_that_fails_is_named(bench: TaskScorer) -> None:
    expression = parse("abs(gamma)", builtin_primitives())
    broken = TaskScorer.__new__(TaskScorer)
    broken.__dict__ = {**bench.__dict__, "_interpreters": dict.fromkeys(bench.layers)}
    with pytest.raises(UserError, match=r"formula abs\(gamma\) fails on layer .* of cnn-digits"):
        broken.plan(expression, CONFIG.conventions, Budget("channels", 0.5))


@given(POINTS)
def test_hypervolume_counts_cells(points: list[tuple[int, int, int]]) -> None:
    """Brute force counts the dominated cells of a 4 x 4 x 4 grid up to the worst objectives."""
    dominated = sum(
        any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
        for cell in itertools.product(range(4), repeat=3)
    )
    front: list[Objectives] = [
        (p[0] / 4 * WORST[0], p[1] / 4 * WORST[1], p[2] / 4 * WORST[2]) for p in points
    ]
    assert hypervolume(front, WORST) == pytest.approx(dominated / 64 * WORST[0], abs=1e-12)


@given(st.lists(st.floats(0, 2), max_size=30))
def test_growth_counts_what_came_after_the_best(volumes: list[float]) -> None:
    growth = Growth()
    for volume in volumes:
        growth.update(volume)
    best, idle = 0.0, 0
    for volume in volumes:
        idle = 0 if volume > best * (1 + LEAST_GROWTH) else idle + 1
        best = volume if idle == 0 else best
    assert (growth.volume, growth.idle) == (best, idle)


def generations(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == "generation"]


@pytest.mark.parametrize("most", [3, 9, 20, 31])
def test_evaluations_end_exactly(simulate: Callable[..., Any], tmp_path: Path, most: int) -> None:
    run = simulate(tmp_path, max_evaluations=most, generations=50)
    last = run.generations[-1]
    assert last.behaviours == most
    assert last.stopped == f"{most} behaviours have been evaluated"
    assert all(not generation.stopped for generation in run.generations[:-1])


def test_stall_is_a_function_of_the_journal(simulate: Callable[..., Any], tmp_path: Path) -> None:
    run = simulate(tmp_path, stall=2, restart=0, generations=60, population=4)
    volumes = [entry["hypervolume"] for entry in generations(tmp_path)]
    assert run.generations[-1].stopped == "the front has not grown for 2 generations"
    growth = Growth()
    idle = []
    for volume in volumes:
        growth.update(volume)
        idle.append(growth.idle)
    assert idle[-1] == 2 and max(idle[:-1]) < 2


def test_the_time_limit_stays_what_it_was(simulate: Callable[..., Any], tmp_path: Path) -> None:
    seconds = itertools.count(step=10)
    run = simulate(tmp_path, time_limit=25.0, clock=lambda: float(next(seconds)))
    assert [g.number for g in run.generations] == [0, 1, 2]
    assert run.generations[-1].stopped == "the time limit is reached"
    journal = (tmp_path / NAME).read_bytes()
    resumed = simulate(tmp_path, time_limit=25.0, clock=lambda: 0.0)
    assert resumed.generations == run.generations
    assert (tmp_path / NAME).read_bytes() == journal


@pytest.mark.parametrize("strategy", ["evolve", "random"])
def test_a_longer_run_begins_as_the_shorter_one(
    simulate: Callable[..., Any], tmp_path: Path, strategy: str
) -> None:
    for name, count in (("short", 3), ("long", 7)):
        simulate(tmp_path / name, generations=count, strategy=strategy, restart=2)
    assert generations(tmp_path / "long")[:4] == generations(tmp_path / "short")


def test_random_search_has_the_same_budget_and_start(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    evolved = simulate(tmp_path / "evolve")
    drawn = simulate(tmp_path / "random", strategy="random")
    assert generations(tmp_path / "random")[0] == generations(tmp_path / "evolve")[0]
    assert [g.behaviours for g in drawn.generations] == [g.behaviours for g in evolved.generations]
    assert drawn.generations[-1].front != evolved.generations[-1].front
    assert not any(entry["rates"] for entry in generations(tmp_path / "random"))


def test_a_stalled_front_brings_immigrants(
    simulate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gp_prune.runs.evolution.LEAST_GROWTH", 10.0)
    run = simulate(tmp_path, restart=2, generations=5)
    rates = [entry["rates"] for entry in generations(tmp_path)]
    # Generation 0 grows, 1 and 2 do not; 3 is random, so nothing is learnt about the operators.
    assert rates[2] == rates[3] != rates[1]
    assert len({frozenset(c.behaviour for c in g.front) for g in run.generations}) > 1
    volumes = [g.hypervolume for g in run.generations]
    assert volumes == sorted(volumes)


def test_other_random_numbers_are_those_of_a_measurement_with_that_seed(bench: TaskScorer) -> None:
    expression = parse("add(mean[i,k](abs(W)), U)", builtin_primitives())
    names = bench._scored(expression)
    measured = collect(bench.task.model, names, (), needs={"noise"}, seed=7)
    scores = bench._scores(expression, 7)
    assert all(torch.equal(scores[name], evaluate(expression, measured[name])) for name in names)


def test_a_grammar_is_built_once_for_equal_settings() -> None:
    primitives = builtin_primitives()
    config = replace(CONFIG, start_formulas=("abs(gamma)",))
    first, (start,) = make_grammar(config, primitives)
    second, (again,) = make_grammar(replace(config, seed=3), primitives)
    assert first is second
    assert start == again and start is not again  # a tree has the fitness that its search gave it
    assert make_grammar(replace(config, exclude=("gradients",)), primitives)[0] is not first
    assert make_grammar(config, primitives.extended(()))[0].primitives is not primitives
