"""A bar, or plain lines, for passes over data that take long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from gp_prune.report.tables import make_console
from gp_prune.search.nsga2 import Generation
from gp_prune.search.run import Progress

_TITLES = {"tasks": "networks", "search": "generations", "compare": "comparison"}


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """What a run reports to: nothing, plain lines, or bars on the terminal; all on stderr."""
    console = make_console(sys.stderr)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with stage_bars(console, _TITLES) as show:
            yield lambda now: show(
                now.stage, now.done, now.of, _note(now.generation) if now.generation else ""
            )
    else:
        yield _lines(console)


@contextmanager
def stage_bars(
    console: Console, titles: Mapping[str, str]
) -> Iterator[Callable[[str, int, int, str], None]]:
    """A bar for every stage of a run, on a terminal: ``show(stage, done, total, note)``.

    Args:
        console: of the terminal.
        titles: of the stages; others are not shown.
    """
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[note]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
    )
    with Bar(*columns, console=console, expand=True) as bar:
        rows = {
            stage: bar.add_task(title, total=None, note="", start=False)
            for stage, title in titles.items()
        }

        def show(stage: str, done: int, total: int, note: str) -> None:
            if stage in rows:
                bar.start_task(rows[stage])
                bar.update(rows[stage], completed=done, total=total, note=note)

        yield show


def _lines(console: Console) -> Callable[[Progress], None]:
    started = time.monotonic()
    quarters: set[tuple[str, int]] = set()

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True)

    def show(progress: Progress) -> None:
        seconds = f"{time.monotonic() - started:6.0f} s  "
        if progress.generation is not None:
            place = f"generation {progress.done}/{progress.of}: "
            tell(seconds + place + _note(progress.generation))
            return
        quarter = (progress.stage, progress.done * 4 // max(1, progress.of))
        if progress.stage in _TITLES and quarter not in quarters:
            quarters.add(quarter)
            title = _TITLES[progress.stage]
            tell(f"{seconds}{title}: {progress.done}/{progress.of}")

    return show


def _note(generation: Generation) -> str:
    best = generation.front[0]
    all_risen = generation.complete == generation.behaviours
    in_full = "" if all_risen else f" ({generation.complete} in full)"
    return (
        f"{generation.assessed} formulas ({generation.rejected} more refused), "
        f"{generation.behaviours} behaviours{in_full}, "
        f"front {len(generation.front)}, "
        f"least error {best.objectives[0]:.3f} by {best.expression}"
        f"{'; ends here: ' + generation.stopped if generation.stopped else ''}"
    )


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
    with Bar(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", visible=False)
        yield lambda done, total: bar.update(row, completed=done, total=total, visible=True)
