"""The front of a genetic pruning as a table, and its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gp_prune.errors import pluralize
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import RoundStatus
from gp_prune.genetic.front import FrontEntry, GeneticResult
from gp_prune.genetic.run import GeneticProgress
from gp_prune.report.console import stage_bars
from gp_prune.report.tables import make_console, percent, quantity

MARK = ">>>>"
_TITLES = {
    "load": "network", "prune": "rounds", "polish": "retraining", "compare": "baselines",
    "judge": "judging",
}  # fmt: skip


def result_lines(result: GeneticResult, stream: IO[str]) -> list[str]:
    """The front and its baselines as lines for a stream; in colour on a terminal."""
    console = make_console(stream)
    with console.capture() as capture:
        console.print(Group(_table(result), Text(_explanation(result), style="dim")))
    return [line.rstrip() for line in capture.get().splitlines()]


def _table(result: GeneticResult) -> Table:
    table = Table(
        title=f"Pareto front of {result.settings.model or 'the network'}: "
        f"{result.evaluations} plans tried",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    timed = _timed(result)
    table.add_column("", no_wrap=True)
    table.add_column("network", no_wrap=True)
    headings = ["validation", result.split, "conv MACs", "all MACs", "not zero", "bytes", "CSR"]
    if result.split == "validation":
        headings.remove("validation")
    if timed:
        headings.insert(headings.index("all MACs"), "conv time")
    for heading in (*headings, *(f"{name} {result.split}" for name in result.baselines)):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, point in enumerate((result.dense, *result.points)):
        others = [points[place - 1] if place else None for points in result.baselines.values()]
        best = point is result.recommended
        cells = _row(result, point, others, timed)
        table.add_row(MARK if best else "", *cells, style="bold green" if best else "")
    return table


def _timed(result: GeneticResult) -> bool:
    return any(point.conv_time for point in result.points)


def _row(
    result: GeneticResult, point: FrontEntry, others: Sequence[FrontEntry | None], timed: bool
) -> list[str]:
    dense = result.dense
    cells = [point.name]
    if result.split != "validation":
        cells.append(error_text(result.kind, point.validation))
    cells.append(error_text(result.kind, point.report))
    cells.append(_times(dense.conv_macs, point.conv_macs))
    if timed:
        time = point.conv_time
        cells.append("" if time is None else f"{1 / time.share:.1f}x")
    cells += [
        _times(dense.macs, point.macs),
        percent(point.cost.nonzero / dense.cost.nonzero),
        quantity(point.size.dense),
        quantity(point.size.csr),
    ]
    cells += ["" if other is None else error_text(result.kind, other.report) for other in others]
    return cells


def error_text(kind: str, error: float) -> str:
    """An error rate in percent, or a mean squared error."""
    return f"{100 * error:.2f} %" if kind == "error" else f"{error:.5f}"


def _times(before: int, after: int) -> str:
    """How many times less."""
    return f"{before / after:.1f}x" if after else "-"


def _explanation(result: GeneticResult) -> str:
    what = "error rate" if result.kind == "error" else "mean squared error"
    lines = [
        f"{what} on the {result.split} samples"
        + (", which decided nothing" if result.split == "test" else ""),
        "conv MACs, conv time, all MACs: how many times less than the dense network; "
        "conv time: median on one thread, batch of 256, the faster of oneDNN and torch's own way "
        "for each network"
        if _timed(result)
        else "conv MACs, all MACs: how many times less than the dense network",
        "not zero: share of the parameters that is left; bytes: as 32-bit floats; CSR: with "
        "matrices in compressed sparse rows where that is less",
    ]
    if result.baselines:
        lines.append(
            f"{', '.join(result.baselines)}: pruned at once to as many channels and weights of "
            "every layer, retrained for as many epochs"
        )
    if not result.points:
        lines.append("no pruned network was found")
    if result.failures:
        count = pluralize(len(result.failures), "retraining")
        lines.append(f"{count} failed, at last because {result.failures[-1]}")
    return "\n".join(lines)


def interim_lines(front: Sequence[Elite], kind: str, stream: IO[str]) -> list[str]:
    """The front of a run that was stopped, as lines for a stream."""
    table = Table(title="Pareto front so far", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("network", "validation", "MACs kept", "params kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for elite in front:
        name = f"round {elite.round}, {elite.number}" if elite.number else "dense"
        shares = (percent(elite.shares.macs), percent(elite.shares.params))
        table.add_row(name, error_text(kind, elite.error), *shares)
    console = make_console(stream)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def interim_json(folder: str, front: Sequence[Elite]) -> dict[str, object]:
    """The front of a run that was stopped, for a machine."""
    return {
        "folder": folder,
        "interrupted": True,
        "front": [
            {
                "round": elite.round,
                "network": elite.number,
                "validation_error": elite.error,
                "macs_kept": elite.shares.macs,
                "params_kept": elite.shares.params,
            }
            for elite in front
        ],
    }


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Callable[[GeneticProgress], None]]:
    """What a run reports to: nothing, plain lines, or bars on the terminal; all on stderr."""
    console = make_console(sys.stderr)
    if quiet:
        yield lambda _: None
        return
    if not console.is_terminal:
        started = time.monotonic()

        def tell(step: GeneticProgress) -> None:
            line = _line(step)
            if line:
                console.print(f"{time.monotonic() - started:6.0f} s  {line}", soft_wrap=True)

        yield tell
        return
    with stage_bars(console, _TITLES) as show:
        yield lambda step: show(
            step.stage, step.done, step.of, _note(step.status) if step.status else ""
        )


def _line(step: GeneticProgress) -> str:
    """A line for a log; empty where nothing is to be said."""
    if step.status is None:
        return f"{_TITLES[step.stage]}" if step.stage in _TITLES and not step.done else ""
    place = f"round {step.status.round}/{step.status.of}"
    if step.status.generation is None:
        return f"{place} retrained: {_note(step.status)}"
    return f"{place}, generation {step.status.generation}: {_note(step.status)}"


def _note(status: RoundStatus) -> str:
    front = f"hypervolume {status.hypervolume:.4f}, front {len(status.front)}"
    return f"{status.evaluations} plans, {front}"
