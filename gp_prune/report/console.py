"""Show the progress of long work on stderr: nothing, plain lines, or bars on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from gp_prune.report.tables import make_console

P = TypeVar("P")
BarState = tuple[str, int, int, str]
"""Stage, steps done, steps in total, and a note."""


@contextmanager
def show_progress(
    titles: Mapping[str, str],
    to_bar: Callable[[P], BarState],
    to_line: Callable[[P], str],
    *,
    quiet: bool,
) -> Iterator[Callable[[P], None]]:
    """Give a function that shows the progress of a run: a bar per stage, or lines with the time.

    Args:
        titles: stage -> title of its bar; other stages have none.
        to_bar: gives the state of a bar.
        to_line: gives a line for a log; empty for none.
        quiet: show nothing.
    """
    console = make_console(sys.stderr)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _stage_bars(console, titles) as show:
            yield lambda now: show(*to_bar(now))
    else:
        started = time.monotonic()

        def print_line(now: P) -> None:
            line = to_line(now)
            if line:
                console.print(f"{time.monotonic() - started:6.0f} s  {line}", soft_wrap=True)

        yield print_line


@contextmanager
def _stage_bars(
    console: Console, titles: Mapping[str, str]
) -> Iterator[Callable[[str, int, int, str], None]]:
    one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        rows = {
            stage: bar.add_task(title, total=None, note="", start=False)
            for stage, title in titles.items()
        }

        def show(stage: str, done: int, total: int, note: str) -> None:
            if stage in rows:
                bar.start_task(rows[stage])
                bar.update(rows[stage], completed=done, total=total, note=note)

        yield show


SILENT_S = 5.0
"""Seconds until the first plain line, and between two."""


@contextmanager
def measuring(
    *, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function that shows a pass over batches: ``(done, total)``, total None if unknown.

    It shows a bar if stderr is a terminal, otherwise a line every :data:`SILENT_S` seconds, so
    that a short pass prints nothing.

    Args:
        quiet: print nothing.
        clock: gives the time in seconds.
    """
    console = make_console(sys.stderr)
    if quiet:
        yield lambda done, total: None
        return
    if not console.is_terminal:
        last = clock()

        def line(done: int, total: int | None) -> None:
            nonlocal last
            if clock() - last >= SILENT_S:
                last = clock()
                of = "" if total is None else f" of {total}"
                console.print(Text(f"gp-prune: measured {done}{of} batches"))

        yield line
        return
    columns = (
        TextColumn("gp-prune: measuring"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("batches"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", visible=False)
        yield lambda done, total: bar.update(row, completed=done, total=total, visible=True)
