"""A bar, or plain lines, for passes over data that take long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from gp_prune.report.tables import make_console

SILENT_S = 5.0
"""Seconds between two plain lines, and until the first one."""


@contextmanager
def measuring(
    *, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int | None], None]]:
    """What a pass over batches reports to: ``(done, total)``, total None if it is not known.

    Nothing if ``quiet``; a bar if stderr is a terminal; otherwise a line every :data:`SILENT_S`
    seconds, so that short passes say nothing.

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
