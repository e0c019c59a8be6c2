"""Print the result of a search as tables, and show its progress."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import IO, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gp_prune.errors import pluralize
from gp_prune.report.console import MARK, BarState, make_console, new_table, render, show_progress
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import Contender, Record
from gp_prune.search.nsga2 import Generation
from gp_prune.search.results import SearchResult, ladder_objectives
from gp_prune.search.run import SearchProgress

PLAIN_WIDTH = 160
"""Characters per line where the output is not a terminal."""

NARROW = 120
"""Below this width the formulas do not fit beside the figures."""

FAILURES = 10
"""Most evaluations that are listed because a limit or the user ended them."""

_BUDGETS = {"macs": "equal MACs", "params": "equal params"}
_STAGES = {"tasks": "networks", "search": "generations", "compare": "comparison"}


def result_lines(result: SearchResult, stream: IO[str]) -> list[str]:
    """Return the front and the comparison by task as lines for a stream.

    They are in colour on a terminal. On a narrow one the formulas are below the front.
    """
    console = make_console(stream, PLAIN_WIDTH)
    narrow = console.width < NARROW
    parts: list[RenderableType] = [_front_table(result, with_formulas=not narrow)]
    if narrow:
        parts += [
            Text(f"{contender.name} = {contender.expression}") for contender in result.contenders
        ]
    parts += [Text(_explanation(result), style="dim"), Text(), _task_table(result, brief=narrow)]
    parts += [Text(line) for line in _failure_lines(result)]
    return render(console, *parts)


def _failure_lines(result: SearchResult) -> list[str]:
    """Return what has the worst error because it exceeded a limit or was set aside."""
    failures = result.failures
    if not failures:
        return []
    lines = [
        f"{pluralize(len(failures), 'evaluation')} ended by a limit of this run or set aside by "
        "--skip-lost (counted as the worst error):"
    ]
    shown = list(failures.items())[:FAILURES]
    lines += [f"  {title}: {reason}" for title, reason in shown]
    return lines + ([f"  and {len(failures) - FAILURES} more"] if len(failures) > FAILURES else [])


def _front_table(result: SearchResult, *, with_formulas: bool) -> Table:
    """Return a table with a row for every formula of the front and every baseline."""
    budgets = _budgets(result)
    table = new_table(
        f"Pareto front: {result.assessed} formulas tried, {result.behaviours} behaviours",
        ["", ">size", ">error", ">MACs", ">params", *(f">{_BUDGETS[budget]}" for budget in budgets),
         "metric"],
    )  # fmt: skip
    if with_formulas:
        table.add_column("formula", overflow="fold", min_width=24)
    header = ["", "", "val/test", "kept", "kept", *("val/test" for _ in budgets)]
    table.add_row(*header, style="dim")
    for contender in result.contenders:
        row = _figures(result, contender)
        pairs = [row["ladder"], *(row[f"equal_{budget}"] for budget in budgets)]
        ladder, *equal = (f"{pair['validation']:.3f}/{pair['test']:.3f}" for pair in pairs)
        kept = [f"{row['ladder'][name]:.3f}" for name in ("macs", "params")]
        mark = MARK if row["recommended"] else ""
        texts = [mark, str(row["size"]), ladder, *kept, *equal, row["name"], row["formula"]]
        # As Text, because in a plain string rich takes [i,k] for markup.
        cells = [Text(text) for text in texts[: len(table.columns)]]
        table.add_row(*cells, style="bold green" if row["recommended"] else "")
    return table


def _figures(result: SearchResult, contender: Contender) -> dict[str, Any]:
    """Return what was measured of a formula as a JSON object."""
    validation, macs, params, test = ladder_objectives(result, contender)
    equal = {
        f"equal_{budget}": {
            split: result.comparison.mean(contender.name, split, kind=budget)
            for split in ("validation", "test")
        }
        for budget in _budgets(result)
    }
    return {
        "name": contender.name,
        "formula": str(contender.expression),
        "size": contender.expression.size,
        "evolved": contender.candidate is not None,
        "recommended": contender is result.recommended,
        "ladder": {"validation": validation, "test": test, "macs": macs, "params": params},
        **equal,
    }


def _task_table(result: SearchResult, *, brief: bool) -> Table:
    """Return the test errors of the recommended formula and the baselines, task by task.

    ``brief`` leaves out the errors in the unit of the task.
    """
    shares = ", ".join(f"{share:.0%}" for share in result.config.budgets)
    title = f"Test error at equal budgets ({shares} kept), mean and standard deviation"
    table = new_table(title, ["", "metric", "budget"], padding=2)
    for heading in (*result.config.tasks, "mean", "kept"):
        table.add_column(heading, justify="right")
    shown = [result.recommended, *(c for c in result.contenders if c.candidate is None)]
    for budget in _budgets(result):
        for contender in shown:
            best = contender is result.recommended
            cells = [
                _task_cell(result, contender, budget, task, brief) for task in result.config.tasks
            ]
            mean = result.comparison.mean(contender.name, "test", kind=budget)
            spread = result.comparison.spread(contender.name, "test", kind=budget)
            table.add_row(
                MARK if best else "", contender.name, _BUDGETS[budget], *cells,
                f"{mean:.3f} ± {spread:.3f}",
                f"{result.comparison.mean(contender.name, budget, kind=budget):.3f}",
                style="bold green" if best else "",
            )  # fmt: skip
    return table


def _task_cell(
    result: SearchResult, contender: Contender, budget: str, task: str, brief: bool
) -> str:
    rows: list[Record] = result.comparison.part(contender.name, kind=budget, task=task)
    values = [
        statistics.fmean(row.test for row in rows if row.repeat == repeat)
        for repeat in sorted({row.repeat for row in rows})
    ]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    raw = statistics.fmean(row.raw_test for row in rows)
    natural = f"{raw:.1%}" if result.kinds[task] == "classification" else f"mse {raw:.4f}"
    relative = f"{statistics.fmean(values):.3f} ± {spread:.3f}"
    return relative if brief else f"{relative} ({natural})"


def _explanation(result: SearchResult) -> str:
    ladder = ", ".join(f"{share:.0%}" for share in result.config.ladder)
    budgets = ", ".join(f"{share:.0%}" for share in result.config.budgets)
    unit = "channels" if result.config.granularity == "channel" else "weights"
    return (
        "error: 0 as the dense network, 1 as the best constant guess; mean over the tasks\n"
        f"error, MACs, params: {ladder} of the {unit} kept; equal MACs, equal params: "
        f"errors at {budgets} of them kept\n"
        f"NAME_{result.config.scope}: a published metric under the conventions of this run"
    )


def interim_lines(front: Sequence[Candidate], stream: IO[str]) -> list[str]:
    """Return the front of a run that was stopped as lines for a stream."""
    table = new_table("Pareto front so far", [">size", ">error", ">MACs", ">params"])
    table.add_column("formula", overflow="fold", min_width=24)
    for candidate in front:
        figures = [f"{value:.3f}" for value in candidate.objectives]
        size = str(candidate.expression.size)
        table.add_row(size, *figures, Text(str(candidate.expression)))
    return render(make_console(stream, PLAIN_WIDTH), table)


def interim_json(folder: str, front: Sequence[Candidate]) -> dict[str, Any]:
    """Return the front of a run that was stopped as a JSON object."""
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


def recommendation(result: SearchResult) -> str:
    """Return the recommended formula, the rule of its choice and its error on the test split.

    The lines are never wrapped, so that the LaTeX can be copied.
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


def verdict(result: SearchResult) -> list[str]:
    """Compare the recommended formula with every baseline on the test split.

    Returns:
        A line for each kind of budget: the mean error of the formula, and for every baseline its
        mean error and the number of tasks on which the formula has less.
    """
    best = result.recommended.name
    tasks = result.config.tasks
    lines = []
    for budget in _budgets(result):
        error = result.comparison.mean(best, "test", kind=budget)
        against = []
        for contender in result.contenders:
            if contender.candidate is not None or contender.name == best:
                continue
            other = result.comparison.mean(contender.name, "test", kind=budget)
            wins = sum(
                result.comparison.mean(best, "test", kind=budget, task=task)
                < result.comparison.mean(contender.name, "test", kind=budget, task=task)
                for task in tasks
            )
            word = "below" if error < other else "NOT below"
            against.append(f"{word} {contender.name} {other:.3f} ({wins} of {len(tasks)} tasks)")
        lines.append(f"at {_BUDGETS[budget]}: {error:.3f}, {', '.join(against)}")
    return lines


def _budgets(result: SearchResult) -> list[str]:
    present = {record.kind for record in result.comparison.records}
    return [budget for budget in _BUDGETS if budget in present]


def result_json(result: SearchResult) -> dict[str, Any]:
    """Return the result as a JSON object: front, baselines, recommendation and verdict."""
    return {
        "folder": str(result.folder),
        "assessed": result.assessed,
        "behaviours": result.behaviours,
        "recommended": result.recommended.name,
        "verdict": verdict(result),
        "failures": [
            {"evaluation": title, "reason": reason} for title, reason in result.failures.items()
        ],
        "contenders": [_figures(result, contender) for contender in result.contenders],
    }


def progress_display(*, quiet: bool) -> AbstractContextManager[Callable[[SearchProgress], None]]:
    """Show the stages of a search, see :func:`gp_prune.report.console.show_progress`.

    A log has a line for each generation, and for each quarter of another stage.
    """
    printed: set[tuple[str, int]] = set()

    def to_line(now: SearchProgress) -> str:
        if now.generation is not None:
            return f"generation {now.done}/{now.of}: {_note(now.generation)}"
        quarter = (now.stage, now.done * 4 // max(1, now.of))
        if now.stage not in _STAGES or quarter in printed:
            return ""
        printed.add(quarter)
        return f"{_STAGES[now.stage]}: {now.done}/{now.of}"

    return show_progress(_STAGES, _bar, to_line, quiet=quiet)


def _bar(now: SearchProgress) -> BarState:
    return now.stage, now.done, now.of, _note(now.generation) if now.generation else ""


def _note(generation: Generation) -> str:
    best = generation.front[0]
    complete = generation.complete
    in_full = "" if complete == generation.behaviours else f" ({complete} in full)"
    return (
        f"{generation.assessed} formulas ({generation.rejected} more refused), "
        f"{generation.behaviours} behaviours{in_full}, "
        f"front {len(generation.front)}, "
        f"least error {best.objectives[0]:.3f} by {best.expression}"
        f"{'; ends here: ' + generation.stopped if generation.stopped else ''}"
    )
