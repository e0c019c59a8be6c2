"""One formula is judged as a search judges its candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import gp_prune
from gp_prune.errors import UserError
from gp_prune.judging.judge import DegenerateFormula, Judge
from gp_prune.language.expression import ExpressionError
from gp_prune.metric.file import MetricError
from gp_prune.metric.metric import Metric
from gp_prune.runs.executors import make_runner
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.runs.processes import ResourceLimits
from gp_prune.search.assessor import Assessor
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.nsga2 import make_grammar
from gp_prune.search.scorer import TaskScorer

L1 = "sum[i,k](abs(W))"


@pytest.fixture(scope="module")
def source(task_cache: Path) -> TaskSource:
    return TaskSource(cache_dir=str(task_cache))


@pytest.fixture(scope="module")
def judge(source: TaskSource) -> Judge:
    return Judge(["lenet-digits"], keep=(0.5, 0.3), calibration=64, source=source)


def test_objectives_are_those_of_a_search(judge: Judge, source: TaskSource, tmp_path: Path) -> None:
    config = SearchConfig(
        tasks=("lenet-digits",), validate_on=(), ladder=(0.5, 0.3), calibration=64
    )
    scorer = TaskScorer(source.load("lenet-digits"), 64, 0)
    grammar, _ = make_grammar(config, gp_prune.primitive_set())
    runner = make_runner(source, 1, ResourceLimits(0.0, 0.0), None)
    with Journal(tmp_path, outcome_reader()) as journal:
        assessor = Assessor(config, grammar, [scorer], Evaluator(runner, journal, 1), journal)
        candidate = assessor.measure(Metric.parse(L1).expression)
    runner.close()
    result = judge(L1)
    assert tuple(result.objectives) == config.names
    assert tuple(result.objectives.values()) == candidate.objectives


def test_a_result_says_what_the_formula_is_and_does(judge: Judge) -> None:
    result = judge("var[n,s](A) * sum[j](V^2)")
    assert (result.granularity, result.objectives["size"]) == ("channel", 6)
    assert result.needs == ("outputs", "outgoing")
    assert [(row.task, row.kind, row.keep) for row in result.errors] == [
        ("lenet-digits", "macs", 0.5),
        ("lenet-digits", "macs", 0.3),
    ]
    for row in result.errors:
        assert row.macs == pytest.approx(row.keep, abs=0.05)
    assert result.to_json()["errors"][0]["task"] == "lenet-digits"


def test_what_was_cut_before_is_not_measured_again(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judge(L1)
    monkeypatch.setattr("gp_prune.search.evaluation.Evaluation.run", None)
    assert judge(f"2 * {L1}").errors == first.errors


def test_metrics_of_weights_have_the_budgets_of_weights(judge: Judge, source: TaskSource) -> None:
    assert [row.keep for row in judge("magnitude").errors] == [0.5, 0.3]  # as they were given
    default = Judge(["lenet-digits"], calibration=8, source=source)("magnitude")
    assert [(row.kind, row.keep) for row in default.errors] == [("params", 0.3), ("params", 0.15)]


@pytest.mark.parametrize("text", ["gamma - gamma", "1e300 * 1e300 * b", "gamma"])
def test_a_formula_that_ranks_nothing_is_degenerate(judge: Judge, text: str) -> None:
    with pytest.raises(DegenerateFormula, match=r"lenet-digits|not finite"):
        judge(text)


@pytest.mark.parametrize("text", ["sum[i](W", "W + ", "A", "__import__('os')", "no_such_metric"])
def test_a_text_that_is_no_metric_is_invalid(judge: Judge, text: str) -> None:
    with pytest.raises((ExpressionError, MetricError)):
        judge(text)


def test_evaluate_takes_tasks_and_judges(judge: Judge) -> None:
    assert gp_prune.evaluate(L1, judge) == judge(L1)
    with pytest.raises(UserError, match="a Judge has its settings already"):
        gp_prune.evaluate(L1, judge, keep=(0.5,))
    torch.manual_seed(0)
    inputs = torch.randn(60, 3, 6, 6)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2)
    )
    task = gp_prune.Task(model, (inputs, (inputs.mean((1, 2, 3)) > 0).long()), name="own")
    result = gp_prune.evaluate(L1, [task], keep=(0.5,), budget_kind=("params",))
    assert [(row.task, row.kind) for row in result.errors] == [("own", "params")]
    assert set(result.objectives) == {"error", "macs", "size"}


def test_a_pair_is_judged_with_its_shares(judge: Judge) -> None:
    alone = Metric.load("l1")
    pair = alone.with_shares("taylor_weights")
    result = judge(pair)
    assert result.shares == str(Metric.load("taylor_weights").expression)
    assert result.objectives["size"] == pair.size
    assert set(result.needs) == Metric.load("taylor_weights").needs
    assert [row.error for row in result.errors] != [row.error for row in judge(alone).errors]
    assert judge(alone).shares == ""


def test_patterns_are_budgets_of_single_weights(judge: Judge, source: TaskSource) -> None:
    names = ["lenet-digits"]
    alone = gp_prune.evaluate("magnitude", names, pattern=("2:4",), calibration=64, source=source)
    both = gp_prune.evaluate(
        "magnitude", names, keep=(0.5,), pattern=("2:4",), calibration=64, source=source
    )
    assert [(row.kind, row.keep) for row in alone.errors] == [("2:4", 0.5)]
    assert [(row.kind, row.keep) for row in both.errors] == [("params", 0.5), ("2:4", 0.5)]
    assert alone.errors[0] == both.errors[1]
    with pytest.raises(UserError, match="formulas rank channels; take formulas of weights"):
        gp_prune.evaluate(L1, names, pattern=("2:4",), calibration=64, source=source)
    with pytest.raises(UserError, match="pattern '4:2' would keep 4 of only 2"):
        Judge(names, pattern=("4:2",), source=source)
