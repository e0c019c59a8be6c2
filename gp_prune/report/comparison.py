"""Print a comparison of metrics as tables on a terminal or in LaTeX, and show its progress."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gp_prune.apply.own_task import short_names
from gp_prune.formula.printer import escape
from gp_prune.judging.compare import CompareProgress, MetricComparison
from gp_prune.judging.records import PATTERN, Measurement
from gp_prune.judging.standings import ALPHA, Standing, spread_over_repeats
from gp_prune.metric.file import ALLOCATIONS, bundled_metrics
from gp_prune.pruning.plan.channels import describe_budget, short_budget
from gp_prune.report.console import (
    MARK,
    make_console,
    render,
    split_table,
)
from gp_prune.report.progress import quarters, show_progress

_STAGES = {"tasks": "networks", "score": "scoring", "compare": "comparison"}
MOST_NOTES = 10
"""Most sentences that are listed on what was left out."""

Budget = tuple[str, float]
"""Kind and share to keep."""


def progress_display(*, quiet: bool) -> AbstractContextManager[Callable[[CompareProgress], None]]:
    """Show the stages of a comparison; a log has a line for each quarter of one."""
    quarter = quarters(_STAGES)
    return show_progress(
        _STAGES,
        lambda now: (now.stage, now.done, now.of, ""),
        lambda now: quarter(now.stage, now.done, now.of),
        quiet=quiet,
    )


def result_lines(result: MetricComparison, stream: IO[str]) -> list[str]:
    """Return the tables of a comparison as lines for a stream."""
    console = make_console(stream)
    parts: list[RenderableType] = [*_overall(result, console.width)]
    for allocation in result.allocations:
        parts += [Text(), *_by_budget(result, allocation, console.width)]
    parts += [Text(), Text("\n".join(_explanation(result)), style="dim")]
    parts += [Text(line) for line in (*_formulas(result), *_notes(result))]
    best = result.recommended
    words = f"{MARK} {best.name}: least mean rank, {best.rank:.2f} of {len(result.metrics)} metrics"
    return render(console, *parts, Text(), Text(words, style="bold green"))


def _overall(result: MetricComparison, room: int) -> list[Table]:
    """Return the standings over all cells, with the mean error on each task."""
    settings = result.settings
    table = result.table()
    shorts = short_names(settings.tasks)
    tasks = [task for task in settings.tasks if any(cell[1] == task for cell in table.cells)]
    headings = ["", "metric", ">nodes", ">rank", ">error", ">area", f">p ({settings.baseline})"]
    headings += [f">{shorts[task]}" for task in tasks]
    rows: list[list[str]] = []
    styles: dict[int, str] = {}
    for standing in result.standings():
        entries = [e for e in result.measurements if e.metric == standing.name]
        errors = [_mean([e for e in entries if e.task == task]) for task in tasks]
        best = standing.name == result.recommended.name
        if best:
            styles[len(rows)] = "bold green"
        rows.append(
            [MARK if best else "", standing.name, str(standing.size), f"{standing.rank:.2f}",
             _with_spread(standing.error, standing.spread), f"{standing.area:.3f}",
             p_text(standing), *(f"{error:.3f}" for error in errors)]
        )  # fmt: skip
    tables = split_table(headings, rows, room, keys=2, styles=styles)
    tuned = settings.fine_tune
    state = f"after {tuned} mini-batches of fine-tuning" if tuned else "right after pruning"
    tables[0].title = f"Errors on the {settings.split} split, {state}"
    return tables


def _by_budget(result: MetricComparison, allocation: str, room: int) -> list[Table]:
    """Return the errors at each budget under an allocation."""
    entries = result.part(allocation)
    budgets = budgets_of(entries)
    headings = ["", "metric", ">rank", f">p ({result.settings.baseline})"]
    headings += [f">{short_budget(*budget)}" for budget in budgets]
    rows: list[list[str]] = []
    styles: dict[int, str] = {}
    for standing in result.standings(allocation):
        own = [e for e in entries if e.metric == standing.name]
        cells = [_budget_cell(own, budget) for budget in budgets]
        best = standing.name == result.recommended.name
        if best:
            styles[len(rows)] = "bold green"
        rows.append(
            [MARK if best else "", standing.name, f"{standing.rank:.2f}", p_text(standing), *cells]
        )
    tables = split_table(headings, rows, room, keys=2, styles=styles)
    tables[0].title = f"Allocation {allocation}: {_meaning(allocation)}"
    if allocation == PATTERN:
        tables[0].title = "Patterns: so many of each block of weights stay, the same in every layer"
    return tables


def _meaning(allocation: str) -> str:
    shared = allocation.removeprefix("by ")
    return ALLOCATIONS.get(allocation, f"each layer has the share that {shared} gives")


def budgets_of(entries: list[Measurement]) -> list[Budget]:
    """Return the budgets of measurements in their order."""
    return list(dict.fromkeys((entry.kind, entry.keep) for entry in entries))


def _budget_cell(entries: list[Measurement], budget: Budget) -> str:
    """Return the mean error over the tasks at a budget, with its deviation over the repeats."""
    own = [e for e in entries if (e.kind, e.keep) == budget]
    return _with_spread(_mean(own), spread_over_repeats(own))


def _mean(entries: list[Measurement]) -> float:
    return statistics.fmean(entry.error for entry in entries)


def _with_spread(mean: float, spread: float | None) -> str:
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"


def p_text(standing: Standing) -> str:
    """Return the p-value, after ``+`` for a better mean rank than the baseline's, else ``-``."""
    if standing.p is None:
        return ""
    value = "<.001" if standing.p < 0.001 else f"{standing.p:.3f}".removeprefix("0")
    return f"{'+' if standing.better else '-'} {value}"


def _explanation(result: MetricComparison) -> list[str]:
    settings = result.settings
    count = len(result.table().cells)
    lines = [
        "error: 0 as the dense network, 1 as the best constant guess; a mean",
        f"rank: mean over {count} cells (task, budget, allocation)",
        "area: mean height of the curves of error against budget",
        f"p: Wilcoxon against {settings.baseline} over cells, after Holm; + better, - worse rank",
    ]
    if any(standing.spread is not None for standing in result.standings()):
        lines.append("±: standard deviation over the seeds")
    test = result.friedman
    if test is not None:
        p = "< .001" if test.p < 0.001 else f"= {test.p:.3f}"
        lines.append(
            f"Friedman: p {p}; mean ranks differ at {ALPHA:g} from "
            f"{test.critical_difference:.2f} on (Nemenyi)"
        )
    if settings.split == "test":
        lines.append("These are errors on the test split: choose nothing by them.")
    return lines


def _formulas(result: MetricComparison) -> list[str]:
    """Return the formulas of the metrics that are not bundled, those that give shares too."""
    known = bundled_metrics()
    shown = {m.name: m for m in (*result.metrics, *result.shares) if m.name not in known}
    return [f"{name} = {metric.expression}" for name, metric in shown.items()]


def _notes(result: MetricComparison) -> list[str]:
    """Return what was left out, and which metrics cannot be used somewhere."""
    lines = list(result.notes)
    for metric in result.metrics:
        failed = [e for e in result.measurements if e.metric == metric.name and e.failure]
        if failed:
            cells = len({entry.cell for entry in failed})
            lines.append(
                f"{metric.name}: worst error in {cells} cells, first {failed[0].task}, "
                f"{describe_budget(failed[0].kind, failed[0].keep)}: {failed[0].failure}"
            )
    more = len(lines) - MOST_NOTES
    return lines[:MOST_NOTES] + ([f"and {more} more, in result.json"] if more > 0 else [])


def latex_tables(result: MetricComparison) -> str:
    """Return one table for each allocation, for the packages booktabs and graphicx.

    The least error of each column is bold.
    """
    return "\n".join(_latex_table(result, allocation) for allocation in result.allocations)


def _latex_table(result: MetricComparison, allocation: str) -> str:
    entries = result.part(allocation)
    budgets = budgets_of(entries)
    standings = result.standings(allocation)
    columns = [
        [_mean([e for e in entries if e.metric == s.name and (e.kind, e.keep) == budget])
         for s in standings]
        for budget in budgets
    ]  # fmt: skip
    head = [short_budget(*budget).replace("%", r"\,\%") for budget in budgets]
    lines = [
        rf"\begin{{tabular}}{{lrr{'r' * len(budgets)}}}",
        r"\toprule",
        " & ".join(["metric", "rank", "$p$", *head]) + r" \\",
        r"\midrule",
    ]
    for number, standing in enumerate(standings):
        cells = []
        for column in columns:
            text = f"{column[number]:.3f}"
            cells.append(rf"\textbf{{{text}}}" if column[number] == min(column) else text)
        p = "" if standing.p is None else f"${p_text(standing)[2:]}$"
        row = [escape(standing.name), f"{standing.rank:.2f}", p, *cells]
        lines.append(" & ".join(row) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return f"% allocation {allocation}, {result.settings.split} split\n" + "\n".join(lines) + "\n"
