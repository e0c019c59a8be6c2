"""Callbacks hear the start, the steps and the end of a run, whatever ends it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gp_prune import Callback, StopRun
from gp_prune.errors import UserError
from gp_prune.runs.callbacks import Callbacks, Evaluated, RunEnd, RunStart, RunStep

START = RunStart("search", Path("runs/001"), {"seed": 0})


class Recorder(Callback):
    """Writes down what it hears, after its name."""

    def __init__(self, name: str = "", heard: list[tuple[str, Any]] | None = None) -> None:
        self.name = name
        self.heard: list[tuple[str, Any]] = [] if heard is None else heard

    def on_start(self, start: RunStart) -> None:
        self.heard.append((self.name, start))

    def on_evaluation(self, done: Evaluated) -> None:
        self.heard.append((self.name, done))

    def on_step(self, step: RunStep) -> None:
        self.heard.append((self.name, step))

    def on_end(self, end: RunEnd) -> None:
        self.heard.append((self.name, end))


def test_all_hear_a_run_from_its_start_to_its_end() -> None:
    recorder, states = Recorder(), list[object]()
    step, end = RunStep(0, {"error": 0.5}, state="state"), RunEnd("done", {"error": 0.25})
    with Callbacks([recorder, states.append], START) as told:
        told.evaluated(0, 1, 2)
        told.step(step)
        told.done(end)
    assert [heard for _, heard in recorder.heard] == [START, Evaluated(0, 1, 2), step, end]
    assert states == ["state"]
    assert START.name == "001"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "stopped"), (StopRun(), "stopped"), (ValueError(), "failed")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_end_is_told_whatever_ends_a_run(error: BaseException, reason: str) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)), Callbacks([recorder], START):
        raise error
    assert recorder.heard[-1] == ("", RunEnd(reason))


def test_one_that_raises_ends_the_run_and_the_others_are_told() -> None:
    class Broken(Recorder):
        def on_start(self, start: RunStart) -> None:
            raise OSError("no place")

        def on_end(self, end: RunEnd) -> None:
            raise AssertionError("it has not started")

    heard: list[tuple[str, Any]] = []
    callbacks = [Recorder("first", heard), Broken(), Recorder("last", heard)]
    with pytest.raises(OSError, match="no place"), Callbacks(callbacks, START):
        raise AssertionError
    assert heard == [("first", START), ("first", RunEnd("failed"))]


def test_figures_are_finite_numbers() -> None:
    figures = {"error": 1, "nothing": math.nan, "much": math.inf}
    assert RunStep(0, figures).figures == RunEnd("done", figures).figures == {"error": 1.0}


@pytest.mark.parametrize("wrong", [3, Recorder])
def test_what_is_no_callback_is_refused(wrong: Any) -> None:
    with pytest.raises(UserError, match=r"is no callback; give an object"):
        Callbacks([wrong], START)
