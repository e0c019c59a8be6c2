"""Print a run of the autoencoder trainer as a table, and show its progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO

from rich.console import Console

from gp_prune.autoencoder.population import GenerationReport
from gp_prune.autoencoder.run import AutoencodeResult
from gp_prune.autoencoder.settings import CANONICAL
from gp_prune.report.console import (
    MARK,
    make_console,
    percent,
    print_facts,
    print_table,
    rendered_lines,
    show_progress,
)

_LINES = 10
"""Lines of a whole run in a log."""


def progress_display(*, quiet: bool) -> AbstractContextManager[Callable[[GenerationReport], None]]:
    """Show the epochs of a run, see :func:`gp_prune.report.console.show_progress`."""

    def to_line(now: GenerationReport) -> str:
        if now.number < now.of and now.number % max(1, now.of // _LINES):
            return ""
        return f"epoch {now.number}/{now.of}: {_note(now)}"

    return show_progress(
        {"train": "epochs"},
        lambda now: ("train", now.number, now.of, _note(now)),
        to_line,
        quiet=quiet,
    )


def _note(generation: GenerationReport) -> str:
    pruned = f", {generation.pruned} pruned" if generation.pruned else ""
    mean = "" if generation.mean == generation.best else f" (mean {generation.mean:.4f})"
    return (
        f"validation loss {generation.best:.4f}{mean}, "
        f"{percent(generation.sparsity)} of the weights zero{pruned}"
    )


def result_lines(result: AutoencodeResult, stream: IO[str]) -> list[str]:
    """Return the result as lines for a stream."""
    console = make_console(stream)
    with console.capture() as capture:
        if result.settings.mode != CANONICAL:
            _cells(console, result)
            console.print()
        print_facts(console, facts(result))
    return rendered_lines(capture.get())


def _cells(console: Console, result: AutoencodeResult) -> None:
    """Print the cells at the end, the best one marked."""
    last = [row for row in result.history if row.generation == result.settings.epochs]
    events = [
        sum(row.pruned for row in result.history if row.cell == cell) for cell in range(len(last))
    ]
    rows = []
    for row in sorted(last, key=lambda row: row.cell):
        best = row.cell == result.best_cell
        rows.append(
            (
                MARK if best else "", str(row.cell), f"{row.validation_loss:.4f}",
                percent(row.sparsity), str(events[row.cell]), f"{row.learning_rate:.2g}",
            )
        )  # fmt: skip
    headings = ("", ">cell", ">validation loss", ">weights zero", ">times pruned", ">learning rate")
    print_table(console, headings, rows, fold=())


def facts(result: AutoencodeResult) -> list[tuple[str, str]]:
    """Return the facts of a result, names and values."""
    settings = result.settings
    widths = "-".join(map(str, (*result.layout.encoder, *result.layout.decoder[1:])))
    nodes = ", ".join(f"{name} {a} of {n}" for name, (a, n) in result.nodes().items())
    loss = {"l1": "mean L1", "bce": "cross-entropy"}[settings.loss]
    events = sum(row.pruned for row in result.history)
    tested = f"{loss} {result.test_loss:.4f}"
    if settings.loss != "l1":
        tested += f", mean L1 {result.test_l1:.4f}"
    rows = [
        ("network", f"{widths}, {result.layout.parameters} parameters"),
        ("trained", f"{settings.mode}, {settings.epochs} epochs of {settings.data}, {loss}"),
        ("pruned", f"by {settings.operator} ({settings.unit}s), schedule {settings.schedule}, "
                   f"{events} events") if events else ("pruned", "nothing"),
        ("weights zero", percent(result.sparsity)),
        ("nodes alive", nodes),
        ("validation", f"{loss} {result.validation_loss:.4f}"),
        ("test", f"{tested} (mean L1 of the best constant picture: {result.trivial_l1:.4f})"),
        ("run folder", str(result.folder)),
    ]  # fmt: skip
    failures = [row.failure for row in result.history if row.failure]
    if failures:
        count = f"{len(failures)} steps of cells, which stayed as they were"
        rows.insert(-1, ("lost", f"{count} ({failures[-1]})"))
    return rows
