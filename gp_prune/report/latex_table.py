"""A LaTeX table of metrics: name, formula, size, and what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from gp_prune.latex_lines import TEXT_WIDTH, paragraph
from gp_prune.metric import Metric
from gp_prune.report.document import escaped

_ROWS_OF_A_PAGE = 15
_LETTER = 5.25  # points of a letter of typewriter type
_GAP = 12.0  # points between two columns
_NUMBER = 32.0  # points of a column of numbers
_NARROWEST = 110.0
_RAGGED = r">{\raggedright\arraybackslash}"


def latex_table(metrics: Iterable[Metric]) -> str:
    """A booktabs table; with more rows than a page holds it is a ``longtable``.

    Formulas that are wider than their column are broken over lines. Where metric files have
    objectives, there is a column for each, its mean over the tasks of the file, and the formula
    stands below the numbers. Needs the packages amsmath, array, booktabs and longtable.
    """
    metrics = list(metrics)
    names = _objectives(metrics)
    long = len(metrics) > _ROWS_OF_A_PAGE
    environment = "longtable" if long else "tabular"
    columns, heads, rows = _stacked(metrics, names) if names else _side_by_side(metrics)
    lines = [
        rf"\begin{{{environment}}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *heads,
        r"\midrule",
        *([r"\endhead", r"\bottomrule", r"\endfoot"] if long else []),
        *rows,
        *([] if long else [r"\bottomrule"]),
        rf"\end{{{environment}}}",
    ]
    return "\n".join([r"{\lineskiplimit=3pt\lineskip=6pt", *lines]) + "}\n"


def _side_by_side(metrics: Sequence[Metric]) -> tuple[str, list[str], list[str]]:
    """Columns, heads and rows of a table without objectives."""
    longest = max(len(metric.name) for metric in metrics)
    width = max(TEXT_WIDTH - longest * _LETTER - _NUMBER - 2 * _GAP, _NARROWEST)
    rows = [
        _row(_name(metric), paragraph(metric.latex(), width), str(metric.expression.size))
        for metric in metrics
    ]
    return f"l{_RAGGED}p{{{width:.0f}pt}}r", [_row("metric", "formula", "size")], rows


def _stacked(metrics: Sequence[Metric], names: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Columns, heads and rows of a table with objectives: each formula below its numbers."""
    count = 1 + len(names)
    width = max(TEXT_WIDTH - count * (_NUMBER + _GAP), _NARROWEST)
    formula = rf"@{{\hspace{{1em}}}}{_RAGGED}p{{{TEXT_WIDTH - 15:.0f}pt}}@{{}}"
    rows = []
    for metric in metrics:
        means = [_mean(metric.objectives, name) for name in names]
        rows.append(_row(_name(metric), str(metric.expression.size), *means, closed=False))
        text = paragraph(metric.latex(), TEXT_WIDTH - 15)
        rows.append(_row(rf"\multicolumn{{{count + 1}}}{{{formula}}}{{{text}}}"))
    words = [escaped(name).replace(r"\_", r"\\") for name in names]
    heads = [rf"\shortstack[r]{{{lines}}}" for lines in words]
    tasks = sorted({task for metric in metrics for task in metric.objectives})
    over = f"means over {escaped(', '.join(tasks))}"
    note = [
        rf"\multicolumn{{{count + 1}}}{{r@{{}}}}{{{over}}} \\",
        rf"\cmidrule(l){{3-{count + 1}}}",
    ]
    return (
        f"{_RAGGED}p{{{width:.0f}pt}}{'r' * count}",
        [*note, _row("metric", "size", *heads)],
        rows,
    )


def _objectives(metrics: Iterable[Metric]) -> list[str]:
    """The names of all numbers that were measured, in the order in which the files have them."""
    found: dict[str, None] = {}
    for metric in metrics:
        for values in metric.objectives.values():
            if isinstance(values, Mapping):
                found.update((name, None) for name in values if _is_number(values[name]))
    return list(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(objectives: Mapping[str, Any], name: str) -> str:
    values = [v[name] for v in objectives.values() if isinstance(v, Mapping) and name in v]
    numbers = [value for value in values if _is_number(value)]
    return f"{fmean(numbers):.3f}" if numbers else ""


def _name(metric: Metric) -> str:
    return rf"\texttt{{{escaped(metric.name)}}}"


def _row(*cells: str, closed: bool = True) -> str:
    return " & ".join(cells) + (r" \\ \addlinespace" if closed else r" \\*")
