"""Show the progress of a run as bars on a terminal, or as plain lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gp_prune.report.console import make_console
from gp_prune.runs.inside import Inside

P = TypeVar("P")
BarState = tuple[str, int, int, str]
"""Stage, steps done, steps in total, and a note."""

SILENT_S = 5.0
"""Seconds until the first plain line of a pass over batches, and between two."""

SILENT_STEP_S = 20.0
"""Seconds without a plain line after which one says how far the present step is."""

_WINDOW_S = 30.0
"""Seconds whose pace tells the time that is left: the first formulas are the small ones."""


def time_words(seconds: float) -> str:
    """Return a time in words, rounded: ``40 s``, ``12 min``, ``1.5 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class InsidePace:
    """Say how far a step is, how quick it is, and how long it will take.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque()
        self._what = ""

    def update(self, inside: Inside) -> None:
        """Take in the state of a step; one that counts something else, or less, is another step."""
        now = self._clock()
        if self._seen and (inside.what != self._what or inside.done < self._seen[-1][1]):
            self._seen.clear()
        self._what = inside.what
        if len(self._seen) == 1 and inside.done == self._seen[0][1]:
            self._seen.clear()  # nothing is done yet: workers start, for instance
        self._seen.append((now, inside.done))
        while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW_S:
            self._seen.popleft()

    def words(self, inside: Inside) -> str:
        """Return the state of the last update as text: ``312 of 1480 evaluations, 14.2/s, ...``."""
        whole = float(inside.done).is_integer()
        done = f"{inside.done:.0f}" if whole else f"{inside.done:.1f}"
        text = f"{done} of {inside.of} {inside.what}"
        (began, before), (now, done_now) = self._seen[0], self._seen[-1]
        if now <= began or done_now <= before:
            return text
        rate = (done_now - before) / (now - began)
        pace = f", {rate:.1f}/s" if rate >= 0.1 else ""
        left = (inside.of - inside.done) / rate
        return f"{text}{pace}" + (f", about {time_words(left)} left" if left >= 1 else "")


@contextmanager
def show_progress(
    titles: Mapping[str, str],
    to_bar: Callable[[P], BarState],
    to_line: Callable[[P], str],
    *,
    quiet: bool,
    to_inside: Callable[[P], tuple[str, Inside] | None] = lambda now: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[P], None]]:
    """Give a function that shows the progress of a run: a bar per stage, or lines with the time.

    Args:
        titles: stage -> title of its bar; other stages have none.
        to_bar: gives the state of a bar.
        to_line: gives a line for a log; empty for none.
        quiet: show nothing.
        to_inside: gives the name of the step that is being done and how far it is, where that is
            the news. A terminal has one more bar for it, a log a line when it was silent for
            :data:`SILENT_STEP_S`.
        clock: gives the time in seconds.
    """
    console = make_console(sys.stderr)
    if quiet:
        yield lambda _: None
    elif console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):
        with StageBars(console, titles) as bars:

            def show(now: P) -> None:
                inside = to_inside(now)
                stage, done, of, note = to_bar(now)
                if inside is None:
                    bars.show(stage, done, of, note)
                else:
                    bars.show_inside(stage, done, of, inside[1])

            yield show
    else:
        started = last = clock()
        pace = InsidePace(clock)

        def print_line(now: P) -> None:
            nonlocal last
            inside = to_inside(now)
            if inside is None:
                line = to_line(now)
            else:
                pace.update(inside[1])
                due = clock() - last >= SILENT_STEP_S
                line = f"{inside[0]}: {pace.words(inside[1])}" if due else ""
            if line:
                last = clock()
                console.print(f"{last - started:6.0f} s  {line}", soft_wrap=True)

        yield print_line


def quarters(titles: Mapping[str, str]) -> Callable[[str, int, int], str]:
    """Return a function that gives a line for each quarter of a stage, from what is done of it.

    Args:
        titles: stage -> title; other stages have no lines.
    """
    printed: set[tuple[str, int]] = set()

    def to_line(stage: str, done: int, of: int) -> str:
        quarter = (stage, done * 4 // max(1, of))
        if stage not in titles or quarter in printed:
            return ""
        printed.add(quarter)
        return f"{titles[stage]}: {done}/{of}"

    return to_line


class StageBars(Progress):
    """Show the stages of a run on a terminal, below them the present step and the last note.

    The note stands in as many lines as it takes.

    Args:
        console: where to.
        titles: stage -> title of its bar; other stages have none.
    """

    def __init__(self, console: Console, titles: Mapping[str, str]) -> None:
        self._inside: RenderableType = ""
        self._note = ""
        super().__init__(
            TextColumn("{task.description:>12}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._rows = {
            stage: self.add_task(title, total=None, start=False) for stage, title in titles.items()
        }
        self._reached = self.get_time()
        self._pace = InsidePace()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, the present step and the note."""
        yield from super().get_renderables()
        if self._inside:
            yield self._inside
        if self._note:
            yield Text(self._note)

    def show(self, stage: str, done: int, total: int, note: str) -> None:
        """Show a stage, its steps that are done, all its steps, and a note."""
        self._inside = ""
        if stage in self._rows:
            self._note = note
            self._move(stage, done, total)
        self._reached = self.get_time()

    def show_inside(self, stage: str, done: int, total: int, inside: Inside) -> None:
        """Show how far the step of a stage is that is being done; the note stays."""
        self._pace.update(inside)
        row = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(max(1, inside.of), inside.done, width=20)
        row.add_row(Text(f"{'this step':>12}"), bar, Text(self._pace.words(inside)))
        self._inside = row
        if stage in self._rows:
            self._move(stage, done, total)

    def _move(self, stage: str, done: int, total: int) -> None:
        task = self.tasks[self._rows[stage]]
        if task.start_time is None:  # its first step counts, too
            task.start_time = self._reached
        self.update(self._rows[stage], completed=done, total=total)


class BatchesDone(Protocol):
    """Shows how many batches are done."""

    def __call__(self, done: int, total: int | None, trained: bool = ...) -> None:
        """Show it; ``total`` is None if unknown, ``trained`` says that they are trained on."""


@contextmanager
def measuring(*, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[BatchesDone]:
    """Give a function that shows a pass over batches (see :class:`BatchesDone`).

    It shows a bar if stderr is a terminal, otherwise a line every :data:`SILENT_S` seconds, so
    that a short pass prints nothing.

    Args:
        quiet: print nothing.
        clock: gives the time in seconds.
    """
    console = make_console(sys.stderr)
    if quiet:
        yield lambda done, total, trained=False: None
        return
    if not console.is_terminal:
        last = clock()

        def line(done: int, total: int | None, trained: bool = False) -> None:
            nonlocal last
            if clock() - last >= SILENT_S:
                last = clock()
                of = "" if total is None else f" of {total}"
                what = "trained on" if trained else "measured"
                console.print(Text(f"gp-prune: {what} {done}{of} batches"))

        yield line
        return
    columns = (
        TextColumn("gp-prune: {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", visible=False)

        def show(done: int, total: int | None, trained: bool = False) -> None:
            what = "fine-tuning" if trained else "measuring"
            bar.update(row, completed=done, total=total, visible=True, description=what)

        yield show
