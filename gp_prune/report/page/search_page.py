"""The page of a search."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gp_prune.apply.own_task import short_names
from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.errors import pluralize
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.pruning.plan.channels import BUDGET_UNITS, short_budget
from gp_prune.report.page.common import Rows, closing_sections, count_of, exact, number
from gp_prune.report.page.formulas import FormulaPrinter
from gp_prune.report.page.parts import (
    Cell,
    Heading,
    Page,
    Part,
    Plot,
    Point,
    Row,
    Section,
    Series,
    Table,
)
from gp_prune.report.page.search_course import course_sections
from gp_prune.report.page.search_log import SearchLog, read_search_log
from gp_prune.report.recommendation import verdict
from gp_prune.search.comparison import PATTERN, Comparison, equal_kinds
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import BASELINES, Contender
from gp_prune.search.objectives import LATENCY, SIZE
from gp_prune.search.results import (
    FRONT,
    SearchResult,
    ladder_objectives,
    make_provenance,
)
from gp_prune.search.stored import read

AXES = {
    "error": "validation error right after pruning",
    "tuned_error": "validation error after fine-tuning",
    "macs": "share of MACs kept",
    "params": "share of parameters kept",
    LATENCY: "time of a forward pass, share",
    SIZE: "nodes of the formula",
}
_JUDGED = {"error": "right after pruning", "tuned_error": "after fine-tuning"}
_MOST_LAYERS = 400
"""Rows of a table of layers; networks of thousands of layers would make a page of megabytes."""


@dataclass(frozen=True)
class Entry:
    """A formula of the front or a baseline, as the page shows it.

    Attributes:
        name: its name.
        formula: its text.
        objectives: value of each objective of the search; NaN where it is not known.
        look: see :class:`~gp_prune.report.page.parts.Series`.
        key: of its row.
    """

    name: str
    formula: str
    objectives: dict[str, float]
    look: str
    key: str


def search_page(folder: Path, config: SearchConfig, primitives: PrimitiveSet) -> Page:
    """Return the page of a search that has ended or goes on.

    Args:
        folder: the run folder.
        config: its settings.
        primitives: the vocabulary; that of the settings, or a smaller one.

    Raises:
        UserError: a file of the run is missing or damaged.
    """
    log = read_search_log(folder)
    result = read(config, folder, primitives)
    printer = FormulaPrinter(primitives)
    entries = front_entries(result) if result else _entries_so_far(folder, config, log)
    recommended = next((entry for entry in entries if entry.look == "best"), None)
    tasks = ", ".join(short_names(config.tasks).values())
    table = _front(config, result, entries, printer)
    sections = [
        Section("Front", [*front_plots(config, log, entries), table]),
        *([_comparison(result)] if result and result.comparison.records else []),
        *course_sections(config, log, result, printer),
        *_layers(config, log),
        *closing_sections(
            folder, "evolve", config, _settings(config, log), log.begun.get("versions", {}),
            _counts(config, log, result),
            [("ended early", Cell(log.stopped))] if log.stopped else (),
        ),
    ]  # fmt: skip
    return Page(
        title=f"Search for {config.granularity} metrics",
        summary=[f"Tasks: {tasks}. Seed {config.seed}.", *_summary(config, log, result)],
        sections=sections,
        formula=printer.cell(recommended.formula) if recommended else None,
        formula_name=recommended.name if recommended else "",
        running=result is None,
    )


def _summary(config: SearchConfig, log: SearchLog, result: SearchResult | None) -> list[str]:
    if result is None:
        done = log.turns[-1].number if log.turns else 0
        return [f"The run has not ended: generation {done} of {config.generations} is done."]
    if not result.comparison.records:
        return ["The formulas were not compared with published metrics (--no-comparison)."]
    first, *_ = verdict(result)
    return [f"Test error of {result.recommended.name} {first}."]


def front_entries(result: SearchResult) -> list[Entry]:
    """Return the formulas of the front and the baselines of a search that has ended."""
    entries = []
    for count, contender in enumerate(result.contenders):
        values = {**ladder_objectives(result, contender), SIZE: float(contender.expression.size)}
        objectives = {name: values[name] for name in result.config.names}
        best = contender is result.recommended
        look = "best" if best else _look(contender)
        text = str(contender.expression)
        entries.append(Entry(contender.name, text, objectives, look, f"f{count}"))
    return entries


def _look(contender: Contender) -> str:
    if contender.candidate is not None:
        return "front"
    looks = (("random", "random"), ("uniform", "random"), ("l1", "l1"), ("magnitude", "l1"))
    for start, look in looks:
        if contender.name.startswith(start):
            return look
    return "published"


def _entries_so_far(folder: Path, config: SearchConfig, log: SearchLog) -> list[Entry]:
    """Return the front of a run that goes on, least error first."""
    if not log.turns:
        return []
    try:
        table = read_file(folder / FRONT, MOST_JSON).decode()
        names = {row["formula"]: row["name"] for row in csv.DictReader(io.StringIO(table))}
    except (OSError, ValueError, KeyError):  # it is written after the journal
        names = {}
    return [
        Entry(
            names.get(text, f"formula {count + 1}"), text,
            dict(zip(config.names, objectives, strict=True)), "front", f"f{count}",
        )
        for count, (text, objectives) in enumerate(log.turns[-1].front)
    ]  # fmt: skip


def front_plots(config: SearchConfig, log: SearchLog, entries: Sequence[Entry]) -> list[Plot]:
    """Return a plot of the error over each other objective."""
    names = config.names
    error = names[0]
    plots: list[Plot] = []
    for place, name in enumerate(names[1:], start=1):
        cloud = [
            (objectives[place], objectives[0])
            for rung, objectives in log.tried.values()
            if rung == config.top_rung and len(objectives) == len(names)
        ]
        series = []
        for look, title in (
            ("random", BASELINES[config.granularity][0]), ("l1", "L1"),
            ("published", "best published"),
            ("front", "front"), ("best", "recommended"),
        ):  # fmt: skip
            points = [
                Point(entry.objectives[name], entry.objectives[error], entry.name, entry.key)
                for entry in entries
                if entry.look == look and not math.isnan(entry.objectives[name])
            ]
            if points:
                series.append(Series(title, look, sorted(points, key=lambda p: p.x)))
        plots.append(
            Plot("", AXES[name], AXES[error], series, cloud, "all that were tried", zero=True)
        )
    return plots


def _front(
    config: SearchConfig,
    result: SearchResult | None,
    entries: Sequence[Entry],
    printer: FormulaPrinter,
) -> Table:
    headings = ["metric", "formula", *(AXES[name] for name in config.names)]
    by_name = {contender.name: contender for contender in result.contenders} if result else {}
    compared = bool(result and result.comparison.records)
    unseen = bool(result and compared and config.validation_tasks)
    if compared:
        headings += [f"test error, {_equal(kind)}" for kind in equal_kinds(config)]
    if unseen:
        headings += ["test error, unseen tasks"]
    rows = []
    for entry in entries:
        cells = [Cell(entry.name), printer.cell(entry.formula)]
        cells += [number(entry.objectives[name], whole=name == SIZE) for name in config.names]
        if result and compared:
            cells += [
                number(result.comparison.mean(entry.name, "test", kind=kind))
                for kind in equal_kinds(config)
            ]
        if result and unseen:
            cells.append(number(result.unseen_error(by_name[entry.name], "test")))
        rows.append(Row(cells, entry.key, entry.look == "best"))
    return Table(headings, rows, "Front and baselines" if compared else "")


def _comparison(result: SearchResult) -> Section:
    """Return errors per task and budget of the recommended formula and the baselines."""
    shown = _compared(result)
    config = result.config
    parts: list[Part] = [
        "An error is 0 for the dense network and 1 for the best guess that does not look at the "
        "input. The test split decided nothing."
    ]
    whole, held_out = _with_held_out(result)
    shorts = short_names([*config.tasks, *held_out])
    for kind in equal_kinds(config):
        if kind == PATTERN:  # a point and no curve
            continue
        parts += [Heading(f"At equal {BUDGET_UNITS[kind]}"), *error_plots(result, kind)]
    for error in dict.fromkeys(record.error for record in result.comparison.records):
        rows = []
        measured = {
            task: short
            for task, short in shorts.items()
            if any(whole.part(name, task=task, error=error) for name in shown)
        }
        for kind in equal_kinds(config):
            for name in shown:
                if not whole.part(name, kind=kind, error=error):
                    continue
                cells = [Cell(name), Cell(_equal(kind))]
                cells.append(number(result.comparison.mean(name, "test", kind=kind, error=error)))
                for task in measured:
                    given = {"kind": kind, "task": task, "error": error}
                    # After fine-tuning not all of them are measured on every task.
                    there = whole.part(name, **given)
                    cells.append(number(whole.mean(name, "test", **given) if there else math.nan))
                rows.append(Row(cells, best=name == result.recommended.name))
        headings = ["metric", "budget", "tasks of the search", *measured.values()]
        parts.append(Table(headings, rows, f"Test error {_JUDGED[error]}"))
    parts += [Heading("In words"), *(f"{line[0].upper()}{line[1:]}." for line in verdict(result))]
    if config.granularity == "layer":
        return Section("Against uniform shares and those of L1 and GECCO 2", parts)
    return Section("Against random, L1 and the best published metric", parts)


def _equal(kind: str) -> str:
    """Return what is equal for all, for a table."""
    return f"equal {BUDGET_UNITS[kind]}" if kind in BUDGET_UNITS else kind


def _with_held_out(result: SearchResult) -> tuple[Comparison, list[str]]:
    """Return the comparison on all tasks, and the names of those that were not in the search."""
    records = result.comparison.records + result.held_out.records
    return Comparison(records, result.config), sorted({r.task for r in result.held_out.records})


def _compared(result: SearchResult) -> list[str]:
    """Return the names of the recommended formula and of the baselines."""
    baselines = [c for c in result.contenders if c.candidate is None]
    return [*dict.fromkeys(c.name for c in (result.recommended, *baselines))]


def error_plots(result: SearchResult, kind: str) -> list[Plot]:
    """Return a plot for each task: the test error over the share that is kept.

    Args:
        result: of the search.
        kind: what is equal for all, ``"macs"`` or ``"params"``.
    """
    config = result.config
    whole, held_out = _with_held_out(result)
    looks = {entry.name: entry.look for entry in front_entries(result)}
    plots = []
    for task, short in short_names([*config.tasks, *held_out]).items():
        series = [
            Series(
                name,
                _look_beside(config, name, looks[name]),
                _error_points(whole, name, kind, task),
                line=True,
            )
            for name in reversed(_compared(result))
        ]
        title = f"{short}, not in the search" if task in held_out else short
        x, y = f"share of {BUDGET_UNITS[kind]} kept", f"test error {_JUDGED[config.errors[0]]}"
        plots.append(Plot(title, x, y, series, zero=True))
    return plots


def _look_beside(config: SearchConfig, name: str, look: str) -> str:
    """Return the look of a baseline beside the same one under other conventions."""
    under_this_run = name.endswith(f"_{config.scope}") and look in ("random", "l1")
    return f"{look} alike" if under_this_run else look


def _error_points(comparison: Comparison, name: str, kind: str, task: str) -> list[Point]:
    """Return the mean test error over the repeats at each budget."""
    cells: dict[float, list[float]] = {}
    for record in comparison.part(name, kind=kind, task=task):
        cells.setdefault(record.keep, []).append(record.test)
    return [Point(keep, fmean(errors), name) for keep, errors in sorted(cells.items())]


def _layers(config: SearchConfig, log: SearchLog) -> list[Section]:
    """Return what the recommended formula keeps of each layer."""
    if not log.shares:
        return []
    unit = "weights" if config.granularity == "weight" else "channels"
    parts: list[Part] = [f"{unit.capitalize()} that the recommended formula keeps of each layer."]
    shorts = short_names(dict.fromkeys(shares.task for shares in log.shares))
    for count, (task, short) in enumerate(shorts.items()):
        columns = [shares for shares in log.shares if shares.task == task]
        headings = ["layer", *(short_budget(c.budget, c.keep) for c in columns)]
        rows = []
        names = [name for name, _, _ in columns[0].layers]
        for index, name in enumerate(names[:_MOST_LAYERS]):
            cells = [Cell(name)]
            for column in columns:
                _, kept, of = column.layers[index]
                cells.append(count_of(kept, of))
            rows.append(Row(cells))
        left = len(names) - len(rows)
        more = f" ({left} more layers are left out)" if left else ""
        parts.append(Table(headings, rows, short + more, folded=bool(count)))
    return [Section("Kept of every layer", parts)]


def _counts(config: SearchConfig, log: SearchLog, result: SearchResult | None) -> Rows:
    rows: list[tuple[str, Cell]] = []
    if log.turns:
        last = log.turns[-1]
        same = last.assessed - last.behaviours
        rows += [
            ("formulas tried", exact(last.assessed)),
            ("of these, known by the plan of another formula (cache hits)", exact(same)),
            ("different plans, evaluated", exact(last.behaviours)),
            ("networks pruned and measured in the search", exact(last.evaluations)),
        ]
    rows += [
        ("networks pruned and measured in all", exact(log.evaluations)),
        ("mini-batches of fine-tuning", exact(log.batches)),
    ]
    for rung in range(config.top_rung + 1):
        steps = config.steps(rung)
        samples = config.rung_samples if rung < config.top_rung else 0
        on = f"at most {samples} samples" if samples else "all validation samples"
        words = f"formulas whose last rung is {rung} ({pluralize(steps, 'mini-batch')}, {on})"
        rows.append((words, exact(log.rungs[rung])))
    if result is not None and result.failures:
        rows.append(("evaluations that failed", exact(len(result.failures))))
    return rows


def _settings(config: SearchConfig, log: SearchLog) -> dict[str, Any]:
    begun: dict[str, Any] = {name: log.begun.get(name, value) for name, value in
                             config.to_json().items()}  # fmt: skip
    versions = log.begun.get("versions", {})
    settings: dict[str, Any] = make_provenance(config, {**begun, "versions": versions})["settings"]
    return settings
