"""SearchProgress: nothing when quiet, plain lines in a pipe."""

from __future__ import annotations

import pytest

from gp_prune.report.search import progress_display
from gp_prune.search.run import SearchProgress


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(quiet=True) as show:
        show(SearchProgress("tasks", 0, 3))
    assert capsys.readouterr() == ("", "")


def test_plain_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display(quiet=False) as show:
        for done in range(101):
            show(SearchProgress("compare", done, 100))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 5, "a line for every quarter"
    assert "comparison: 100/100" in lines[-1]
