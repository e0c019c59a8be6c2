"""Print a run of the autoencoder trainer as a table, and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any

from rich.console import Console

from gp_prune.autoencoder.population import EpochProgress, GenerationReport
from gp_prune.autoencoder.settings import CANONICAL
from gp_prune.report.console import (
    MARK,
    make_console,
    percent,
    print_facts,
    print_table,
    rendered_lines,
)
from gp_prune.report.progress import BarState, show_progress
from gp_prune.runs.inside import Inside

_LINES = 10
"""Lines of a whole run in a log."""


def progress_display(
    *, quiet: bool
) -> AbstractContextManager[Callable[[GenerationReport | EpochProgress], None]]:
    """Show the epochs of a run, see :func:`gp_prune.report.progress.show_progress`."""

    def to_line(now: GenerationReport | EpochProgress) -> str:
        if isinstance(now, EpochProgress):
            return ""
        if now.number < now.of and now.number % max(1, now.of // _LINES):
            return ""
        return f"epoch {now.number}/{now.of}: {_note(now)}"

    def to_bar(now: GenerationReport | EpochProgress) -> BarState:
        if isinstance(now, EpochProgress):
            return "train", now.number - 1, now.of, ""
        return "train", now.number, now.of, _note(now)

    def to_inside(now: GenerationReport | EpochProgress) -> tuple[str, Inside] | None:
        if isinstance(now, EpochProgress):
            return f"epoch {now.number}/{now.of}", now.inside
        return None

    return show_progress({"train": "epochs"}, to_bar, to_line, quiet=quiet, to_inside=to_inside)


def _note(generation: GenerationReport) -> str:
    pruned = f", {generation.pruned} pruned" if generation.pruned else ""
    mean = "" if generation.mean == generation.best else f" (mean {generation.mean:.4f})"
    return (
        f"validation loss {generation.best:.4f}{mean}, "
        f"{percent(generation.sparsity)} of the weights zero{pruned}"
    )


def result_lines(result: Mapping[str, Any], stream: IO[str]) -> list[str]:
    """Return the result as lines for a stream.

    Args:
        result: what :meth:`~gp_prune.autoencoder.run.AutoencodeResult.to_json` returns, or what
            :func:`~gp_prune.autoencoder.stored.read_report` reads of a run that has ended.
        stream: where they are printed.
    """
    console = make_console(stream)
    with console.capture() as capture:
        if result["settings"]["mode"] != CANONICAL:
            _cells(console, result)
            console.print()
        print_facts(console, facts(result))
    return rendered_lines(capture.get())


def _cells(console: Console, result: Mapping[str, Any]) -> None:
    """Print the cells at the end, the best one marked."""
    rows = []
    for cell in result["cells"]:
        best = cell["cell"] == result["best_cell"]
        rows.append(
            (
                MARK if best else "", str(cell["cell"]), f"{cell['validation_loss']:.4f}",
                percent(cell["sparsity"]), str(cell["pruned"]), f"{cell['learning_rate']:.2g}",
            )
        )  # fmt: skip
    headings = ("", ">cell", ">validation loss", ">weights zero", ">times pruned", ">learning rate")
    print_table(console, headings, rows, fold=())


def facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the facts of a result, names and values."""
    settings = result["settings"]
    nodes = ", ".join(f"{name} {a} of {n}" for name, (a, n) in result["nodes"].items())
    loss = {"l1": "mean L1", "bce": "cross-entropy"}[settings["loss"]]
    events = result["pruning_events"]
    tested = f"{loss} {result['test_loss']:.4f}"
    if settings["loss"] != "l1":
        tested += f", mean L1 {result['test_l1']:.4f}"
    pruned = "nothing"
    if events:
        pruned = (
            f"by {settings['operator']} ({settings['unit']}s), schedule {settings['schedule']}, "
            f"{events} events"
        )
    widths = "-".join(map(str, result["widths"]))
    trained = f"{settings['mode']}, {settings['epochs']} epochs of {settings['data']}, {loss}"
    constant = f"mean L1 of the best constant picture: {result['trivial_l1']:.4f}"
    rows = [
        ("network", f"{widths}, {result['parameters']} parameters"),
        ("trained", trained),
        ("pruned", pruned),
        ("weights zero", percent(result["sparsity"])),
        ("nodes alive", nodes),
        ("validation", f"{loss} {result['validation_loss']:.4f}"),
        ("test", f"{tested} ({constant})"),
        ("run folder", result["folder"]),
    ]
    failures = result["failures"]
    if failures:
        count = f"{len(failures)} steps of cells, which stayed as they were"
        rows.insert(-1, ("lost", f"{count} ({failures[-1].partition(': ')[2]})"))
    return rows
