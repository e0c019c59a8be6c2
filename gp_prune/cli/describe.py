"""``gp-prune latex``: metrics as LaTeX."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gp_prune.cli.options import json_option, primitives_option, print_json, read_metrics
from gp_prune.language.primitive import (
    Normaliser,
    Operand,
    Operator,
    PrimitiveSet,
    Reduction,
    Signature,
)
from gp_prune.language.record import NEEDS
from gp_prune.language.registry import builtin_primitives, primitive_set
from gp_prune.metric.metric import INVARIANCES, Metric, bundled_metrics
from gp_prune.report.catalogue import operator_cost, passes
from gp_prune.report.tables import make_console, print_facts, print_table

_LIST_EXAMPLES = """\b
Examples:
  gp-prune list
  gp-prune list --primitives my_primitives.py
  gp-prune list --operands --primitives my_primitives.py
"""


@click.command("list", epilog=_LIST_EXAMPLES)
@click.option("--operands", is_flag=True, help="The tensors of a layer that formulas may read.")
@click.option("--operators", is_flag=True, help="The functions that formulas may apply.")
@click.option("--markdown", is_flag=True, help="The page evolved_metrics/README.md.")
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

    With --primitives alone, what these files add to the vocabulary.
    """
    if operands + operators + markdown > 1 or (markdown and as_json):
        raise click.UsageError("give one of --operands, --operators, --markdown and --json alone")
    if markdown:
        from gp_prune.report.catalogue import markdown_page

        click.echo(markdown_page(_by_folder()), nl=False)
    elif operands or operators:
        kinds = ("operands",) if operands else ("operators",)
        _list_vocabulary(primitive_set(*primitive_files), kinds, as_json=as_json)
    elif primitive_files:
        _list_vocabulary(_own(primitive_files), ("operands", "operators"), as_json=as_json)
    else:
        _list_metrics(as_json=as_json)


def _by_folder() -> dict[str, list[Metric]]:
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
    print_table(make_console(sys.stdout), ["metric", "prunes", "formula", "needs", "source"], rows)


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


def _own(files: tuple[str, ...]) -> PrimitiveSet:
    """What the files add to the built-in vocabulary, with which it must go together."""
    known = set(builtin_primitives())
    return PrimitiveSet(primitive for primitive in primitive_set(*files) if primitive not in known)


def _list_vocabulary(primitives: PrimitiveSet, kinds: tuple[str, ...], *, as_json: bool) -> None:
    tables = {
        "operands": (
            ["operand", "axes", "latex", "needs", "meaning"],
            [_operand_cells(operand) for operand in primitives.operands.values()],
        ),
        "operators": (
            ["operator", "axes", "laws", "cost", "meaning"],
            [_operator_cells(operator) for operator in primitives.operators.values()],
        ),
    }
    if as_json:
        print_json(
            {
                kind: [dict(zip(tables[kind][0], row, strict=True)) for row in tables[kind][1]]
                for kind in kinds
            }
        )
        return
    for kind in kinds:
        columns, rows = tables[kind]
        if rows:
            print_table(make_console(sys.stdout), columns, rows)


def _operand_cells(operand: Operand) -> list[str]:
    needs = " ".join(sorted(operand.needs))
    return [operand.name, str(operand.axes), operand.latex, needs, operand.meaning]


def _operator_cells(operator: Operator) -> list[str]:
    usage, axes = _signature(operator)
    return [usage, axes, " ".join(sorted(operator.laws)), f"{operator.cost:g}", operator.meaning]


def _signature(operator: Operator) -> tuple[str, str]:
    """How the operator is written, and what it does to axes."""
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
    """Show formula, conventions, needs and provenance of a metric.

    METRIC is the name of a bundled metric or a metric file.
    """
    (found,) = read_metrics([metric], primitive_files)
    facts = _facts(found)
    if as_json:
        print_json(facts)
    else:
        print_facts(make_console(sys.stdout), _lines(facts))


def _facts(metric: Metric) -> dict[str, Any]:
    simpler = metric.simplified()
    return {
        "name": metric.name,
        "description": metric.description,
        "text": str(metric.expression),
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


_NOTHING = {
    "needs": {"weights only": "no data"},
    "invariances": {"none": "nothing is declared"},
}
"""What stands for an empty object that says something by being empty."""


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that is there, a nested object as one line per entry."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if name in _NOTHING:
            value = value or _NOTHING[name]
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
"""


@click.command(epilog=_LATEX_EXAMPLES)
@click.argument("metrics", metavar="METRIC...", nargs=-1, required=True)
@click.option("--table", is_flag=True, help="A table with name, formula, size and objectives.")
@click.option("--simplify", is_flag=True, help="A simpler formula of the same values, if any.")
@click.option("--standalone", is_flag=True, help="A whole document that says what the signs mean.")
@primitives_option
def latex(
    metrics: tuple[str, ...],
    table: bool,
    simplify: bool,
    standalone: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """Print formulas as LaTeX.

    METRIC is the name of a bundled metric or a metric file. One metric gives its formula alone,
    several are told apart by comment lines. A table needs the packages amsmath, array, booktabs
    and, from 16 metrics on, longtable; long formulas are broken over lines.
    """
    found = read_metrics(metrics, primitive_files)
    if simplify:
        found = [metric.simplified() for metric in found]
    if standalone or table:
        from gp_prune.report.latex_document import latex_table
        from gp_prune.report.latex_document import standalone as document

        body = latex_table(found) if table else ""
        click.echo(document(found, body) if standalone else body, nl=False)
        return
    for metric in found:
        if len(found) > 1:
            click.echo(f"% {metric.name}")
        click.echo(metric.latex())
