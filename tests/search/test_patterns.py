"""Searches whose budget is a pattern of single weights, such as 2:4."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from own_networks import regression

from gp_prune import evolve
from gp_prune.cli import main
from gp_prune.errors import UserError
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Pattern, WeightPlan
from gp_prune.report.page.write import write_report
from gp_prune.search.comparison import equal_kinds, final_budgets
from gp_prune.search.config import SearchConfig
from gp_prune.search.results import SearchResult
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.stored import read

TINY = SearchConfig(
    granularity="weight", population=4, generations=0, seed=5, pattern=("2:4",), final_steps=1,
    final_seeds=1, front_size=2, size_limit=15, height_limit=5, calibration=16, scope="row",
    no_start_formulas=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    config = replace(TINY, tasks=("numbers",))
    return evolve(config, tmp_path_factory.mktemp("patterns") / "run", tasks=[regression()])


def weights(**settings: Any) -> SearchConfig:
    return SearchConfig(granularity="weight", **settings)


def test_a_pattern_alone_takes_the_place_of_shares() -> None:
    alone = weights(pattern=("2:4", " 1:8 "))
    assert alone.ladder == alone.budgets == () and alone.pattern == ("2:4", "1:8")
    assert alone.cells == (Pattern(2, 4), Pattern(1, 8))
    assert equal_kinds(alone) == ("pattern",)
    assert alone == replace(alone) == weights(pattern="2:4, 1:8")


def test_a_pattern_stands_beside_shares_that_are_given() -> None:
    both = weights(pattern=("2:4",), ladder=(0.6,))
    assert [(cell.kind, cell.keep) for cell in both.cells] == [("params", 0.6), ("2:4", 0.5)]
    assert equal_kinds(both) == ("macs", "params", "pattern")
    assert len(final_budgets(both)) == 2 * len(both.budgets) + 1


def test_settings_with_patterns_are_written_and_read(tmp_path: Path) -> None:
    for config in (weights(pattern=("2:4",)), weights(pattern=("2:4",), ladder=(0.5,))):
        (tmp_path / "config.toml").write_text(config.to_toml())
        assert SearchConfig.from_toml(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": ("2:4",)}, "one of single weights, and the formulas rank channels"),
        ({"granularity": "weight", "pattern": ("4:2",)}, "did you mean '2:4'"),
        ({"granularity": "weight", "pattern": ("half",)}, "pattern 'half' is not valid"),
        ({"granularity": "weight", "pattern": ("2:4", "2 : 4")}, "name each pattern once"),
    ],
)
def test_wrong_patterns_are_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SearchConfig(**settings)


def test_a_plan_keeps_the_best_of_every_block() -> None:
    task = regression()
    scorer = TaskScorer(task, 16, 0)
    metric = Metric.load("wanda_weight")
    plan = scorer.plan(metric.expression, metric.conventions, Pattern(2, 4)).plan
    assert isinstance(plan, WeightPlan) and plan.pattern == Pattern(2, 4)
    assert set(plan.kept) == {"2", "4"} and set(plan.whole) == {"0"}  # 6 inputs are no blocks
    scores = scorer.ranking_scores(metric.expression)["2"].reshape(8, 3, 4)
    wanted = torch.zeros(8, 3, 4).scatter_(2, scores.topk(2).indices, 1.0).bool()
    assert torch.equal(torch.from_numpy(plan.kept["2"].unpack()), wanted.reshape(8, 12))


def test_a_network_without_blocks_is_one_sentence() -> None:
    metric = Metric.load("magnitude")
    with pytest.raises(UserError, match="no layer can have the pattern 8:16"):
        TaskScorer(regression(), 16, 0).plan(metric.expression, metric.conventions, Pattern(8, 16))


def test_all_networks_of_a_search_have_the_pattern(result: SearchResult) -> None:
    with (result.folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"ladder", "pattern"}
    assert {(row["budget"], row["keep"]) for row in rows} == {("2:4", "0.5")}
    # 96 + 8 of 176 weights are in blocks.
    (kept,) = {float(row["params"]) for row in rows}
    assert kept == pytest.approx(1 - 52 / 176)
    with (result.folder / "front.csv").open() as file:
        assert "equal_pattern_test" in next(csv.reader(file))


def test_a_result_with_patterns_is_read_and_shown(result: SearchResult) -> None:
    stored = read(result.config, result.folder, builtin_primitives())
    assert stored is not None and stored.recommended.name == result.recommended.name
    write_report(result.folder)
    page = (result.folder / "report.html").read_text()
    assert "pattern 2:4" in page
    with pytest.raises(UserError, match="compared at 2:4 alone"):
        result.plot.errors()
    result.plot.layers(result.folder / "layers.svg", kind="2:4")


def test_the_command_takes_patterns(result: SearchResult, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["evolve", "--granularity", "weight", "--pattern", "2:5:1", "--out", f"{tmp_path}/x"]
    )
    assert done.exit_code == 2 and "pattern '2:5:1' is not valid" in done.stderr
    assert not (tmp_path / "x").exists()
