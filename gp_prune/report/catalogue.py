"""The bundled metrics as one Markdown page: ``evolved_metrics/README.md`` is made by this."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from gp_prune.metric import Metric

_HEAD = """\
# Saved metrics

Each file is one metric: formula, conventions of its use, provenance, and digests that are checked
when it is loaded. Use one by its name (`gp-prune apply l1 torchvision:resnet18`) or by the path of
its file. A higher score means: keep.

This page is made by `gp-prune list --markdown`; do not edit it.
"""
_SECTIONS = {
    "reference": ("Reference metrics", "Written down from the literature."),
    "evolved": ("Evolved metrics", "Found by this project's own searches."),
}


def markdown_page(metrics: Mapping[str, Sequence[Metric]]) -> str:
    """The whole page.

    Args:
        metrics: folder (``reference``, ``evolved``) -> its metrics.
    """
    parts = [_HEAD]
    for folder, (title, meaning) in _SECTIONS.items():
        if metrics.get(folder):
            parts.append(f"\n## {title}\n\n{meaning}\n")
        for granularity in ("channel", "weight"):
            some = [m for m in metrics.get(folder, ()) if m.granularity == granularity]
            if some:
                parts.append(f"\n### {granularity.capitalize()} metrics\n\n{_table(some)}")
    return "".join(parts)


def markdown_math(latex: str) -> str:
    """LaTeX for a cell of a Markdown table on GitHub.

    A bar would end the cell, and a backslash before punctuation is eaten by Markdown.
    """
    text = latex.replace(r"\left|", r"\left\lvert ").replace(r"\right|", r"\right\rvert ")
    text = text.replace("|", r"\vert ").replace(r"\!", "").replace(r"\,", " ")
    text = re.sub(r"\\([{}])", lambda brace: r"\lbrace " if brace[1] == "{" else r"\rbrace ", text)
    return f"${re.sub(' +', ' ', text).strip()}$"


def _table(metrics: Iterable[Metric]) -> str:
    lines = ["| metric | formula | meaning | needs | source |", "|---|---|---|---|---|"]
    for metric in metrics:
        cells = [
            f"`{metric.name}`",
            markdown_math(metric.latex()),
            _cell(metric.description),
            _cell(", ".join(sorted(metric.needs))) or "weights only",
            _cell(metric.source),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
