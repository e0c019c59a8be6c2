"""Weights are chosen block after block in searches, judgements and comparisons, too."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from gp_prune import Conventions, Judge, Metric, SearchConfig, compare, evolve, prune
from gp_prune.errors import UserError
from gp_prune.pruning import Budget, Pattern, WeightPlan, mask
from gp_prune.pruning.plan.weights import Target
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics import Batch
from gp_prune.statistics.running import copy_model
from gp_prune.tasks import Task
from gp_prune.tasks.language_models import LanguageModel, Size

SAMPLES = 24


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    model = LanguageModel(Size(16, 2, 2, 2, 24), llama=True, vocabulary=50, length=10).eval()
    tokens = torch.randint(0, 50, (120, 11), generator=torch.Generator().manual_seed(1))
    return Task(model, tokens, kind="language", whole=["head"], name="tokens")


def plan_of(task: Task, name: str, budget: Target, *, sequential: bool) -> WeightPlan:
    metric = Metric.load(name)
    scorer = TaskScorer(task, SAMPLES, 0, sequential=sequential)
    plan = scorer.plan(metric.expression, Conventions("row", "none"), budget).plan
    assert isinstance(plan, WeightPlan)
    return plan


@pytest.mark.parametrize("budget", [Budget("params", 0.5), Pattern(2, 4)], ids=str)
@pytest.mark.parametrize("name", ["wanda_weight", "taylor_weight"])
def test_a_plan_is_that_of_prune(task: Task, name: str, budget: Target) -> None:
    plan = plan_of(task, name, budget, sequential=True)
    given: dict[str, Any] = (
        {"pattern": str(budget)} if isinstance(budget, Pattern) else {"keep_params": budget.keep}
    )
    batches = [
        Batch(b.inputs, b.target) for b in task.batches(task.train.select(slice(SAMPLES)), 256)
    ]
    pruned = prune(
        task.model, name, task.example_inputs, data=batches, loss=task.loss, sequential=True,
        ignore=["head"], conventions=Conventions("row", "none"), **given,
    )  # fmt: skip
    assert plan.digest() == pruned.plan.digest()
    # The first block is scored on the same inputs, a later one on those that the zeros leave.
    dense = plan_of(task, name, budget, sequential=False)
    assert set(plan.kept) == set(dense.kept)
    changed = {
        layer
        for layer, kept in plan.kept.items()
        if (kept.unpack() != dense.kept[layer].unpack()).any()
    }
    assert changed and all(layer.startswith("layers.1.") for layer in changed)


def test_magnitude_reads_no_inputs_so_the_order_changes_nothing(task: Task) -> None:
    plans = [
        plan_of(task, "magnitude", Budget("params", 0.5), sequential=sequential)
        for sequential in (True, False)
    ]
    assert plans[0].digest() == plans[1].digest()


def test_a_judge_measures_the_network_that_prune_gives(task: Task) -> None:
    judge = Judge([task], keep=(0.5,), scope="row", sequential=True, calibration=SAMPLES)
    plan = plan_of(task, "wanda_weight", Budget("params", 0.5), sequential=True)
    model = copy_model(task.model)
    mask(model, plan)
    (found,) = judge("abs(W) * Xn").errors
    assert found.raw_error == pytest.approx(task.error(model, task.validation), rel=1e-6)
    assert judge("abs(W) * Xn").conventions["scope"] == "row"


def test_a_comparison_goes_block_after_block(task: Task, tmp_path: Path) -> None:
    result = compare(
        ["wanda_weight"], [task], folder=tmp_path / "run", keep=(0.5,), calibration=SAMPLES,
        sequential=True,
    )  # fmt: skip
    assert result.allocations == ["uniform"]
    judge = Judge([task], keep=(0.5,), scope="layer", sequential=True, calibration=SAMPLES)
    (row,) = [entry for entry in result.measurements if entry.metric == "wanda_weight"]
    assert row.error == pytest.approx(judge("abs(W) * Xn").error, rel=1e-6)


@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_a_comparison_that_ranks_all_layers_is_refused(
    granularity: str, task: Task, tmp_path: Path
) -> None:
    metric = {"channel": "l1", "weight": "magnitude"}[granularity]
    says = {"channel": "ranks channels, and sequential", "weight": "scope 'global' ranks all"}
    with pytest.raises(UserError, match=says[granularity]):
        compare([metric], [task], folder=tmp_path / "run", allocation=("global",), sequential=True)


@pytest.mark.slow
def test_a_search_goes_block_after_block(task: Task, tmp_path: Path) -> None:
    config = SearchConfig(
        tasks=("tokens",), granularity="weight", population=4, generations=1, scope="row",
        sequential=True, ladder=(0.5,), budgets=(0.5,), calibration=SAMPLES, final_steps=0,
        final_seeds=1, front_size=2, size_limit=9, validate_on=(),
    )  # fmt: skip
    result = evolve(config, tmp_path / "run", tasks=[task])
    with (tmp_path / "run" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"ladder", "params"}
    # As published, magnitude ranks all layers together, which cannot be done in order.
    assert {"random_weight", "magnitude"} <= {row["contender"] for row in rows}
    judge = Judge([task], keep=(0.5,), scope="row", sequential=True, calibration=SAMPLES)
    best = result.recommended
    assert best.candidate is not None
    judged = judge(Metric("found", best.expression, Conventions("row", "mean")))
    assert judged.error == pytest.approx(best.candidate.objectives[0], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "the search ranks channels, and sequential"),
        ({"granularity": "weight"}, "scope 'global' ranks all of them together"),
        (
            {"granularity": "weight", "scope": "row", "budget_kind": ("macs",)},
            "the budget is one of macs",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SearchConfig(sequential=True, **settings)


def test_patterns_need_no_scope() -> None:
    assert SearchConfig(granularity="weight", pattern=("2:4",), sequential=True).sequential
