"""The times of a run: added up over sessions, and checked when read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.runs.executors import make_runner
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.spent import SPENT, read_spent, record_spent


def test_sessions_add_up_and_an_interrupted_one_counts(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("")
    runner = make_runner(TaskSource(), 1)
    assert read_spent(tmp_path) is None
    with record_spent(tmp_path, runner):
        sum(range(10**6))
    with pytest.raises(KeyboardInterrupt), record_spent(tmp_path, runner):
        raise KeyboardInterrupt
    spent = read_spent(tmp_path)
    assert spent is not None and spent.sessions == 2
    sessions = json.loads((tmp_path / SPENT).read_text())["sessions"]
    assert spent.seconds == sum(session["seconds"] for session in sessions) > 0
    assert spent.processor_seconds == sum(s["processor_seconds"] for s in sessions) > 0


def test_a_run_that_did_not_begin_leaves_no_file(tmp_path: Path) -> None:
    with record_spent(tmp_path, make_runner(TaskSource(), 1)):
        pass
    assert not (tmp_path / SPENT).exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"kind": "x", "schema": 1, "sessions": []}',
     '{"kind": "gp-prune times of a run", "schema": 1, "sessions": [{"seconds": "1"}]}'],
)  # fmt: skip
def test_a_damaged_file_is_named_before_the_run(tmp_path: Path, text: str) -> None:
    (tmp_path / SPENT).write_text(text)
    with (
        pytest.raises(UserError, match=r"spent\.json.*cannot be read.*remove the file"),
        record_spent(tmp_path, make_runner(TaskSource(), 1)),
    ):
        raise AssertionError("the body ran")
