"""Draw a comparison of metrics: errors over budgets, and mean ranks with the critical difference.

matplotlib and scikit-posthocs are an extra, so they are imported only when something is drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gp_prune._compat import import_optional
from gp_prune.judging.compare import MetricComparison
from gp_prune.judging.records import PATTERN, Measurement
from gp_prune.judging.settings import BASELINES
from gp_prune.judging.standings import ALPHA, spread_over_repeats
from gp_prune.report.plots import TEXT, clean_axes, find_matplotlib, new_figure, save_figure

MOST_CURVES = 6
"""Metrics of the least mean ranks that are drawn beside random and the baseline."""

_TITLES = {"macs": "MACs kept (%)", "params": "parameters kept (%)", "channels": "channels (%)"}
_COLOURS = ("#2166ac", "#c2703d", "#4d9221", "#7b3294", "#b2182b", "#01665e", "#8c6d31")
_GREY = "#8a929e"


def find_posthocs() -> Any:
    """Import scikit-posthocs; UserError says how to install it where it is missing."""
    find_matplotlib()
    return import_optional(
        "scikit_posthocs", "a picture of the critical difference", "gp-prune[compare]"
    )


def write_comparison_plots(result: MetricComparison) -> list[Path]:
    """Write both pictures as PNG and SVG into the run folder; return the files.

    There are no ranks to draw of fewer than three metrics or two cells.

    Raises:
        UserError: a package is missing, or a file cannot be written.
    """
    plots = {"errors": lambda: _draw_errors(result)}
    if result.friedman is not None:
        plots["ranks"] = lambda: _draw_ranks(result)
    paths = []
    for name, draw in plots.items():
        for suffix in (".png", ".svg"):
            paths.append(result.folder / f"{name}{suffix}")
            save_figure(draw, paths[-1])
    return paths


def _shown(result: MetricComparison) -> list[str]:
    """Return the metrics whose curves are drawn, the best first."""
    always = {BASELINES[result.settings.granularity][0], result.settings.baseline}
    names = [standing.name for standing in result.standings()]
    best = [name for name in names if name not in always][:MOST_CURVES]
    return [name for name in names if name in best or name in always]


def _draw_errors(result: MetricComparison) -> Any:
    """Draw a panel for each allocation and kind of budget."""
    settings = result.settings
    # A pattern is a point and no curve, so it is drawn where there is nothing else.
    kinds = settings.budget_kind if settings.keep else settings.pattern
    allocations = [name for name in result.allocations if not settings.keep or name != PATTERN]
    width, height = 1.6 + 2.9 * len(kinds), 0.5 + 2.5 * len(allocations)
    figure = new_figure(width, height)
    panels = figure.subplots(len(allocations), len(kinds), sharex="col", sharey=True, squeeze=False)
    shown = _shown(result)
    for row, allocation in zip(panels, allocations, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            entries = [entry for entry in result.part(allocation) if entry.kind == kind]
            _draw_panel(axes, entries, shown, result)
            named = allocation if allocation == PATTERN else f"allocation {allocation}"
            axes.set_title(named, fontsize=TEXT)
        row[0].set_ylabel(f"{result.settings.split} error", fontsize=TEXT)
    for axes, kind in zip(panels[-1], kinds, strict=True):
        axes.set_xlabel(_TITLES.get(kind, f"weights kept (%), {kind}"), fontsize=TEXT)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=TEXT)
    return figure


def _draw_panel(
    axes: Any, entries: Sequence[Measurement], shown: Sequence[str], result: MetricComparison
) -> None:
    """Draw the mean error over the tasks, with its deviation over the seeds."""
    colours = iter(_COLOURS * 2)
    for name in shown:
        own = [entry for entry in entries if entry.metric == name]
        shares = sorted({entry.keep for entry in own})
        means = [statistics.fmean(e.error for e in own if e.keep == keep) for keep in shares]
        spreads = [
            spread_over_repeats([e for e in own if e.keep == keep]) or 0.0 for keep in shares
        ]
        drawn = name == BASELINES[result.settings.granularity][0]
        dashed = drawn or name == result.settings.baseline
        axes.errorbar(
            [100 * share for share in shares], means, spreads if any(spreads) else None,
            label=name, color=_GREY if dashed else next(colours), marker="o", markersize=3,
            linewidth=1, linestyle=(":" if drawn else "--") if dashed else "-", capsize=2,
        )  # fmt: skip
    clean_axes(axes)


def _draw_ranks(result: MetricComparison) -> Any:
    """Draw the mean ranks; a bar joins metrics that Nemenyi's test does not tell apart."""
    posthocs = find_posthocs()
    table = result.table()
    names = table.metrics
    ranks = pd.Series(table.ranks.mean(axis=0), index=names)
    p_values = pd.DataFrame(table.nemenyi(), index=names, columns=names)
    figure = new_figure(7.5, 1.2 + 0.14 * len(names))
    axes = figure.subplots()
    posthocs.critical_difference_diagram(
        ranks, p_values, alpha=ALPHA, ax=axes, label_props={"fontsize": TEXT},
        label_fmt_left="{label} ({rank:.2f})", label_fmt_right="({rank:.2f}) {label}",
        crossbar_props={"linewidth": 1.5, "marker": ""}, elbow_props={"linewidth": 0.7},
        marker_props={"s": 12},
    )  # fmt: skip
    axes.tick_params(labelsize=TEXT)
    axes.set_title(
        f"mean rank over {len(table.cells)} cells ({result.settings.split} split)", fontsize=TEXT
    )
    return figure
