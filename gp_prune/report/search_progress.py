"""Show the progress of a search: its stages, pace, time left and the front so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gp_prune.apply.own_task import short_names
from gp_prune.report.progress import BarState, quarters, show_progress, time_words
from gp_prune.report.search import interim_lines
from gp_prune.report.text import echo
from gp_prune.runs.inside import Inside
from gp_prune.search.nsga2 import Generation
from gp_prune.search.objectives import ERRORS, SIZE
from gp_prune.search.run import SearchProgress

_STAGES = {
    "tasks": "networks", "search": "generations", "reduce": "formulas", "compare": "comparison",
    "validate": "unseen",
}  # fmt: skip
_AFTER_SEARCH = ("compare", "validate")

_SHOWN = 6
"""Formulas of the front that are listed."""

_WIDEST = 70
"""Characters of a formula that are shown."""


class Pace:
    """Measure the evaluations per second and estimate the time that is left.

    Generations that a resumed run knows from its journal are passed over: they take no time.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, int, int] | None = None

    def start(self) -> None:
        """Begin to measure: the tasks are prepared."""
        self._start = (self._clock(), 0, -1)

    def update(self, generation: Generation) -> str:
        """Take in a generation; return pace and time left as text, empty where nothing is known."""
        now = self._clock()
        if generation.known or self._start is None:
            self._start = (now, generation.evaluations, generation.number)
            return ""
        began, evaluations, number = self._start
        seconds = now - began
        if seconds <= 0:
            return ""
        pace = f"{(generation.evaluations - evaluations) / seconds:.1f} evaluations/s"
        left = generation.of - generation.number
        if generation.stopped or not left:
            return pace
        return f"{pace}, about {time_words(seconds / (generation.number - number) * left)} left"


def front_lines(generation: Generation) -> list[str]:
    """Return the least error per task, and the first formulas of the front, as lines."""
    error = next(name for name in generation.objectives if name in ERRORS)
    tasks = list(generation.front[0].by_task)
    least = {
        task: min(c.by_task[task][error] for c in generation.front if task in c.by_task)
        for task in tasks
    }
    shorts = short_names(tasks)
    lines = ["least error: " + ", ".join(f"{shorts[task]} {least[task]:.3f}" for task in tasks)]
    for candidate in generation.front[:_SHOWN]:
        values = zip(generation.objectives, candidate.objectives, strict=True)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in values if name != SIZE)
        text = str(candidate.expression)
        cut = text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
        lines.append(f"{figures}  {cut}")
    left = len(generation.front) - _SHOWN
    return lines + ([f"and {left} more on the front"] if left > 0 else [])


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Callable[[SearchProgress], None]]:
    """Show the stages of a search, see :func:`gp_prune.report.progress.show_progress`.

    A terminal also shows the front so far and the least error per task. A log has a line for each
    generation, and for each quarter of another stage. Remarks on the tasks have a line each on
    stderr, once, also when quiet. The front that a search has found is shown before it is
    compared, which may take longer than the search: from then on an interrupt costs the comparison
    alone.
    """
    remarked: set[str] = set()
    found: Generation | None = None
    quarter = quarters(_STAGES)
    pace = Pace()

    def to_line(now: SearchProgress) -> str:
        if now.generation is not None:
            speed = pace.update(now.generation)
            more = f"; {speed}" if speed else ""
            return f"generation {now.done}/{now.of}: {_note(now.generation)}{more}"
        return quarter(now.stage, now.done, now.of)

    def to_bar(now: SearchProgress) -> BarState:
        note = ""
        if now.generation is not None:
            speed = pace.update(now.generation)
            lines = [_note(now.generation), *([speed] if speed else [])]
            note = "\n".join([*lines, *front_lines(now.generation)])
        return now.stage, now.done, now.of, note

    def to_inside(now: SearchProgress) -> tuple[str, Inside] | None:
        if now.inside is None:
            return None
        return f"{_STAGES[now.stage]} {now.done}/{now.of}", now.inside

    with show_progress(_STAGES, to_bar, to_line, quiet=quiet, to_inside=to_inside) as show:

        def show_all(now: SearchProgress) -> None:
            nonlocal found
            if now.stage == "tasks" and now.done == now.of:
                pace.start()
            show(now)
            found = now.generation or found
            if found is not None and now.stage in _AFTER_SEARCH:
                for line in interim_lines(found, sys.stderr) if not quiet else ():
                    echo(line, err=True)
                found = None
            for remark in now.remarks:
                if remark not in remarked:
                    echo(f"gp-prune: remark: {remark}", err=True)
            remarked.update(now.remarks)

        yield show_all


def _note(generation: Generation) -> str:
    best = generation.front[0]
    complete = generation.complete
    in_full = "" if complete == generation.behaviours else f" ({complete} in full)"
    return (
        f"{generation.assessed} formulas ({generation.rejected} more refused), "
        f"{generation.behaviours} behaviours{in_full}, "
        f"front {len(generation.front)}, "
        f"least error {best.objectives[0]:.3f} by {best.expression}"
        f"{'; ends here: ' + generation.stopped if generation.stopped else ''}"
    )
