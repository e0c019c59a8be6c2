"""A search for the share of each layer, where another metric chooses the channels."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import all_files

from gp_prune import evolve
from gp_prune.errors import UserError
from gp_prune.language.expression import canonical
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, ChannelPlan
from gp_prune.pruning.select.allocation import Allocation, select_allocated
from gp_prune.report.recommendation import recommendation
from gp_prune.report.search import result_lines
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.assessor import plan_cuts
from gp_prune.search.config import SearchConfig
from gp_prune.search.results import SearchResult
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.start_formulas import SHARE_FORMULAS, load_select, start_metrics, store_metric

CONFIG = SearchConfig(
    tasks=("lenet-digits",), validate_on=(), granularity="layer", population=6, generations=1,
    calibration=64, seed=3, final_steps=1, final_seeds=1, front_size=4, select="square_energy",
)  # fmt: skip
PRIMITIVES = builtin_primitives()


@pytest.fixture(scope="module")
def source(task_cache: Path) -> TaskSource:
    return TaskSource(cache_dir=str(task_cache))


@pytest.fixture(scope="module")
def result(source: TaskSource, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return evolve(CONFIG, tmp_path_factory.mktemp("shares") / "run", source=source)


def test_the_metrics_are_pairs_in_one_file_each(result: SearchResult) -> None:
    select = load_select("square_energy", PRIMITIVES)
    for name, metric in result.metrics.items():
        assert name.startswith("layer_") and metric.shares is not None
        assert metric.expression == select.expression
        assert metric.shares.expression.size <= 9
        (contender,) = (c for c in result.contenders if c.name == name)
        assert contender.expression == metric.shares.expression
        assert Metric.load(result.folder / "metrics" / f"{name}.json") == metric
        assert set(metric.objectives) == {"lenet-digits"}
    assert result.recommended.name in result.metrics


def test_baselines_are_shares_with_the_same_choice_of_channels(
    result: SearchResult, source: TaskSource
) -> None:
    baselines = {c.name: c for c in result.contenders if c.candidate is None}
    assert list(baselines) == ["uniform", "l1", "gecco_2"]
    select = load_select(CONFIG.select, PRIMITIVES)
    scorer = TaskScorer(source.load("lenet-digits"), 64, CONFIG.seed, select=select)
    plain = TaskScorer(source.load("lenet-digits"), 64, CONFIG.seed)
    budget = Budget("macs", 0.5)
    scores = plain.ranking_scores(select.expression)
    for name, contender in baselines.items():
        cut = scorer.plan(contender.expression, contender.conventions, budget).plan
        allocation = Allocation("uniform")
        if name != "uniform":
            metric = Metric.load(name)
            given = plain.ranking_scores(metric.expression)
            allocation = Allocation(name, given, metric.conventions)
        expected = select_allocated(
            plain.architecture, scores, select.conventions, budget, allocation
        )
        assert isinstance(cut, ChannelPlan) and cut.removed == expected.removed


def test_the_first_population_holds_the_named_shares(result: SearchResult) -> None:
    lines = (result.folder / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    tried = {event["text"] for event in events if event.get("event") == "candidate"}
    metrics = start_metrics("layer", PRIMITIVES, CONFIG.select)
    named = {str(canonical(metric.expression)) for metric in metrics}
    assert len(named) == len(SHARE_FORMULAS) + 2 and named <= tried
    scores = load_select(CONFIG.select, PRIMITIVES).expression
    assert f"std[o]({canonical(scores)})" in tried


def test_what_is_printed_names_shares_and_channels(result: SearchResult) -> None:
    text = recommendation(result)
    metric = result.metrics[result.recommended.name]
    assert metric.shares is not None
    assert f"LaTeX: {metric.shares.latex()}" in text
    assert f"Channels by: {metric.expression}" in text
    assert "beat uniform shares" in text and "random" not in text
    lines = "\n".join(result_lines(result, io.StringIO()))
    assert "channels by square_energy" in lines and "NAME_global" not in lines


@pytest.mark.slow
def test_neither_workers_nor_a_resumption_change_the_run(
    result: SearchResult, source: TaskSource, tmp_path: Path
) -> None:
    evolve(CONFIG, tmp_path / "run", source=source, workers=2)
    assert all_files(tmp_path / "run") == all_files(result.folder)
    again = evolve(folder=tmp_path / "run", source=source, resume=True)
    assert (again.metrics, again.recommended.name) == (result.metrics, result.recommended.name)
    (tmp_path / "run" / "result.json").unlink()
    evolve(folder=tmp_path / "run", source=source, resume=True)
    assert all_files(tmp_path / "run") == all_files(result.folder)


def test_constants_cut_alike_and_are_one_behaviour(source: TaskSource) -> None:
    select = load_select("flap", PRIMITIVES)
    scorer = TaskScorer(source.load("lenet-digits"), 64, 0, select=select)
    keys = []
    for text in ("1", "0.25", "channels / channels"):
        expression = Metric.parse(text).expression
        cuts = plan_cuts(expression, Conventions(), [Budget("macs", 0.4)], [scorer])
        assert not isinstance(cuts, str)
        keys.append([cut.key for cut in cuts])
        assert cuts[0].formula == str(expression)
    assert keys[0] == keys[1] == keys[2]
    assert "no layer has a value above 0" in plan_cuts(
        Metric.parse("0 - depth").expression, Conventions(), [Budget("macs", 0.4)], [scorer]
    )


def test_the_settings_hold_the_metric_and_not_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    Metric.parse("sum[i,k](abs(W))", name="mine").with_shares("depth").save(path)
    stored = store_metric(str(path), PRIMITIVES)
    path.unlink()
    assert load_select(stored, PRIMITIVES).name == "mine"
    assert load_select(stored, PRIMITIVES).shares is None
    assert store_metric("flap", PRIMITIVES) == "flap"
    assert store_metric("square_energy", PRIMITIVES) == "square_energy"
    text = store_metric("abs(gamma)", PRIMITIVES)
    assert replace(CONFIG, select=text).with_texts(PRIMITIVES).select == text


def test_defaults_are_small() -> None:
    config = SearchConfig(granularity="layer")
    assert (config.size_limit, config.select) == (9, "flap")
    assert (SearchConfig().size_limit, SearchConfig().select) == (75, "")
    assert SearchConfig(granularity="layer", size_limit=20).size_limit == 20


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"granularity": "channel"}, r"select \(--select\) is 'square_energy', which chooses"),
        ({"scope": "layer"}, "scope 'layer' and normaliser 'mean' say how scores are ranked"),
        ({"normaliser": "max"}, "normaliser 'max' say how scores are ranked"),
        ({"pattern": ("2:4",)}, "which is one of single weights"),
        ({"size_limit": 2}, "size_limit is 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"select": "magnitude"}, "is to choose the channels.*granularity is 'weight'"),
        ({"select": "depth"}, "is to choose the channels.*granularity is 'layer'"),
        ({"start_formulas": ("gamma",)}, r"has the axes \{o\}, and this search is for"),
    ],
)
def test_formulas_that_do_not_fit_are_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        evolve(replace(CONFIG, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
