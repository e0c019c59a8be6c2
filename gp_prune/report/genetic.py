"""Print the front of a genetic pruning as a table, and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any

from rich.table import Table
from rich.text import Text

from gp_prune.errors import pluralize
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import RoundStatus
from gp_prune.genetic.run import GeneticProgress
from gp_prune.report.console import (
    MARK,
    make_console,
    new_table,
    percent,
    quantity,
    render,
    split_table,
)
from gp_prune.report.progress import BarState, show_progress
from gp_prune.runs.inside import Inside

_TITLES = {
    "load": "network", "prune": "rounds", "polish": "retraining", "compare": "baselines",
    "judge": "judging",
}  # fmt: skip

_STEPS = {**_TITLES, "prune": "round"}


def result_lines(result: Mapping[str, Any], stream: IO[str]) -> list[str]:
    """Return the front and its baselines as lines for a stream; in colour on a terminal.

    Args:
        result: what :meth:`~gp_prune.genetic.front.GeneticResult.to_json` returns, or what
            :func:`~gp_prune.genetic.stored.read_report` reads of a run that has ended.
        stream: where they are printed.
    """
    console = make_console(stream)
    explanation = Text(_explanation(result), style="dim")
    return render(console, *_tables(result, console.width), explanation)


def _tables(result: Mapping[str, Any], room: int) -> list[Table]:
    split, baselines = result["split"], result["baselines"]
    timed = _timed(result)
    headings = [
        "", "network", *([">validation"] if split != "validation" else []),
        f">{split}", ">conv MACs", *([">conv time"] if timed else []), ">all MACs",
        ">not zero", ">bytes", ">CSR", *(f">{name} {split}" for name in baselines),
    ]  # fmt: skip
    rows: list[list[str]] = []
    styles: dict[int, str] = {}
    for position, point in enumerate((result["dense"], *result["front"])):
        others = [points[position - 1] if position else None for points in baselines.values()]
        best = bool(position) and point["name"] == result["recommended"]
        if best:
            styles[len(rows)] = "bold green"
        rows.append([MARK if best else "", *_row(result, point, others, timed)])
    tables = split_table(headings, rows, room, keys=2, styles=styles)
    model = result["settings"]["model"] or "the network"
    tables[0].title = f"Pareto front of {model}: {result['evaluations']} plans tried"
    return tables


def _timed(result: Mapping[str, Any]) -> bool:
    return any(point["conv_time_share"] is not None for point in result["front"])


def _row(
    result: Mapping[str, Any],
    point: Mapping[str, Any],
    others: Sequence[Mapping[str, Any] | None],
    timed: bool,
) -> list[str]:
    dense, kind = result["dense"], result["error"]
    cells = [point["name"]]
    if result["split"] != "validation":
        cells.append(_error_text(kind, point["validation_error"]))
    cells.append(_error_text(kind, point["report_error"]))
    cells.append(_times(dense["conv_macs"], point["conv_macs"]))
    if timed:
        share = point["conv_time_share"]
        cells.append("" if share is None else f"{1 / share:.1f}x")
    cells += [
        _times(dense["macs"], point["macs"]),
        percent(point["params_not_zero"] / dense["params_not_zero"]),
        quantity(point["bytes"]),
        quantity(point["bytes_csr"]),
    ]
    cells += ["" if o is None else _error_text(kind, o["report_error"]) for o in others]
    return cells


def _error_text(measure: str, error: float) -> str:
    """Format an error rate in percent, or a mean squared error."""
    return f"{100 * error:.2f} %" if measure == "error" else f"{error:.5f}"


def _times(before: int, after: int) -> str:
    """Format how many times less there is after pruning."""
    return f"{before / after:.1f}x" if after else "-"


def _explanation(result: Mapping[str, Any]) -> str:
    error = "error rate" if result["error"] == "error" else "mean squared error"
    lines = [
        f"{error} on the {result['split']} samples"
        + (", which decided nothing" if result["split"] == "test" else ""),
        "conv MACs, conv time, all MACs: how many times less than the dense network; "
        "conv time: median on one thread, batch of 256, the faster of oneDNN and torch's own way "
        "for each network"
        if _timed(result)
        else "conv MACs, all MACs: how many times less than the dense network",
        "not zero: share of the parameters that is left; bytes: as 32-bit floats; CSR: with "
        "matrices in compressed sparse rows where that is less",
    ]
    if result["baselines"]:
        lines.append(
            f"{', '.join(result['baselines'])}: pruned at once to as many channels and weights of "
            "every layer, retrained for as many epochs"
        )
    if not result["front"]:
        lines.append("no pruned network was found")
    if result["failures"]:
        count = pluralize(len(result["failures"]), "plan")
        lines.append(f"{count} failed, at last because {result['failures'][-1]}")
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
    """Show the stages of a run, see :func:`gp_prune.report.progress.show_progress`."""
    return show_progress(_TITLES, _bar, _line, quiet=quiet, to_inside=_inside)


def _inside(now: GeneticProgress) -> tuple[str, Inside] | None:
    """Return how far the present step is, if that is the news."""
    if now.inside is None:
        return None
    number = f" {now.done + 1}/{now.of}" if now.stage == "prune" else ""
    return f"{_STEPS[now.stage]}{number}", now.inside


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
