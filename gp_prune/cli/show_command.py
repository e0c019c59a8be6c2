"""``gp-prune show``: all that one metric says."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gp_prune.cli.options import json_option, primitives_option, print_json, read_metrics
from gp_prune.layer import NEEDS
from gp_prune.metric import INVARIANCES, Metric
from gp_prune.report.costs import operator_cost, passes
from gp_prune.report.tables import make_console, print_facts

_EXAMPLES = """\b
Examples:
  gp-prune show taylor_bn
  gp-prune show run/metrics/best.json --json
"""


@click.command(epilog=_EXAMPLES)
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
