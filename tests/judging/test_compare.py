"""Comparisons: settings, what is measured, and runs that were killed."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gp_prune
from gp_prune.errors import UserError
from gp_prune.judging.compare import CompareProgress, MetricComparison, compare
from gp_prune.judging.settings import CompareSettings, enter, metric_text
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric
from gp_prune.report.comparison import latex_tables, result_lines
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.spent import read_spent
from gp_prune.search.start_formulas import TWO_FACTOR_NAMES

BETWEEN = "between=var[c](muP) * sum[j](V^2)"
SMALL: dict[str, Any] = {"keep": (0.7, 0.4), "budget_kind": ("macs",), "calibration": 64}


@pytest.fixture(scope="module")
def source(task_cache: Path) -> TaskSource:
    return TaskSource(cache_dir=str(task_cache))


@pytest.fixture(scope="module")
def result(source: TaskSource, tmp_path_factory: pytest.TempPathFactory) -> MetricComparison:
    folder = tmp_path_factory.mktemp("compare") / "run"
    allocation = ("global", "uniform", "taylor_weights", "1 / channels")
    return compare(
        ["fpgm", BETWEEN, "bn_scale"], ["lenet-digits"], folder, source=source,
        allocation=allocation, **SMALL,
    )  # fmt: skip


def test_every_metric_is_measured_in_every_cell(result: MetricComparison) -> None:
    names = ["fpgm", "between", "bn_scale", "random", "l1"]
    assert [metric.name for metric in result.metrics] == names
    by_formula = f"by {Metric.load('1 / channels').name}"
    assert result.allocations == ["global", "uniform", "by taylor_weights", by_formula]
    assert [metric.name for metric in result.shares] == [
        "taylor_weights",
        by_formula.removeprefix("by "),
    ]
    lines = result_lines(result, io.StringIO())
    assert f"{by_formula.removeprefix('by ')} = div(1, channels)" in lines
    assert not any(line.startswith("taylor_weights =") for line in lines)  # it is bundled
    for name in names:
        entries = [e for e in result.measurements if e.metric == name]
        assert len({entry.cell for entry in entries}) == 4 * 2
        assert len(entries) == (24 if name == "random" else 8)
    for entry in result.measurements:
        if not entry.failure:
            assert entry.macs == pytest.approx(entry.keep, abs=0.05)
            assert entry.raw_error is not None and 0 <= entry.raw_error <= 1


def test_a_metric_that_ranks_nothing_has_the_worst_error(result: MetricComparison) -> None:
    entries = [e for e in result.measurements if e.metric == "bn_scale"]
    assert {entry.error for entry in entries} == {2.0}
    assert "degenerate (constant)" in entries[0].failure
    (standing,) = (s for s in result.standings() if s.name == "bn_scale")
    assert standing.failures == 8
    assert result.standings()[-1].name == "bn_scale"


def test_metrics_under_the_shares_of_one_keep_the_same(result: MetricComparison) -> None:
    cells: dict[Any, set[float]] = {}
    for entry in result.measurements:
        if entry.allocation.startswith("by ") and not entry.failure:
            cells.setdefault(entry.cell, set()).add(entry.params)
    assert [len(shares) for shares in cells.values()] == [1] * 4


def test_a_pair_keeps_the_shares_that_it_is_saved_with(
    result: MetricComparison, source: TaskSource, tmp_path: Path
) -> None:
    pair = replace(Metric.load("fpgm").with_shares("taylor_weights"), name="pair")
    found = compare(
        [pair, "fpgm"], ["lenet-digits"], tmp_path / "run", source=source,
        allocation=("own", "uniform"), **SMALL,
    )  # fmt: skip
    for own, other in (("own", "by taylor_weights"), ("uniform", "uniform")):
        errors = [
            [e.error for e in part if (e.metric, e.allocation) == key]
            for part, key in (
                (found.measurements, ("pair", own)), (result.measurements, ("fpgm", other)),
            )
        ]  # fmt: skip
        assert errors[0] == errors[1]


def test_the_best_is_recommended_and_random_is_not(result: MetricComparison) -> None:
    best = result.recommended
    assert best.rank == min(s.rank for s in result.standings() if s.name != "random")
    assert best.name in repr(result)


def test_the_folder_has_the_result(result: MetricComparison) -> None:
    stored = json.loads((result.folder / "result.json").read_text())
    assert stored == json.loads(json.dumps(result.to_json()))
    assert (result.folder / "records.csv").read_text() == result.to_csv()
    assert stored["split"] == "validation"
    assert len(stored["records"]) == len(result.measurements)
    spent = read_spent(result.folder)
    assert spent is not None and spent.sessions == 1 and spent.processor_seconds > 0


def test_the_test_split_is_read_when_asked_for_alone(result: MetricComparison) -> None:
    lines = (result.folder / "journal.jsonl").read_text().splitlines()
    outcomes = [json.loads(line) for line in lines if '"evaluation", "key"' in line]
    assert outcomes and all(outcome["test"] is None for outcome in outcomes)


def test_a_run_that_was_killed_gives_the_same_bytes(
    result: MetricComparison, source: TaskSource, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "config.toml").write_bytes((result.folder / "config.toml").read_bytes())
    lines = (result.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:10]) + lines[10][:20])
    seen: list[CompareProgress] = []
    again = compare(folder=folder, source=source, resume=True, progress=seen.append)
    assert [now.stage for now in seen][-1] == "done"
    assert again.measurements == result.measurements
    for name in ("result.json", "records.csv", "config.toml"):
        assert (folder / name).read_bytes() == (result.folder / name).read_bytes()
    assert sorted((folder / "journal.jsonl").read_bytes().splitlines()) == sorted(
        line.rstrip(b"\n") for line in lines
    )


def test_the_result_of_a_run_that_has_ended_is_read(
    result: MetricComparison, tmp_path: Path
) -> None:
    folder = tmp_path / "ended"
    shutil.copytree(result.folder, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    seen: list[CompareProgress] = []
    nowhere = TaskSource(str(tmp_path / "no networks"))
    again = compare(folder=folder, source=nowhere, resume=True, progress=seen.append)
    assert [now.stage for now in seen] == ["done"]
    assert again.to_json() == result.to_json() and again.to_csv() == result.to_csv()
    assert not (tmp_path / "no networks").exists()
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert after == before


def test_a_result_is_not_read_under_other_settings(
    result: MetricComparison, source: TaskSource, tmp_path: Path
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(result.folder, folder)
    config = (folder / "config.toml").read_text()
    assert "calibration = 64" in config
    (folder / "config.toml").write_text(config.replace("calibration = 64", "calibration = 32"))
    before = (folder / "result.json").read_bytes()
    with pytest.raises(UserError, match="was begun with calibration = 64, not 32"):
        compare(folder=folder, source=source, resume=True)
    assert (folder / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("error", "0.5", "field 'error' of a record is '0.5'; it must be a number"),
        ("error", 1e9, "has a number out of range"),
        ("metric", "other", "its records are not of its metrics"),
        ("more", 1, "a record has an unknown field 'more'"),
    ],
)
def test_a_damaged_result_is_named(
    result: MetricComparison, tmp_path: Path, field: str, value: object, says: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(result.folder, folder)
    stored = json.loads((folder / "result.json").read_text())
    stored["records"][3][field] = value
    (folder / "result.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        compare(folder=folder, resume=True)
    assert "remove it, and --resume computes it from the journal" in str(caught.value)


@pytest.mark.slow
def test_workers_change_nothing(source: TaskSource, tmp_path: Path) -> None:
    options: dict[str, Any] = {"fine_tune": 3, "seeds": 2, "split": "test", **SMALL}
    for workers in (1, 2):
        compare(["fpgm"], ["lenet-digits"], tmp_path / str(workers), source=source,
                workers=workers, **options)  # fmt: skip
    results = [(tmp_path / n / "result.json").read_bytes() for n in ("1", "2")]
    assert results[0] == results[1]
    records = json.loads(results[0])["records"]
    assert {(r["metric"], r["repeat"]) for r in records} == {
        *(("random", n) for n in range(3)), *((m, n) for m in ("fpgm", "l1") for n in range(2)),
    }  # fmt: skip


def test_single_weights_are_compared_with_magnitude(source: TaskSource, tmp_path: Path) -> None:
    found = compare(
        ["wanda_weight"], ["lenet-digits"], tmp_path / "run", source=source, calibration=64,
        allocation=("global",),
    )  # fmt: skip
    assert [m.name for m in found.metrics] == ["wanda_weight", "random_weight", "magnitude"]
    assert {(e.kind, e.keep) for e in found.measurements} == {
        ("params", share) for share in (0.5, 0.2, 0.1, 0.05)
    }
    assert found.settings.baseline == "magnitude"


def test_impossible_budgets_are_left_out(source: TaskSource, tmp_path: Path) -> None:
    found = compare(
        ["l2"], ["lenet-digits"], tmp_path / "run", source=source, calibration=8,
        keep=(0.7, 0.005), budget_kind=("macs",), allocation=("uniform",),
    )  # fmt: skip
    assert {entry.keep for entry in found.measurements} == {0.7}
    (note,) = found.notes
    assert "lenet-digits, 0.5 % of the MACs, uniform: left out, as no metric meets it" in note


def test_a_task_in_memory_is_compared_on(source: TaskSource, tmp_path: Path) -> None:
    task = source.load("lenet-digits")
    task.name = "mine"
    own = Metric.parse("sum[i,k](W^2 * W^2)", name="fourth")
    found = compare([own], [task], tmp_path / "run", keep=(0.5,), calibration=8)
    assert "fourth" in [metric.name for metric in found.metrics]
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match="unknown task 'mine'"):
        compare(folder=tmp_path / "run", resume=True)
    again = compare(folder=tmp_path / "run", resume=True, tasks=[task])
    assert again.to_csv() == found.to_csv()


@pytest.mark.parametrize(
    ("metrics", "options", "words"),
    [
        ([], {}, "no metric is named"),
        (["l1"], {"tasks": ()}, "no task is named"),
        (["l1", "wanda_weight"], {}, "'wanda_weight' ranks weights where channels are compared"),
        (["x=W", "l1"], {}, "ranks channels where weights"),
        (["x=b", "x=gamma"], {}, "two metrics are called 'x'"),
        (["l1"], {"baseline": "l2"}, "the baseline (--baseline) is 'l2', which is not compared"),
        (["l1"], {"allocation": ("nowhere",)}, "nowhere"),
        (["l1"], {"allocation": ("magnitude",)}, "allocation 'magnitude' ranks single weights"),
        (["magnitude"], {"allocation": ("l1",)}, "'l1' divides channels"),
        (["depth"], {}, "gives the share of each layer and ranks nothing"),
        (["l1"], {"split": "train"}, "split is 'train'; it must be one of validation, test"),
        (["l1"], {"keep": (0.5, 0.5)}, "keep is 0.5, 0.5; name each once"),
        (["l1"], {"data": "digits"}, "data: for networks that bring no data"),
        (["sum[i](W"], {}, "expected ')'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, metrics: list[str], options: dict[str, Any], words: str
) -> None:
    given = {"tasks": ("lenet-digits",), **options}
    with pytest.raises(UserError) as caught:
        compare(metrics, given.pop("tasks"), tmp_path / "run", **given)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_all_bundled_metrics_of_a_granularity_take_part() -> None:
    for granularity in ("channel", "weight"):
        settings = CompareSettings(bundled=True, granularity=granularity, tasks=("lenet-digits",))
        names = [m.name for m in enter(settings, builtin_primitives()).metrics]
        bundled = [Metric.load(name) for name in gp_prune.metric.metric.bundled_metrics()]
        assert sorted(names) == sorted(m.name for m in bundled if m.granularity == granularity)


def test_the_two_factor_formulas_stand_for_six_metrics() -> None:
    settings = CompareSettings(metrics=("two-factor", "l2"), tasks=("lenet-digits",))
    names = [m.name for m in enter(settings, builtin_primitives()).metrics]
    assert names[:6] == list(TWO_FACTOR_NAMES)
    assert names[6:] == ["l2", "random", "l1"]


def test_metrics_travel_as_texts() -> None:
    own = Metric.parse(
        "sum[i,k](W^2 * W^2)", name="fourth", conventions=gp_prune.Conventions("layer")
    )
    settings = CompareSettings(
        metrics=(metric_text("l1"), metric_text(Metric.load("l2")), metric_text(own)),
        tasks=("lenet-digits",),
    )
    assert settings.metrics[:2] == ("l1", "l2")
    entered = enter(settings, builtin_primitives())
    assert entered.metrics[2].digest == own.digest


def test_patterns_have_a_table_of_their_own(source: TaskSource, tmp_path: Path) -> None:
    given: dict[str, Any] = {"source": source, "calibration": 64}
    alone = compare(["wanda_weight"], ["lenet-digits"], tmp_path / "a", pattern=("2:4",), **given)
    assert alone.allocations == ["pattern"] and alone.settings.keep == ()
    assert {e.cell for e in alone.measurements} == {("pattern", "lenet-digits", "2:4", 0.5)}
    both = compare(
        ["wanda_weight"], ["lenet-digits"], tmp_path / "b", pattern=("2:4",), keep=(0.5,), **given
    )
    assert both.allocations == ["global", "uniform", "pattern"]
    assert both.part("pattern") == alone.part("pattern")
    # The same cut as `prune` makes.
    task = source.load("lenet-digits")
    batches = list(task.batches(task.train.select(slice(64)), 256))
    pruned = gp_prune.prune(
        task.model, "wanda_weight", task.example_inputs, data=batches, pattern="2:4",
        ignore=task.whole,
    )  # fmt: skip
    (entry,) = (e for e in alone.measurements if e.metric == "wanda_weight")
    task.recalibrate(pruned.model)
    assert entry.raw_error == pytest.approx(task.error(pruned.model, task.validation))
    text = "\n".join(result_lines(both, io.StringIO()))
    assert "Patterns: so many of each block" in text and "pattern 2:4" in text
    assert "pattern 2:4" in latex_tables(both)
    with pytest.raises(UserError, match="the metrics rank channels; compare metrics of weights"):
        compare(["l1"], ["lenet-digits"], tmp_path / "c", pattern=("2:4",), **given)
