"""Print the result of a search as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import IO, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gp_prune.apply.own_task import short_name
from gp_prune.errors import pluralize
from gp_prune.pruning.plan.channels import BUDGET_UNITS
from gp_prune.report.console import (
    MARK,
    make_console,
    new_table,
    render,
    split_table,
)
from gp_prune.report.recommendation import (
    BUDGET_NAMES,
    choosing_tasks,
    compared_budgets,
    compared_errors,
    verdict,
)
from gp_prune.search.comparison import PATTERN, Record, equal_kinds
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.leave_one_out import LeftOut
from gp_prune.search.nsga2 import Generation
from gp_prune.search.objectives import LATENCY, SIZE
from gp_prune.search.results import SearchResult, ladder_objectives
from gp_prune.search.start_formulas import select_name

PLAIN_WIDTH = 160
"""Characters per line where the output is not a terminal."""

NARROW = 120
"""Below this width the errors of a task are not given in its own unit."""

_FORMULA = "formula"

FAILURES = 10
"""Most evaluations that are listed because a limit or the user ended them."""

_HEADINGS = {
    "error": "error", "tuned_error": "tuned error", "macs": "MACs", "params": "params",
    "latency": "latency",
}  # fmt: skip
_UNITS = {
    "error": "val/test", "tuned_error": "val/test", "macs": "kept", "params": "kept",
    "latency": "share",
}  # fmt: skip
_JUDGED = {"error": "pruned", "tuned_error": "fine-tuned"}
_MEANS = {"log": "geometric mean", "mean": "mean"}
"""Kind of a budget -> what it counts."""


def result_lines(result: SearchResult, stream: IO[str]) -> list[str]:
    """Return the front and the comparison by task as lines for a stream.

    They are in colour on a terminal. On a narrow one the formulas are below the front, and what
    does not fit beside the names is in further tables.
    """
    console = make_console(stream, PLAIN_WIDTH)
    tables = _front_tables(result, console.width)
    narrow = console.width < NARROW
    parts: list[RenderableType] = [*tables]
    if tables[-1].columns[-1].header != _FORMULA:
        parts += [
            Text(f"{contender.name} = {contender.expression}") for contender in result.contenders
        ]
    parts.append(Text(_explanation(result), style="dim"))
    if result.comparison.records:
        parts += [Text(), *_task_tables(result, console.width, brief=narrow)]
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


def _front_tables(result: SearchResult, room: int) -> list[Table]:
    """Return tables with a row for every formula of the front and every baseline.

    The formulas are the last column, if there is room for them.
    """
    budgets = compared_budgets(result)
    measured = [name for name in result.config.names if name != SIZE]
    headings = [
        "", "metric", ">size", *(f">{_HEADINGS[name]}" for name in measured),
        *(f">{BUDGET_NAMES[budget]}" for budget in budgets),
    ]  # fmt: skip
    units = [_UNITS[name] if budgets else _UNITS[name].removesuffix("/test") for name in measured]
    rows = [["", "", "", *units, *("val/test" for _ in budgets)]]
    unseen = choosing_tasks(result)
    if unseen:
        headings.append(">unseen")
        rows[0].append("val/test")
    styles = {0: "dim"}
    formulas = [_FORMULA, ""]
    for contender in result.contenders:
        row = _figures(result, contender)
        ladder = [_cell(row["ladder"], name) for name in measured]
        equal = [_pair(row[f"equal_{budget}"]) for budget in budgets]
        equal += [_pair(row["unseen"])] if unseen else []
        mark = MARK if row["recommended"] else ""
        if mark:
            styles[len(rows)] = "bold green"
        rows.append([mark, row["name"], str(row["size"]), *ladder, *equal])
        formulas.append(row["formula"])
    tables = split_table(headings, rows, room, keys=2, styles=styles, text=formulas)
    tried = f"{result.assessed} formulas tried, {result.behaviours} behaviours"
    tables[0].title = f"Pareto front: {tried}"
    return tables


def _pair(errors: Mapping[str, float]) -> str:
    """Format the errors on the validation and on the test split."""
    return f"{errors['validation']:.3f}/{errors['test']:.3f}"


def _cell(ladder: Mapping[str, float], name: str) -> str:
    """Return the value of an objective; of an error also the test error, where it was measured."""
    tested = ladder.get(f"test_{name}")
    if tested is not None:
        return f"{ladder[name]:.3f}/{tested:.3f}"
    return "" if math.isnan(ladder[name]) else f"{ladder[name]:.3f}"


def _figures(result: SearchResult, contender: Contender) -> dict[str, Any]:
    """Return what was measured of a formula as a JSON object."""
    equal = {
        f"equal_{budget}": {
            split: result.comparison.mean(contender.name, split, kind=budget)
            for split in ("validation", "test")
        }
        for budget in compared_budgets(result)
    }
    unseen = {}
    if choosing_tasks(result):
        splits = ("validation", "test")
        unseen["unseen"] = {split: result.unseen_error(contender, split) for split in splits}
    return {
        "name": contender.name,
        "formula": str(contender.expression),
        "size": contender.expression.size,
        "evolved": contender.candidate is not None,
        "recommended": contender is result.recommended,
        "ladder": ladder_objectives(result, contender),
        **equal,
        **unseen,
    }  # fmt: skip


def _task_tables(result: SearchResult, room: int, *, brief: bool) -> list[Table]:
    """Return the test errors of the recommended formula and the baselines, task by task.

    ``brief`` leaves out the errors in the unit of the task.
    """
    asked = _shares(result.config.budgets, "kept", result.config)
    tasks = [f">{short_name(task)}" for task in result.config.tasks]
    headings = ["", "metric", "budget", "judged", *tasks]
    headings += [">mean", ">kept"]
    rows: list[list[str]] = []
    styles: dict[int, str] = {}
    shown = [result.recommended, *(c for c in result.contenders if c.candidate is None)]
    for budget in compared_budgets(result):
        for error in compared_errors(result):
            for contender in shown:
                if not result.comparison.part(contender.name, kind=budget, error=error):
                    continue
                best = contender is result.recommended
                if best:
                    styles[len(rows)] = "bold green"
                parts = [(budget, task, error) for task in (*result.config.tasks, None)]
                cells = [_task_cell(result, contender, part, brief) for part in parts]
                counted = "params" if budget == PATTERN else budget
                kept = result.comparison.mean(contender.name, counted, kind=budget, error=error)
                rows.append(
                    [MARK if best else "", contender.name, BUDGET_NAMES[budget], _JUDGED[error],
                     *cells, f"{kept:.3f}"]
                )  # fmt: skip
    tables = split_table(headings, rows, room, keys=4, styles=styles, padding=1 if brief else 2)
    title = f"Test error at equal budgets ({asked}), ± the standard deviation of repeats"
    tables[0].title = title
    return tables


def _task_cell(
    result: SearchResult, contender: Contender, part: tuple[str, str | None, str], brief: bool
) -> str:
    """Return the test error of a formula: relative, and as the task measures it.

    Args:
        result: of the search.
        contender: the formula.
        part: kind of budget, name of the task or None for all, and which error.
        brief: whether to leave out the error as the task measures it.
    """
    kind, task, error = part
    rows: list[Record] = result.comparison.part(contender.name, kind=kind, task=task, error=error)
    mean = result.comparison.mean(contender.name, "test", kind=kind, task=task, error=error)
    relative = f"{mean:.3f}"
    if any(row.repeat for row in rows):
        spread = result.comparison.spread(contender.name, "test", kind=kind, task=task, error=error)
        relative += f" ± {spread:.3f}"
    if brief or task is None:
        return relative
    raw = statistics.fmean(row.raw_test for row in rows)
    natural = _natural(raw, result.kinds[task])
    return f"{relative} ({natural})"


def _natural(error: float, kind: str) -> str:
    """Return an error as the task measures it, of a language model as its perplexity."""
    if kind == "classification":
        return f"{error:.1%}"
    return f"ppl {math.exp(error):.3g}" if kind == "language" else f"mse {error:.4f}"


def _explanation(result: SearchResult) -> str:
    config = result.config
    units = " or ".join(BUDGET_UNITS[kind] for kind in config.budget_kind)
    ladder = _shares(config.ladder, f"of the {units} kept", config)
    shown = ", ".join(_HEADINGS[name] for name in config.names if name != SIZE)
    budgets = ", ".join(f"{share:.0%}" for share in config.budgets)
    equal = f"; equal MACs, equal params: errors at {budgets} of them kept" if budgets else ""
    lines = [
        f"error: 0 as the dense network, 1 as the best constant guess; {_MEANS[config.aggregate]} "
        "over the tasks",
        f"{shown}: {ladder}{equal if result.comparison.records else ''}",
        f"shares of layers, channels by {select_name(config.select)}; uniform: the same of every "
        "layer; l1, gecco_2: as their global rankings cut"
        if config.granularity == "layer"
        else f"NAME_{config.scope}: a published metric under the conventions of this run",
    ]
    names = ", ".join(choosing_tasks(result))
    if names:
        lines.append(f"unseen: errors at equal MACs and params on {names}, not in the search")
    if LATENCY in config.names:
        lines.append("latency was measured: another run with these settings finds other values")
    return "\n".join(lines)


def _shares(shares: Sequence[float], kept: str, config: SearchConfig) -> str:
    """Return shares, with what is kept of which, and patterns."""
    texts = [f"{', '.join(f'{share:.0%}' for share in shares)} {kept}"] if shares else []
    texts += [f"pattern {pattern}" for pattern in config.pattern]
    return ", ".join(texts)


def interim_lines(generation: Generation, stream: IO[str]) -> list[str]:
    """Return the front of a run that was stopped as lines for a stream."""
    measured = [name for name in generation.objectives if name != SIZE]
    headings = [f">{_HEADINGS[name]}" for name in measured]
    table = new_table("Pareto front so far", [">size", *headings])
    table.add_column("formula", overflow="fold", min_width=24)
    for candidate in generation.front:
        values = dict(zip(generation.objectives, candidate.objectives, strict=True))
        figures = [f"{values[name]:.3f}" for name in measured]
        size = str(candidate.expression.size)
        table.add_row(size, *figures, Text(str(candidate.expression)))
    return render(make_console(stream, PLAIN_WIDTH), table)


def interim_json(folder: str, generation: Generation) -> dict[str, Any]:
    """Return the front of a run that was stopped as a JSON object."""
    rows = [
        {
            "formula": str(candidate.expression),
            "size": candidate.expression.size,
            "ladder": dict(zip(generation.objectives, candidate.objectives, strict=True)),
        }
        for candidate in generation.front
    ]
    return {"folder": folder, "interrupted": True, "front": rows}


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


def left_out_lines(left: Sequence[LeftOut], stream: IO[str]) -> list[str]:
    """Return what each winner does on the task that its search left out, as lines for a stream."""
    console = make_console(stream, PLAIN_WIDTH)
    kinds = [*dict.fromkeys(kind for one in left for kind in equal_kinds(one.result.config))]
    headings = ["", "left out", "metric", *(f">{BUDGET_NAMES[kind]}" for kind in kinds)]
    rows: list[list[str]] = []
    styles: dict[int, str] = {}
    for one in left:
        for name, errors in one.errors().items():
            best = name == one.result.recommended.name
            if best:
                styles[len(rows)] = "bold green"
            figures = [f"{errors[kind]:.3f}" for kind in kinds]
            rows.append([MARK if best else "", short_name(one.task), name, *figures])
    parts: list[RenderableType] = [
        *split_table(headings, rows, console.width, keys=3, styles=styles)
    ]
    parts += [
        Text(f"{one.result.recommended.name} = {one.result.recommended.expression}") for one in left
    ]
    explanation = (
        "test error on the task left out, whose errors neither the search nor the choice of its "
        f"winner ({MARK}) has used"
    )
    return render(console, *parts, Text(explanation, style="dim"))


def left_out_json(left: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Return what each winner does on the task that its search left out, as JSON."""
    return [
        {
            "left_out": one.task,
            "folder": str(one.result.folder),
            "recommended": one.result.recommended.name,
            "formula": str(one.result.recommended.expression),
            "test_error": one.errors(),
        }
        for one in left
    ]
