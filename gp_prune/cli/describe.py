"""Provide ``gp-prune list``, ``show`` and ``latex``, which describe metrics and primitives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from gp_prune.cli.options import json_option, primitives_option
from gp_prune.language.axes import Normaliser, Reduction, Signature
from gp_prune.language.infix import write_infix
from gp_prune.language.primitive import Operator, PrimitiveSet, builtin_primitives, primitive_set
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import INVARIANCES, Metric, bundled_metrics
from gp_prune.report.catalogue import operator_cost, passes
from gp_prune.report.text import echo, print_json

_LIST_EXAMPLES = """\b
Examples:
  gp-prune list
  gp-prune list --primitives my_primitives.py
  gp-prune list --operands --primitives my_primitives.py
"""


@click.command("list", epilog=_LIST_EXAMPLES)
@click.option("--operands", is_flag=True, help="List the tensors of a layer that formulas read.")
@click.option("--operators", is_flag=True, help="List the functions that formulas apply.")
@click.option("--markdown", is_flag=True, help="Print the page evolved_metrics/README.md.")
@json_option
@primitives_option
def list_metrics(
    operands: bool,
    operators: bool,
    markdown: bool,
    as_json: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """List the bundled metrics, or the vocabulary of formulas.

    With --primitives alone, list what these files add to the vocabulary.
    """
    if operands + operators + markdown > 1 or (markdown and as_json):
        raise click.UsageError("give one of --operands, --operators, --markdown and --json alone")
    if markdown:
        from gp_prune.report.catalogue import markdown_page

        echo(markdown_page(_group_by_folder()), nl=False)
        return
    if operands or operators:
        primitives = primitive_set(*primitive_files)
        tables = {"operands": _operand_table} if operands else {"operators": _operator_table}
    elif primitive_files:
        known = set(builtin_primitives())
        primitives = PrimitiveSet(p for p in primitive_set(*primitive_files) if p not in known)
        tables = {"operands": _operand_table, "operators": _operator_table}
    else:
        _list_metrics(as_json=as_json)
        return
    _list_vocabulary({name: table(primitives) for name, table in tables.items()}, as_json=as_json)


def _group_by_folder() -> dict[str, list[Metric]]:
    folders: dict[str, list[Metric]] = {}
    for name, file in bundled_metrics().items():
        folder = str(file).replace("\\", "/").split("/")[-2]
        folders.setdefault(folder, []).append(Metric.load(name))
    return folders


def _list_metrics(*, as_json: bool) -> None:
    metrics = [Metric.load(name) for name in bundled_metrics()]
    if as_json:
        print_json({"metrics": [_as_object(metric) for metric in metrics]})
        return
    rows = [
        [m.name, m.granularity, str(m.expression), " ".join(sorted(m.needs)), m.source]
        for m in metrics
    ]
    from gp_prune.report.console import make_console, print_table  # rich is slow to import

    print_table(
        make_console(sys.stdout),
        ["metric", "prunes", "formula", "needs", "source"],
        rows,
        fold=["formula", "needs", "source"],
    )


def _as_object(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "description": metric.description,
        "granularity": metric.granularity,
        "text": str(metric.expression),
        "latex": metric.latex(),
        "needs": sorted(metric.needs),
        "passes": passes(metric.needs),
        "cost": operator_cost(metric.expression),
        "invariances": list(metric.invariances),
        "source": metric.source,
    }


_Rows = list[list[str]]
"""A table; the first row has the headings."""


def _list_vocabulary(tables: dict[str, _Rows], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                name: [dict(zip(headings, row, strict=True)) for row in rows]
                for name, (headings, *rows) in tables.items()
            }
        )
        return
    for headings, *rows in tables.values():
        if rows:
            from gp_prune.report.console import make_console, print_table

            print_table(make_console(sys.stdout), headings, rows, fold=headings[-4:])


def _operand_table(primitives: PrimitiveSet) -> _Rows:
    return [
        ["operand", "axes", "latex", "needs", "meaning"],
        *(
            [x.name, str(x.axes), x.latex, " ".join(sorted(x.needs)), x.meaning]
            for x in primitives.operands.values()
        ),
    ]


def _operator_table(primitives: PrimitiveSet) -> _Rows:
    return [
        ["operator", "axes", "laws", "cost", "meaning"],
        *(
            [*_signature(x), " ".join(sorted(x.laws)), f"{x.cost:g}", x.meaning]
            for x in primitives.operators.values()
        ),
    ]


def _signature(operator: Operator) -> tuple[str, str]:
    """Return how the operator is written, and what it does to axes."""
    shape, name = operator.shape, operator.name
    if isinstance(shape, Reduction):
        return f"{name}[axes](x)", "removed"
    if isinstance(shape, Normaliser):
        return f"{name}[axes](x)", "kept"
    letters = "x" if shape.arity == 1 else ", ".join("abcdef"[: shape.arity])
    if isinstance(shape, Signature):
        return f"{name}({letters})", f"{', '.join(map(str, shape.arguments))} -> {shape.to}"
    return f"{name}({letters})", "kept" if shape.arity == 1 else "united"


_SHOW_EXAMPLES = """\b
Examples:
  gp-prune show taylor_bn
  gp-prune show run/metrics/best.json --json
"""


@click.command(epilog=_SHOW_EXAMPLES)
@click.argument("metric")
@json_option
@primitives_option
def show(metric: str, as_json: bool, primitive_files: tuple[str, ...]) -> None:
    """Show the formula, conventions, needs and provenance of a metric.

    METRIC is the name of a bundled metric, a metric file or a formula.
    """
    loaded = Metric.load(metric, primitive_set(*primitive_files))
    _warn_of_changes(loaded)
    facts = _facts(loaded)
    if as_json:
        print_json(facts)
    else:
        from gp_prune.report.console import make_console, print_facts

        print_facts(make_console(sys.stdout), _lines(facts))


def _warn_of_changes(metric: Metric) -> None:
    """Say on stderr which primitives are not what they were when a metric was saved."""
    changed = metric.changed_primitives()
    if changed:
        what = "primitive" if len(changed) == 1 else "primitives"
        echo(
            f"gp-prune: {what} {', '.join(changed)} of metric {metric.name!r} changed since it was "
            "saved, so what is printed may not be what it computed; use the version or "
            "--primitives file it was made with",
            err=True,
        )


def _facts(metric: Metric) -> dict[str, Any]:
    simpler = metric.simplified()
    return {
        "name": metric.name,
        "description": metric.description,
        "text": str(metric.expression),
        "infix": write_infix(metric.expression),
        "simplified": "" if simpler is metric else str(simpler.expression),
        "latex": metric.latex(),
        "granularity": metric.granularity,
        "conventions": metric.conventions.to_json(),
        "needs": {need: NEEDS[need] for need in NEEDS if need in metric.needs},
        "passes": passes(metric.needs),
        "cost": operator_cost(metric.expression),
        "invariances": {name: INVARIANCES[name] for name in metric.invariances},
        "size": metric.expression.size,
        "height": metric.expression.height,
        "source": metric.source,
        "objectives": dict(metric.objectives),
        "provenance": dict(metric.provenance),
        "digest": metric.digest,
    }


_IF_EMPTY = {
    "needs": {"weights only": "no data"},
    "invariances": {"none": "nothing is declared"},
}
"""Text for empty objects that carry information."""


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of all facts that are not empty, one line per entry of an object."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        value = value or _IF_EMPTY.get(name, value)
        if isinstance(value, dict):
            for number, (key, entry) in enumerate(value.items()):
                text = entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
                lines.append(("" if number else name, f"{key}: {text}"))
        elif value != "":
            lines.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return lines


_LATEX_EXAMPLES = """\b
Examples:
  gp-prune latex l1
  gp-prune latex --standalone l1 taylor_bn > metrics.tex
  gp-prune latex --table --simplify l1 run/metrics/*.json
  gp-prune latex --infix 'sum[i,k](abs(W)) * std[n,s](A)'
"""


@click.command(epilog=_LATEX_EXAMPLES)
@click.argument("metrics", metavar="METRIC...", nargs=-1, required=True)
@click.option("--table", is_flag=True, help="Print a table of name, formula, size and objectives.")
@click.option(
    "--simplify", is_flag=True, help="Print a simpler formula of the same values, if any."
)
@click.option("--standalone", is_flag=True, help="Print a document that explains the symbols.")
@click.option("--mathml", "form", flag_value="mathml", help="Print MathML, for a web page.")
@click.option("--sympy", "form", flag_value="sympy", help="Print the formula of sympy.")
@click.option("--text", "form", flag_value="text", help="Print the text form, add(b, gamma).")
@click.option("--infix", "form", flag_value="infix", help="Print the infix form, b + gamma.")
@primitives_option
def latex(
    metrics: tuple[str, ...],
    form: str | None,
    table: bool,
    simplify: bool,
    standalone: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """Print formulas as LaTeX, or in another form.

    METRIC is the name of a bundled metric, a metric file or a formula. Several formulas are
    separated by comment lines. A table needs the packages amsmath, array, booktabs and, for more
    than 15 metrics, longtable; long formulas are broken over lines.
    """
    primitives = primitive_set(*primitive_files)
    chosen = [Metric.load(name, primitives) for name in metrics]
    for metric in chosen:
        _warn_of_changes(metric)
    if simplify:
        chosen = [metric.simplified() for metric in chosen]
    if form is not None and (standalone or table):
        raise click.UsageError(
            f"--{form} prints single formulas; leave out --standalone and --table"
        )
    if standalone or table:
        from gp_prune.report import latex_document

        body = latex_document.latex_table(chosen) if table else ""
        echo(latex_document.standalone(chosen, body) if standalone else body, nl=False)
        return
    for metric in chosen:
        if len(chosen) > 1:
            echo(_COMMENTS[form].format(metric.name))
        echo(_FORMS[form](metric))


_FORMS: dict[str | None, Callable[[Metric], str]] = {
    None: Metric.latex,
    "mathml": Metric.mathml,
    "sympy": lambda metric: str(metric.sympy()),
    "text": lambda metric: str(metric.expression),
    "infix": lambda metric: write_infix(metric.expression),
}
_COMMENTS = {
    None: "% {}", "mathml": "<!-- {} -->", "sympy": "# {}", "text": "# {}", "infix": "# {}",
}  # fmt: skip
"""The line that names one of several formulas."""
