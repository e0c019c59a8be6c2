"""How far the present step is: its pace on a terminal, few lines in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from gp_prune.report.progress import SILENT_STEP_S, InsidePace, StageBars, show_progress
from gp_prune.runs.inside import Inside


class Clock:
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pace_and_time_left_of_a_step() -> None:
    clock = Clock()
    pace = InsidePace(clock)
    texts = []
    for clock.now, done in ((0, 0), (100, 0), (110, 20), (120, 40), (300, 100)):
        pace.update(Inside("evaluations", done, 100))
        texts.append(pace.words(Inside("evaluations", done, 100)))
    assert texts == [
        "0 of 100 evaluations",
        "0 of 100 evaluations",
        "20 of 100 evaluations, 2.0/s, about 40 s left",
        "40 of 100 evaluations, 2.0/s, about 30 s left",
        "100 of 100 evaluations, 0.3/s",
    ]
    # Another step begins anew.
    pace.update(Inside("networks retrained", 1.25, 4))
    assert pace.words(Inside("networks retrained", 1.25, 4)) == "1.2 of 4 networks retrained"


def test_a_log_has_a_line_of_a_step_where_it_was_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()

    def to_bar(now: int) -> tuple[str, int, int, str]:
        return "search", 0, 1, ""

    def to_line(now: int) -> str:
        return ""

    def to_inside(now: int) -> tuple[str, Inside]:
        return "generation 0/1", Inside("evaluations", now, 1000)

    with show_progress(
        {"search": "generations"}, to_bar, to_line, quiet=False, to_inside=to_inside, clock=clock
    ) as show:
        for done in range(1000):
            clock.now = done / 10
            show(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100 // SILENT_STEP_S - 1
    assert lines[0].split(maxsplit=2)[2] == (
        "generation 0/1: 200 of 1000 evaluations, 10.0/s, about 1 min left"
    )


def test_a_terminal_shows_the_step_and_then_its_result() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    with StageBars(console, {"search": "generations"}) as bars:
        bars.show_inside("search", 0, 4, Inside("evaluations", 7, 20))
        bars.refresh()
        during = stream.getvalue()
        bars.show("search", 1, 4, "front 3")
    during, after = (
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        for text in (during, stream.getvalue()[len(during) :])
    )
    assert "0/4" in during and "7 of 20 evaluations" in during
    assert "1/4" in after and "front 3" in after and "evaluations" not in after.splitlines()[-2]
