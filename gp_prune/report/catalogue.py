"""State all that is known of a metric and what it costs; write the page of all saved ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from gp_prune.formula.units import unit_of
from gp_prune.formula.words import in_words
from gp_prune.language.expression import Expression
from gp_prune.language.infix import write_infix
from gp_prune.language.primitive import Operator
from gp_prune.language.record import LOSS_NEEDS, NEEDS
from gp_prune.metric.metric import INVARIANCES, Metric

_HEAD = """\
# Saved metrics

Each file is one metric: formula, conventions of its use, provenance, and digests that are checked
when it is loaded. Use one by its name (`gp-prune apply l1 torchvision:resnet18`) or by the path of
its file. A higher score means: keep.

This page is made by `gp-prune list --markdown`; do not edit it.
"""
_SECTIONS = {
    "reference": (
        "Reference metrics",
        "Written down from the literature, as published: the constants, the sums and the signs "
        "are\nthose of the source, negated where a source scores what to remove. The channel "
        "form of a\nmetric of single weights is the sum over the filter.\n\n"
        "Variants that differ only in conventions are one formula with two rankings, and have one "
        "entry. So\n`NAME_global` in a search is the metric NAME, ranked over the whole network; "
        "FLAP with its adaptive\nshares ranks `z_score[o]` of `flap` over the whole network.\n\n"
        "Left out is what is no formula of the measurements of a layer:\n\n"
        "- ThiNet (Luo et al., ICCV 2017) is a greedy loop that chooses one channel after another, "
        "each by\n  what the earlier choices have left.\n"
        "- CURL (Luo and Wu, CVPR 2020) compares the outputs of the network with and without each "
        "channel,\n  one run of the network for each.\n"
        "- SCOP (Tang et al., NeurIPS 2020) trains a factor for each map and for its knockoff, "
        "which another\n  network generates, and scores by their difference.\n"
        "- NISP (Yu et al., CVPR 2018) beyond one step carries scores back through the network from"
        " a ranking\n  of its last features; `nisp` is the step from the layers that read a channel"
        ".",
    ),
    "handwritten": (
        "Hand-written metrics",
        "Written by hand by this project after FLAP: how much a channel varies, times how strongly "
        "it is\nused. They are not published. A search for channel metrics begins with them, with "
        "the reference\nmetrics, and with `variance_energy`: the formula of `flap`, ranked over the"
        " whole network.",
    ),
    "evolved": ("Evolved metrics", "Found by this project's own searches."),
}
_COLUMNS = (
    "metric", "formula", "meaning", "granularity", "needs", "cost", "invariances", "source",
)  # fmt: skip
_COST = (
    "Before the comma, the sum of the declared costs of the operators; 1 is an addition of tensors "
    "of the\nsame size, and a repeated term is computed once. After it, the passes over "
    "calibration data."
)


def markdown_page(metrics: Mapping[str, Sequence[Metric]]) -> str:
    """Return the Markdown page of all metrics.

    Args:
        metrics: folder (one of ``METRIC_FOLDERS``) -> its metrics.
    """
    parts = [_HEAD]
    for folder, (title, meaning) in _SECTIONS.items():
        if metrics.get(folder):
            parts.append(f"\n## {title}\n\n{meaning}\n\n{_table(metrics[folder])}")
    parts.append(f"\n## Needs\n\n{_glossary('need', NEEDS)}")
    parts.append(f"\n## Cost\n\n{_COST}\n")
    parts.append(f"\n## Invariances\n\n{_glossary('invariance', INVARIANCES)}")
    return "".join(parts)


def markdown_math(latex: str) -> str:
    """Return LaTeX for a cell of a Markdown table on GitHub.

    A bar would end the cell, and Markdown removes a backslash before punctuation.
    """
    text = latex.replace(r"\left|", r"\left\lvert ").replace(r"\right|", r"\right\rvert ")
    text = text.replace("|", r"\vert ").replace(r"\!", "").replace(r"\,", " ")
    text = re.sub(r"\\([{}])", lambda brace: r"\lbrace " if brace[1] == "{" else r"\rbrace ", text)
    return f"${re.sub(' +', ' ', text).strip()}$"


def _table(metrics: Iterable[Metric]) -> str:
    """Return a table with a row per metric, channel metrics first."""
    rows = [_cells(metric) for metric in sorted(metrics, key=lambda m: m.granularity)]
    return _lines([list(_COLUMNS), ["---"] * len(_COLUMNS), *rows])


def _cells(metric: Metric) -> list[str]:
    return [
        f"`{metric.name}`",
        "; its shares: ".join(markdown_math(part.latex()) for part in metric.parts),
        _cell(metric.description),
        metric.granularity,
        _cell(", ".join(sorted(metric.needs))) or "weights only",
        f"{operator_cost(metric.expression):g}, {passes(metric.needs)}",
        ", ".join(metric.invariances) or "none",
        _cell(metric.source),
    ]


def _glossary(name: str, meanings: Mapping[str, str]) -> str:
    rows = [[word, _cell(meaning)] for word, meaning in meanings.items()]
    return _lines([[name, "meaning"], ["---", "---"], *rows])


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


NEEDS_WITHOUT_DATA = frozenset({"noise", "outgoing", "network", "synflow"})
"""Needs that are met without calibration data."""


def operator_cost(expression: Expression) -> float:
    """Return the sum of the operators' declared costs; repeated subtrees count once.

    The unit is an addition of tensors of the same size.
    """
    return sum(
        node.head.cost for node in set(expression.nodes()) if isinstance(node.head, Operator)
    )


def passes(needs: AbstractSet[str]) -> str:
    """Return in words which passes over the calibration data meet the needs."""
    if "hessian" in needs:
        return "two passes, forward and backward"
    if needs & LOSS_NEEDS:
        return "one pass, forward and backward"
    if needs - NEEDS_WITHOUT_DATA:
        return "one pass, forward"
    return "no data, one pass over a sample of ones" if "synflow" in needs else "no data"


def metric_facts(metric: Metric) -> dict[str, Any]:
    """Return what ``gp-prune show`` says of a metric, as a JSON object."""
    simpler = metric.simplified()
    words = in_words(metric.expression)
    return {
        "name": metric.name,
        "description": metric.description,
        "words": words.sentence,
        "where": words.parts,
        "reads": words.operands,
        "notes": list(words.notes),
        "unit": unit_of(metric.expression),
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
        **_shares(metric),
    }


def _shares(metric: Metric) -> dict[str, Any]:
    """Return what divides a budget among the layers, where that is another metric."""
    if metric.shares is None:
        return {}
    shares = metric.shares
    return {
        "shares": {
            "name": shares.name,
            "text": str(shares.expression),
            "infix": write_infix(shares.expression),
            "latex": shares.latex(),
            "digest": shares.digest,
        }
    }
