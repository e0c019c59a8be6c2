"""Tasks that are not in the search choose the winner, or tell what it does on them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import content

from gp_prune.errors import UserError
from gp_prune.report.recommendation import recommendation
from gp_prune.report.search import left_out_lines, result_json, result_lines
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.config import SearchConfig
from gp_prune.search.held_out import restrict
from gp_prune.search.leave_one_out import leave_one_out
from gp_prune.search.recommendation import finalists, judge_of
from gp_prune.search.run import evolve

SMALL = SearchConfig(
    tasks=("lenet-digits",), validate_on=("cnn-digits",), population=4, generations=0,
    ladder=(0.4,), budgets=(0.4,), fine_tune_steps=1, final_steps=1, final_seeds=1,
    front_size=4, calibration=64, recommended_size=75,
)  # fmt: skip


def test_two_networks_of_other_families_choose_by_default() -> None:
    default = SearchConfig()
    families = {name.partition("-")[0] for name in default.tasks}
    assert len(default.validation_tasks) == 2
    assert not families & {name.partition("-")[0] for name in default.validation_tasks}
    assert replace(default, tasks=("mine.py:build",)).validation_tasks == ()
    assert replace(default, tasks=("mine.py:build", "lenet-digits")).validation_tasks
    assert replace(default, validate_on=()).validation_tasks == ()


@pytest.mark.parametrize("names", [("lenet-digits",), ("cnn-digits", "cnn-digits")])
def test_a_task_has_one_part(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="there twice or among the tasks of the search"):
        replace(SMALL, validate_on=names)


def test_the_winner_is_chosen_by_tasks_that_are_not_in_the_search(
    tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    result = evolve(SMALL, tmp_path / "run", source=source)
    front = [c for c in result.contenders if c.candidate is not None]
    there = {c.name: result.held_out.mean(c.name, "validation") for c in front}
    assert list(there.values()) == sorted(there.values())
    judge = judge_of(SMALL, result.comparison, result.held_out)
    last = finalists(SMALL, front, result.comparison, judge)
    assert len(last) == min(SMALL.finalists, len(front)) and result.recommended in last
    for part in (result.comparison, result.held_out):
        tuned = {record.contender for record in part.records if record.error == "tuned_error"}
        assert tuned >= {"random", *(c.name for c in last)}
        assert not tuned & {c.name for c in front if c not in last}
    assert {record.task for record in result.held_out.records} == {"cnn-digits"}
    assert {record.task for record in result.comparison.records} == {"lenet-digits"}
    assert set(result.metrics[result.recommended.name].objectives) == {"lenet-digits"}
    for row in result_json(result)["contenders"]:
        assert row["unseen"]["validation"] == result.held_out.mean(row["name"], "validation")
    monkeypatch.setenv("COLUMNS", "80")
    lines = result_lines(result, io.StringIO())
    assert max(map(len, lines)) <= 80 and any("unseen" in line for line in lines)
    assert "…" not in "\n".join(lines)
    assert "cnn-digits, which were not in the search" in recommendation(result)
    monkeypatch.setattr("gp_prune.search.run._prepare", None)
    again = evolve(None, tmp_path / "run", resume=True)
    assert again.held_out.records == result.held_out.records
    assert again.recommended == result.recommended


@pytest.mark.slow
def test_each_winner_is_tried_on_the_task_that_its_search_left_out(
    tmp_path: Path, task_cache: Path
) -> None:
    config = replace(SMALL, tasks=("lenet-digits", "cnn-digits"), validate_on=())
    source = TaskSource(cache_dir=str(task_cache))
    left = leave_one_out(config, tmp_path / "run", source=source)
    assert [one.task for one in left] == list(config.tasks)
    for one in left:
        (task,) = set(config.tasks) - {one.task}
        assert one.result.config.tasks == (task,)
        alone = replace(one.result.config, report_on=())
        plain = evolve(alone, tmp_path / f"plain-{task}", source=source)
        assert plain.recommended == one.result.recommended, "the task left out decided something"
        assert content(one.result.folder).keys() == content(plain.folder).keys()
        forms = [[c.expression for c in run.contenders] for run in (plain, one.result)]
        assert forms[0] == forms[1], "the task left out decided the form of a formula"
        errors = one.errors()
        assert next(iter(errors)) == one.result.recommended.name
        assert {"random", "l1"} <= set(errors)
        mean = restrict(one.result.held_out, [one.task]).mean("l1", "test", kind="macs")
        assert errors["l1"]["macs"] == mean
    text = "\n".join(left_out_lines(left, io.StringIO()))
    assert "cnn-digits" in text and "lenet-digits" in text
    assert SearchConfig.from_toml(tmp_path / "run" / CONFIG).leave_one_out
    again = leave_one_out(None, tmp_path / "run", source=source, resume=True)
    assert [one.errors() for one in again] == [one.errors() for one in left]
    with pytest.raises(UserError, match="one search for each task left out"):
        evolve(None, tmp_path / "run", source=source, resume=True)
    with pytest.raises(UserError, match="there must be two tasks or more"):
        leave_one_out(SMALL, tmp_path / "other", source=source)
