"""Do what ``gp-prune list`` and ``show`` were asked for of metrics.

What is stored of the bundled metrics is read, which takes no sympy; the rest is computed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gp_prune.base.names import bundled_metrics
from gp_prune.report.stored_facts import digest_content, read_stored_facts
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.metric.metric import Metric

Facts = dict[str, Any]


def compute_bundled_facts() -> list[Facts]:
    """Compute the facts of all bundled metrics, in their order."""
    from gp_prune.metric.metric import Metric
    from gp_prune.report.catalogue import metric_facts

    return [metric_facts(Metric.load(name)) for name in bundled_metrics()]


def print_all_facts() -> None:
    """Print evolved_metrics/facts.json: what show says of each bundled metric."""
    print_json({"made_from": digest_content(), "metrics": compute_bundled_facts()})


def list_metrics(*, as_json: bool) -> None:
    """List the bundled metrics."""
    stored = read_stored_facts()
    metrics = compute_bundled_facts() if stored is None else [*stored.values()]
    if as_json:
        print_json({"metrics": [_as_object(facts) for facts in metrics]})
        return
    columns = ("name", "granularity", "text", "needs", "source")
    rows = [
        [" ".join(sorted(m[key])) if key == "needs" else m[key] for key in columns] for m in metrics
    ]
    from gp_prune.report.console import make_console, print_table  # rich is slow to import

    print_table(
        make_console(sys.stdout),
        ["metric", "prunes", "formula", "needs", "source"],
        rows,
        fold=["formula", "needs", "source"],
    )


def _as_object(facts: Facts) -> Facts:
    """Return what ``list --json`` says of a metric."""
    return {
        **{key: facts[key] for key in ("name", "description", "granularity", "text", "latex")},
        "needs": sorted(facts["needs"]),
        "passes": facts["passes"],
        "cost": facts["cost"],
        "invariances": list(facts["invariances"]),
        "source": facts["source"],
        "shares": facts["shares"]["text"] if "shares" in facts else "",
    }


def show_metric(
    metric: str, primitive_files: Sequence[str], *, explain: bool, as_json: bool
) -> None:
    """Show all that a metric contains; with ``explain`` also what tests on networks find."""
    facts = None
    if metric in bundled_metrics() and not primitive_files and not explain:
        facts = (read_stored_facts() or {}).get(metric)
    if facts is None:
        facts = _computed(metric, primitive_files, explain=explain)
    if as_json:
        print_json(facts)
    else:
        from gp_prune.report.console import make_console, print_facts

        print_facts(make_console(sys.stdout), _lines(facts))


def _computed(metric: str, primitive_files: Sequence[str], *, explain: bool) -> Facts:
    from gp_prune.language.primitive import primitive_set
    from gp_prune.metric.metric import Metric
    from gp_prune.report.catalogue import metric_facts

    loaded = Metric.load(metric, primitive_set(*primitive_files))
    warn_of_changes(loaded)
    facts = metric_facts(loaded)
    if not explain or loaded.granularity == "layer":  # which ranks nothing
        return facts
    return facts | _tested(loaded) | _comparison(loaded)


def warn_of_changes(metric: Metric) -> None:
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


def _tested(metric: Metric) -> Facts:
    """Return which invariances hold on a small network."""
    from gp_prune.tasks.invariance import TESTS, find_invariances  # they need torch

    found = find_invariances(metric).items()
    holds = {True: "holds", False: "does not hold"}
    return {"tested": {name: f"{holds[kept]}: {TESTS[name]}" for name, kept in found}}


def _comparison(metric: Metric) -> Facts:
    """Return what a metric ranks like, and the variance that its parts carry."""
    from gp_prune.tasks.likeness import likeness  # it needs torch

    found = likeness(metric)
    facts: Facts = {"ranks_like": {name: round(tau, 3) for name, tau in found.nearest}}
    if found.kind:
        facts[f"{found.kind}_carry"] = {part: round(share, 3) for part, share in found.parts}
    return facts


_IF_EMPTY = {
    "needs": {"weights only": "no data"},
    "invariances": {"none": "nothing is declared"},
}
"""Text for empty objects that carry information."""


def _lines(facts: Facts) -> list[tuple[str, str]]:
    """Return name and value of all facts that are not empty, one line per entry of an object."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        value = value or _IF_EMPTY.get(name, value)
        if isinstance(value, dict):
            for number, (key, entry) in enumerate(value.items()):
                text = entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
                lines.append(("" if number else name, f"{key}: {text}"))
        elif isinstance(value, list):
            lines += [("" if number else name, text) for number, text in enumerate(value)]
        elif value != "":
            lines.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return lines
