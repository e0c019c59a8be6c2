"""A search in the manner of scikit-learn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from gp_prune import Metric, MetricSearch, load_task
from gp_prune.errors import UserError
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.nsga2 import Generation
from gp_prune.search.run import evolve

QUICK: dict[str, Any] = {
    "final_seeds": 1, "final_steps": 1, "fine_tune_steps": 1, "calibration": 64, "front_size": 4,
    "ladder": (0.4,), "budgets": (0.4,),
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path, task_cache: Path) -> MetricSearch:
    return MetricSearch(
        ["lenet-digits"], population=4, generations=1, validate_on=[], settings=QUICK,
        folder=tmp_path / "run", source=TaskSource(cache_dir=str(task_cache)), verbose=False,
    )  # fmt: skip


def test_a_search_has_a_front_and_a_metric_that_prunes(
    small: MetricSearch, task_cache: Path, tmp_path: Path
) -> None:
    heard: list[Generation] = []
    small.set_params(callbacks=[heard.append])
    assert small.fit() is small
    check_is_fitted(small)
    assert [generation.number for generation in heard] == [0, 1]
    assert isinstance(small.front_, pd.DataFrame)
    assert small.result_ is not None
    assert list(small.front_["name"]) == [c.name for c in small.result_.contenders if c.candidate]
    assert list(small.front_["formula"]) == [str(m.expression) for m in small.metrics_.values()]
    tested = small.front_["lenet-digits test_error"]
    assert list(tested) == [
        m.objectives["lenet-digits"]["test_error"] for m in small.metrics_.values()
    ]
    assert not small.front_.isna().any(axis=None)
    assert small.best_ == small.metrics_[small.result_.recommended.name]
    task = load_task("lenet-digits", cache_dir=task_cache)
    data = [(task.train.inputs[:64], task.train.target[:64])]  # the best formula may need some
    pruned = small.best_.prune(
        task.model, task.example_inputs, keep_macs=0.5, data=data, loss=task.loss
    )
    assert pruned.after.macs < 0.6 * pruned.before.macs
    again = MetricSearch.load(tmp_path / "run")
    assert again.front_.equals(small.front_) and again.best_ == small.best_
    assert again.get_params()["population"] == 4 and again._config() == small._config()
    assert repr(small).startswith("<MetricSearch on lenet-digits: ") and len(repr(small)) < 300


@pytest.mark.slow
def test_a_search_that_is_stopped_keeps_its_front_and_goes_on(
    small: MetricSearch, tmp_path: Path
) -> None:
    def stop(generation: Generation) -> None:
        if generation.number == 0:
            small.stop()

    small.set_params(callbacks=[stop]).fit()
    assert small.result_ is None
    assert isinstance(small.best_, Metric)
    assert small._config().errors[0] in small.front_
    assert not any("test" in column for column in small.front_)
    loaded = MetricSearch.load(tmp_path / "run")
    assert loaded.front_.equals(small.front_) and loaded.best_ == small.best_
    small.set_params(callbacks=(), generations=2).fit(resume=True)
    assert small.result_ is not None and small.result_.config.generations == 2
    whole = evolve(small._config(), tmp_path / "whole", source=small.source)
    assert whole.recommended == small.result_.recommended
    assert whole.comparison.records == small.result_.comparison.records


def test_parameters_are_those_of_scikit_learn(small: MetricSearch) -> None:
    copy = clone(small)
    assert copy is not small
    assert {n: v for n, v in copy.get_params().items() if n != "settings"} == {
        n: v for n, v in small.get_params().items() if n != "settings"
    }
    assert copy.set_params(population=9).population == 9 and small.population == 4
    with pytest.raises(ValueError, match="Invalid parameter 'populaton'"):
        copy.set_params(populaton=9)


def test_without_a_result_it_says_to_fit(small: MetricSearch, tmp_path: Path) -> None:
    assert not hasattr(small, "front_")
    for name in ("front_", "best_", "result_"):
        with pytest.raises(NotFittedError, match=rf"has no {name} yet; call fit\(\) first"):
            getattr(small, name)
    with pytest.raises(NotFittedError):
        check_is_fitted(small)
    with pytest.raises(UserError, match="is not a run folder"):
        MetricSearch.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"seed": 1}}, "settings hold 'seed'; give it as random_state="),
        ({"settings": {"populaton": 1}}, "unknown setting 'populaton'; there are tasks, "),
        ({"tasks": "lenet-digits"}, "tasks is the text 'lenet-digits'; give a list of tasks"),
        ({"tasks": [3]}, "tasks holds a value of type int; give gp_prune.Task"),
        ({"random_state": -1}, "seed is -1; it must be a whole number"),
        ({"tasks": []}, "name at least one"),
    ],
)
def test_wrong_parameters_are_named_by_fit(
    small: MetricSearch, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        small.set_params(**change).fit()
    assert os.listdir(tmp_path) == []


def test_metrics_show_themselves_in_notebooks() -> None:
    metric = Metric.load("l1")
    assert (
        repr(metric) == f"<Metric 'l1' (channel, {metric.conventions.scope}): {metric.expression}>"
    )
    assert metric._repr_latex_() == rf"$\displaystyle {metric.latex()}$"
    hostile = Metric.parse("sum[i,k](abs(W))")
    object.__setattr__(hostile, "description", "<script>alert(1)</script>")
    page = hostile._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<math" in page and "sum[i,k](abs(W))" in page
    long = Metric.parse("add(" * 14 + "sum[i,k](W)" + ", sum[i,k](W))" * 14)
    assert len(repr(long)) < 300 and "..." in repr(long)
