"""SearchProgress: nothing when quiet, plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.report.search_progress import Pace, front_lines, progress_display
from gp_prune.search.archive import Candidate
from gp_prune.search.nsga2 import Generation
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


def test_the_front_is_shown_before_it_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    text = "sum[i,k](abs(W))"
    candidate = Candidate(parse(text, builtin_primitives()), (0.1, 4.0), "behaviour")
    last = Generation(1, 1, 9, 0, 9, 9, 9, ("error", "size"), (candidate,), 0.5)
    for quiet in (False, True):
        with progress_display(quiet=quiet) as show:
            show(SearchProgress("search", 1, 1, last))
            assert "Pareto front so far" not in capsys.readouterr().err
            for done in range(3):
                show(SearchProgress("compare", done, 3))
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("Pareto front so far") == err.count(text) == (0 if quiet else 1)


def generation(number: int, evaluations: int, **changes: object) -> Generation:
    """A generation of five, with two formulas on its front."""
    primitives = builtin_primitives()
    front = tuple(
        Candidate(
            parse(text, primitives), (error, 0.4, 1.0), text,
            {"lenet-digits": {"error": error}, "cnn-digits": {"error": 1 - error}},
        )
        for text, error in (("WG2", 0.25), ("beta", 0.5))
    )  # fmt: skip
    made = Generation(
        number=number, of=5, assessed=9, rejected=1, behaviours=8, complete=8,
        evaluations=evaluations, objectives=("error", "params", "size"), front=front,
        hypervolume=1.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def clock(times: list[float]) -> Iterator[float]:
    yield from times


def test_pace_and_time_left_follow_from_what_was_computed() -> None:
    times = clock([100.0, 110.0, 120.0, 220.0])
    pace = Pace(lambda: next(times))
    pace.start()
    assert pace.update(generation(0, 50)) == "5.0 evaluations/s, about 50 s left"
    assert pace.update(generation(1, 80)) == "4.0 evaluations/s, about 40 s left"
    assert pace.update(generation(5, 240)) == "2.0 evaluations/s"


def test_generations_from_a_journal_have_no_pace() -> None:
    times = clock([0.0, 1.0, 61.0])
    pace = Pace(lambda: next(times))
    pace.start()
    assert pace.update(generation(2, 90, known=True)) == ""
    assert pace.update(generation(3, 120)) == "0.5 evaluations/s, about 2 min left"


def test_the_live_view_has_the_front_and_the_least_error_per_task() -> None:
    assert front_lines(generation(0, 1)) == [
        "least error: lenet-digits 0.250, cnn-digits 0.500",
        "error 0.250  params 0.400  WG2",
        "error 0.500  params 0.400  beta",
    ]
    many = generation(0, 1).front * 4
    assert front_lines(generation(0, 1, front=many))[-1] == "and 2 more on the front"
