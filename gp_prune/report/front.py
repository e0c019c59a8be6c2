"""The result of a search as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import IO, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gp_prune.report.tables import make_console
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import Contender, Record
from gp_prune.search.results import Result, ladder_objectives

MARK = ">>>>"
PLAIN_WIDTH = 160
"""Characters per line where the output is not a terminal."""

NARROW = 120
"""Below this width the formulas do not fit beside the figures."""

_KIND_TITLES = {"macs": "equal MACs", "params": "equal params"}


def result_lines(result: Result, stream: IO[str]) -> list[str]:
    """The front and the comparison by task, as lines for a stream; in colour on a terminal.

    Where there is little room, the formulas stand below the front instead of in it.
    """
    console = make_console(stream, PLAIN_WIDTH)
    narrow = console.width < NARROW
    parts: list[RenderableType] = [front_table(result, with_formulas=not narrow)]
    if narrow:
        parts += [
            Text(f"{contender.name} = {contender.expression}") for contender in result.contenders
        ]
    parts += [Text(_explanation(result), style="dim"), Text(), task_table(result, brief=narrow)]
    with console.capture() as capture:
        console.print(Group(*parts))
    return [line.rstrip() for line in capture.get().splitlines()]


def front_table(result: Result, *, with_formulas: bool = True) -> Table:
    """One row for every formula of the front and every baseline."""
    kinds = _kinds(result)
    table = Table(
        title=f"Pareto front: {result.assessed} formulas tried, {result.behaviours} behaviours",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for heading in ("size", "error", "MACs", "params"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in kinds:
        table.add_column(_KIND_TITLES[kind], justify="right", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    if with_formulas:
        table.add_column("formula", overflow="fold", min_width=24)
    header = ["", "", "val/test", "kept", "kept", *("val/test" for _ in kinds)]
    table.add_row(*header, style="dim")
    for contender in result.contenders:
        best = contender is result.recommended
        # As Text, because in a plain string rich takes [i,k] for markup.
        cells = [Text(cell) for cell in _front_row(result, contender, kinds)]
        table.add_row(*cells[: len(table.columns)], style="bold green" if best else "")
    return table


def _front_row(result: Result, contender: Contender, kinds: Sequence[str]) -> list[str]:
    validation, macs, params, test = ladder_objectives(result, contender)
    row = [
        MARK if contender is result.recommended else "",
        str(contender.expression.size),
        f"{validation:.3f}/{test:.3f}",
        f"{macs:.3f}",
        f"{params:.3f}",
    ]
    for kind in kinds:
        pair = [
            result.comparison.mean(contender.name, c, kind=kind) for c in ("validation", "test")
        ]
        row.append(f"{pair[0]:.3f}/{pair[1]:.3f}")
    return [*row, contender.name, str(contender.expression)]


def task_table(result: Result, *, brief: bool = False) -> Table:
    """Test errors of the recommended formula and the baselines, task by task.

    ``brief`` leaves out the errors in the unit of the task.
    """
    shares = ", ".join(f"{share:.0%}" for share in result.config.budgets)
    table = Table(
        title=f"Test error at equal budgets ({shares} kept), mean and standard deviation",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    table.add_column("budget", no_wrap=True)
    for task in result.config.tasks:
        table.add_column(task, justify="right")
    table.add_column("mean", justify="right")
    table.add_column("kept", justify="right")
    shown = [result.recommended, *(c for c in result.contenders if c.candidate is None)]
    for kind in _kinds(result):
        for contender in shown:
            best = contender is result.recommended
            cells = [
                _task_cell(result, contender, kind, task, brief) for task in result.config.tasks
            ]
            mean = result.comparison.mean(contender.name, "test", kind=kind)
            spread = result.comparison.spread(contender.name, "test", kind=kind)
            table.add_row(
                MARK if best else "", contender.name, _KIND_TITLES[kind], *cells,
                f"{mean:.3f} ± {spread:.3f}",
                f"{result.comparison.mean(contender.name, kind, kind=kind):.3f}",
                style="bold green" if best else "",
            )  # fmt: skip
    return table


def _task_cell(result: Result, contender: Contender, kind: str, task: str, brief: bool) -> str:
    rows: list[Record] = result.comparison.part(contender.name, kind=kind, task=task)
    values = [
        statistics.fmean(row.test for row in rows if row.repeat == repeat)
        for repeat in sorted({row.repeat for row in rows})
    ]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    raw = statistics.fmean(row.raw_test for row in rows)
    natural = f"{raw:.1%}" if result.kinds[task] == "classification" else f"mse {raw:.4f}"
    relative = f"{statistics.fmean(values):.3f} ± {spread:.3f}"
    return relative if brief else f"{relative} ({natural})"


def _explanation(result: Result) -> str:
    ladder = ", ".join(f"{share:.0%}" for share in result.config.ladder)
    budgets = ", ".join(f"{share:.0%}" for share in result.config.budgets)
    unit = "channels" if result.config.granularity == "channel" else "weights"
    return (
        "error: 0 as the dense network, 1 as the best guess without looking; mean over the tasks\n"
        f"error, MACs, params: {ladder} of the {unit} kept; equal MACs, equal params: "
        f"errors at {budgets} of them kept\n"
        f"NAME_{result.config.scope}: a published metric under the conventions of this run"
    )


def interim_lines(front: Sequence[Candidate], stream: IO[str]) -> list[str]:
    """The front of a run that was stopped, as lines for a stream: its compromises and formulas."""
    table = Table(title="Pareto front so far", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("size", "error", "MACs", "params"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("formula", overflow="fold", min_width=24)
    for candidate in front:
        figures = [f"{value:.3f}" for value in candidate.objectives]
        size = str(candidate.expression.size)
        table.add_row(size, *figures, Text(str(candidate.expression)))
    console = make_console(stream, PLAIN_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def interim_json(folder: str, front: Sequence[Candidate]) -> dict[str, Any]:
    """The front of a run that was stopped, for a machine."""
    rows = [
        {
            "formula": str(candidate.expression),
            "size": candidate.expression.size,
            "ladder": dict(
                zip(("validation", "macs", "params"), candidate.objectives, strict=True)
            ),
        }
        for candidate in front
    ]
    return {"folder": folder, "interrupted": True, "front": rows}


def recommendation(result: Result) -> str:
    """Which formula is recommended, by which rule, and what the test split says of it.

    Plain lines that are never wrapped, so that the LaTeX can be copied.
    """
    config = result.config
    best = result.recommended
    metric = result.metrics[best.name]
    simple = metric.simplified().expression
    lines = [
        f"{MARK} {best.name} = {best.expression}",
        *([f"     Simplified: {simple}"] if simple.size < best.expression.size else []),
        *([f"     Published: {best.published}"] if best.published else []),
        f"     LaTeX: {metric.latex()}",
        "     Rule: the smallest formula whose validation error at equal budgets is within one "
        "standard deviation",
        f"     of the least (formulas of at most {config.recommended_size} nodes); the test split "
        "decided nothing.",
        *(f"     Test split {line}" for line in verdict(result)),
    ]
    return "\n".join(lines)


def verdict(result: Result) -> list[str]:
    """The recommended formula against every baseline on the test split, good or bad.

    One line for each kind of budget: its mean error, and for every baseline that one's mean error
    and on how many of the tasks the recommended formula has less.
    """
    best = result.recommended.name
    tasks = result.config.tasks
    lines = []
    for kind in _kinds(result):
        own = result.comparison.mean(best, "test", kind=kind)
        against = []
        for contender in result.contenders:
            if contender.candidate is not None or contender.name == best:
                continue
            other = result.comparison.mean(contender.name, "test", kind=kind)
            wins = sum(
                result.comparison.mean(best, "test", kind=kind, task=task)
                < result.comparison.mean(contender.name, "test", kind=kind, task=task)
                for task in tasks
            )
            word = "below" if own < other else "NOT below"
            against.append(f"{word} {contender.name} {other:.3f} ({wins} of {len(tasks)} tasks)")
        lines.append(f"at {_KIND_TITLES[kind]}: {own:.3f}, {', '.join(against)}")
    return lines


def _kinds(result: Result) -> list[str]:
    present = {record.kind for record in result.comparison.records}
    return [kind for kind in _KIND_TITLES if kind in present]


def result_json(result: Result) -> dict[str, Any]:
    """The result for a machine: the front, the baselines, the recommendation, the verdict."""
    kinds = _kinds(result)
    rows = []
    for contender in result.contenders:
        validation, macs, params, test = ladder_objectives(result, contender)
        row: dict[str, Any] = {
            "name": contender.name,
            "formula": str(contender.expression),
            "size": contender.expression.size,
            "evolved": contender.candidate is not None,
            "recommended": contender is result.recommended,
            "ladder": {"validation": validation, "test": test, "macs": macs, "params": params},
        }
        for kind in kinds:
            row[f"equal_{kind}"] = {
                column: result.comparison.mean(contender.name, column, kind=kind)
                for column in ("validation", "test")
            }
        rows.append(row)
    return {
        "folder": str(result.folder),
        "assessed": result.assessed,
        "behaviours": result.behaviours,
        "recommended": result.recommended.name,
        "verdict": verdict(result),
        "contenders": rows,
    }
