"""Floor 10: the result of a search as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gp_prune.search.comparison import Contender, Record
from gp_prune.search.run import Result, ladder_objectives

MARK = ">>>>"
_KIND_TITLES = {"macs": "equal MACs", "params": "equal params"}


def result_tables(result: Result) -> RenderableType:
    """The front and the comparison by task."""
    return Group(
        front_table(result),
        Text(_explanation(result), style="dim"),
        Text(),
        task_table(result),
    )


def front_table(result: Result) -> Table:
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
    table.add_column("formula", overflow="fold", min_width=24)
    header = ["", "", "val/test", "kept", "kept", *("val/test" for _ in kinds), "", ""]
    table.add_row(*header, style="dim")
    for contender in result.contenders:
        best = contender is result.recommended
        # As Text, because in a plain string rich takes [i,k] for markup.
        cells = map(Text, _front_row(result, contender, kinds))
        table.add_row(*cells, style="bold green" if best else "")
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


def task_table(result: Result) -> Table:
    """Test errors of the recommended formula and the baselines, task by task."""
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
    shown = [result.recommended, *(c for c in result.contenders if c.candidate is None)]
    for kind in _kinds(result):
        for contender in shown:
            best = contender is result.recommended
            cells = [_task_cell(result, contender, kind, task) for task in result.config.tasks]
            mean = result.comparison.mean(contender.name, "test", kind=kind)
            spread = result.comparison.spread(contender.name, "test", kind=kind)
            table.add_row(
                MARK if best else "", contender.name, _KIND_TITLES[kind], *cells,
                f"{mean:.3f} ± {spread:.3f}", style="bold green" if best else "",
            )  # fmt: skip
    return table


def _task_cell(result: Result, contender: Contender, kind: str, task: str) -> str:
    rows: list[Record] = result.comparison.part(contender.name, kind=kind, task=task)
    values = [
        statistics.fmean(row.test for row in rows if row.repeat == repeat)
        for repeat in sorted({row.repeat for row in rows})
    ]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    raw = statistics.fmean(row.raw_test for row in rows)
    natural = f"mse {raw:.4f}" if task.startswith("autoencoder") else f"{raw:.1%}"
    return f"{statistics.fmean(values):.3f} ± {spread:.3f} ({natural})"


def _explanation(result: Result) -> str:
    ladder = ", ".join(f"{share:.0%}" for share in result.config.ladder)
    budgets = ", ".join(f"{share:.0%}" for share in result.config.budgets)
    unit = "channels" if result.config.granularity == "channel" else "weights"
    return (
        "error: 0 as the dense network, 1 as the best guess that looks at nothing; mean over tasks\n"
        f"error, MACs, params: {ladder} of the {unit} kept; equal MACs, equal params: "
        f"errors at {budgets} of them kept\n"
        f"name@{result.config.scope}: the baseline under the conventions of this run"
    )


def recommendation(result: Result) -> str:
    """Which formula is recommended, by which rule, and what the test split says of it.

    Plain lines that are never wrapped, so that the LaTeX can be copied.
    """
    config = result.config
    best = result.recommended
    lines = [
        f"{MARK} {best.name} = {best.expression}",
        f"     LaTeX: {result.metrics[best.name].latex()}",
        "     Rule: the smallest formula whose validation error at equal budgets is within one "
        "standard deviation",
        f"     of the least (formulas of at most {config.recommended_size} nodes); the test split "
        "decided nothing.",
        *(f"     Test split {line}" for line in verdict(result)),
    ]
    return "\n".join(lines)


def verdict(result: Result) -> list[str]:
    """The recommended formula against every baseline on the test split, good or bad."""
    best = result.recommended.name
    lines = []
    for kind in _kinds(result):
        own = result.comparison.mean(best, "test", kind=kind)
        against = []
        for contender in result.contenders:
            if contender.candidate is None:
                other = result.comparison.mean(contender.name, "test", kind=kind)
                word = "below" if own < other else "NOT below"
                against.append(f"{word} {contender.name} {other:.3f}")
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
