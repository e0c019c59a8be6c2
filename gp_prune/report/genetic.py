"""Print the front of a genetic pruning as a table, and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import IO

from rich.table import Table
from rich.text import Text

from gp_prune.errors import pluralize
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import RoundStatus
from gp_prune.genetic.front import FrontEntry, GeneticResult
from gp_prune.genetic.run import GeneticProgress
from gp_prune.report.console import (
    MARK,
    BarState,
    make_console,
    new_table,
    percent,
    quantity,
    render,
    show_progress,
)

_TITLES = {
    "load": "network", "prune": "rounds", "polish": "retraining", "compare": "baselines",
    "judge": "judging",
}  # fmt: skip


def result_lines(result: GeneticResult, stream: IO[str]) -> list[str]:
    """Return the front and its baselines as lines for a stream; in colour on a terminal."""
    console = make_console(stream)
    return render(console, _table(result), Text(_explanation(result), style="dim"))


def _table(result: GeneticResult) -> Table:
    timed = _timed(result)
    table = new_table(
        f"Pareto front of {result.settings.model or 'the network'}: "
        f"{result.evaluations} plans tried",
        [
            "", "network", *([">validation"] if result.split != "validation" else []),
            f">{result.split}", ">conv MACs", *([">conv time"] if timed else []), ">all MACs",
            ">not zero", ">bytes", ">CSR",
            *(f">{name} {result.split}" for name in result.baselines),
        ],
    )  # fmt: skip
    for position, point in enumerate((result.dense, *result.points)):
        others = [
            points[position - 1] if position else None for points in result.baselines.values()
        ]
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
        cells.append(_error_text(result.kind, point.validation))
    cells.append(_error_text(result.kind, point.report))
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
    cells += ["" if other is None else _error_text(result.kind, other.report) for other in others]
    return cells


def _error_text(measure: str, error: float) -> str:
    """Format an error rate in percent, or a mean squared error."""
    return f"{100 * error:.2f} %" if measure == "error" else f"{error:.5f}"


def _times(before: int, after: int) -> str:
    """Format how many times less there is after pruning."""
    return f"{before / after:.1f}x" if after else "-"


def _explanation(result: GeneticResult) -> str:
    error = "error rate" if result.kind == "error" else "mean squared error"
    lines = [
        f"{error} on the {result.split} samples"
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
        count = pluralize(len(result.failures), "plan")
        lines.append(f"{count} failed, at last because {result.failures[-1]}")
    return "\n".join(lines)


def interim_lines(front: Sequence[Elite], measure: str, stream: IO[str]) -> list[str]:
    """Return the front of a run that was stopped as lines for a stream."""
    headings = ("network", "validation", "MACs kept", "params kept")
    table = new_table("Pareto front so far", [f">{heading}" for heading in headings])
    for elite in front:
        name = f"round {elite.round}, {elite.number}" if elite.number else "dense"
        shares = (percent(elite.shares.macs), percent(elite.shares.params))
        table.add_row(name, _error_text(measure, elite.error), *shares)
    return render(make_console(stream), table)


def interim_json(folder: str, front: Sequence[Elite]) -> dict[str, object]:
    """Return the front of a run that was stopped as a JSON object."""
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


def progress_display(*, quiet: bool) -> AbstractContextManager[Callable[[GeneticProgress], None]]:
    """Show the stages of a run, see :func:`gp_prune.report.console.show_progress`."""
    return show_progress(_TITLES, _bar, _line, quiet=quiet)


def _bar(now: GeneticProgress) -> BarState:
    return now.stage, now.done, now.of, _note(now.status) if now.status else ""


def _line(now: GeneticProgress) -> str:
    """Return a line for a log; empty where there is no news."""
    status = now.status
    if status is None:
        return "" if now.done else _TITLES.get(now.stage, "")
    round_ = f"round {status.round}/{status.of}"
    if status.generation is None:
        return f"{round_} retrained: {_note(status)}"
    return f"{round_}, generation {status.generation}: {_note(status)}"


def _note(status: RoundStatus) -> str:
    front = len(status.front)
    return f"{status.evaluations} plans, hypervolume {status.hypervolume:.4f}, front {front}"
