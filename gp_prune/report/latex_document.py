"""Write metrics as a LaTeX document, or as a table of name, formula, size and objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from gp_prune.formula.latex import definitions, escape
from gp_prune.formula.line_breaking import (
    QUOTIENT,
    TEXT_WIDTH,
    displayed,
    has_inline_quotient,
    paragraph,
)
from gp_prune.language.axes import AXIS_MEANING
from gp_prune.language.primitive import Operand
from gp_prune.metric.metric import Metric
from gp_prune.report.text import printable


def standalone(metrics: Iterable[Metric], body: str = "") -> str:
    """Return a document for ``pdflatex`` with a page per metric, or with the given body.

    It explains every symbol in the formulas.

    Args:
        metrics: the metrics of the document.
        body: LaTeX to show instead of the pages, such as a table; the explanations follow it.
    """
    metrics = list(metrics)
    pages = "\n\\newpage\n".join(map(_section, metrics))
    return (
        "\\documentclass{article}\n"
        "\\usepackage{amsmath,amssymb,array,booktabs,longtable}\n"
        "\\begin{document}\n"
        "\\raggedright\n"
        f"{body + _legend(metrics) if body else pages}"
        "\\end{document}\n"
    )


def _section(metric: Metric) -> str:
    index = ",".join(metric.expression.axes)
    lines = [f"\\section*{{{escape(metric.name)}}}"]
    if metric.description:
        first, rest = metric.description[0], metric.description[1:]
        lines.append(f"{escape(first.upper() + rest)}.")
    if metric.source:
        lines.append(f"Source: {escape(metric.source)}.")
    score = f"\\mathrm{{score}}_{{{index}}} = {metric.latex()}"
    lines += [
        f"A higher score keeps the {metric.granularity}:",
        displayed(score),
        *_signs([metric]),
        *_definitions([metric]),
    ]
    return "\n".join(lines) + "\n"


def _legend(metrics: Iterable[Metric]) -> str:
    return "\n".join(["\\par\\bigskip", *_signs(metrics), *_definitions(metrics)]) + "\n"


def _definitions(metrics: Iterable[Metric]) -> list[str]:
    """Return the definitions of the protected and named forms, as displayed formulas."""
    lines = dict.fromkeys(
        line for metric in metrics for line in definitions(metric.sympy(), metric.primitives)
    )
    if any(has_inline_quotient(displayed(metric.latex())) for metric in metrics):
        lines[QUOTIENT] = None
    return [displayed(line) for line in lines]


def _signs(metrics: Iterable[Metric]) -> list[str]:
    """Return the meanings of the operands and their indices, as a sentence each."""
    nodes = [node for metric in metrics for node in metric.expression.nodes()]
    operands = {n.name: n.head for n in nodes if isinstance(n.head, Operand)}
    # The axes of subtrees too: pairwise distances have an index that no operand has.
    letters = {letter for node in nodes for letter in node.axes}
    lines = [f"${operands[n].latex}$: {escape(operands[n].meaning)};" for n in sorted(operands)]
    lines += [f"${a}$: {escape(AXIS_MEANING[a])};" for a in AXIS_MEANING if a in letters]
    if not lines:
        return []
    return ["{\\raggedright\\noindent", *lines[:-1], lines[-1].removesuffix(";") + ".\\par}"]


_ROWS_OF_A_PAGE = 15
_LETTER = 5.25  # points of a letter of typewriter type
_GAP = 12.0  # points between two columns
_NUMBER = 32.0  # points of a column of numbers
_NARROWEST = 110.0
_RAGGED = r">{\raggedright\arraybackslash}"


def latex_table(metrics: Iterable[Metric]) -> str:
    """Return a booktabs table; with more rows than fit on a page it is a ``longtable``.

    Formulas that are wider than their column are broken over lines. Where metric files have
    objectives, there is a column for each, its mean over the tasks of the file, and the formula
    is below the numbers. Needs the packages amsmath, array, booktabs and longtable.
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
    """Return columns, heads and rows of a table without objectives."""
    longest = max(len(metric.name) for metric in metrics)
    width = max(TEXT_WIDTH - longest * _LETTER - _NUMBER - 2 * _GAP, _NARROWEST)
    rows = [
        _row(_name(metric), paragraph(metric.latex(), width), str(metric.expression.size))
        for metric in metrics
    ]
    return f"l{_RAGGED}p{{{width:.0f}pt}}r", [_row("metric", "formula", "size")], rows


def _stacked(metrics: Sequence[Metric], names: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """Return columns, heads and rows of a table with each formula below its objectives."""
    count = 1 + len(names)
    width = max(TEXT_WIDTH - count * (_NUMBER + _GAP), _NARROWEST)
    formula = rf"@{{\hspace{{1em}}}}{_RAGGED}p{{{TEXT_WIDTH - 15:.0f}pt}}@{{}}"
    rows = []
    for metric in metrics:
        means = [_mean(metric.objectives, name) for name in names]
        rows.append(_row(_name(metric), str(metric.expression.size), *means, closed=False))
        text = paragraph(metric.latex(), TEXT_WIDTH - 15)
        rows.append(_row(rf"\multicolumn{{{count + 1}}}{{{formula}}}{{{text}}}"))
    words = [escape(printable(name)).replace(r"\_", r"\\") for name in names]
    heads = [rf"\shortstack[r]{{{lines}}}" for lines in words]
    tasks = sorted({task for metric in metrics for task in metric.objectives})
    over = f"means over {escape(printable(', '.join(tasks)))}"
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
    """Return the names of all numbers that were measured, in the order of the files."""
    tasks = (task for metric in metrics for task in metric.objectives.values())
    measured = (task.items() for task in tasks if isinstance(task, Mapping))
    return list(dict.fromkeys(name for row in measured for name, x in row if _is_number(x)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(objectives: Mapping[str, Any], name: str) -> str:
    values = [v[name] for v in objectives.values() if isinstance(v, Mapping) and name in v]
    numbers = [value for value in values if _is_number(value)]
    return f"{fmean(numbers):.3f}" if numbers else ""


def _name(metric: Metric) -> str:
    return rf"\texttt{{{escape(metric.name)}}}"


def _row(*cells: str, closed: bool = True) -> str:
    return " & ".join(cells) + (r" \\ \addlinespace" if closed else r" \\*")
