"""A picture of what pruning did: every layer and the totals, before and after.

It is drawn from the report alone, so also from a ``report.json`` that was saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.report.figures import save_figure
from gp_prune.report.tables import percent, quantity

_BEFORE, _AFTER, _WHOLE = "#d3d7de", "#2166ac", "#8a929e"
_WIDTH = 8.0  # inches
_ROW = 0.21  # inches per layer: a line of text of 8 points, and air
_MARGIN = 1.15  # inches for the title and the axes
_TEXT = 8  # points
_MOST_INCHES = 300.0  # a picture of 72 times as many points is as large as a reader takes


def plot_pruning(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw what :meth:`gp_prune.application.result.PrunedModel.report` says as bars.

    Above the totals (MACs, parameters, and latency where it was measured) as shares of the
    original, below them the channels of every layer, or its weights where single weights were
    pruned. Layers that were kept whole are grey.

    Args:
        report: the report, or what ``report.json`` holds.
        path: where to; the suffix ``.png``, ``.svg`` or ``.pdf`` says the format. The file is
            replaced as one step.

    Raises:
        UserError: matplotlib is missing, the suffix is another, the report has no layers, or the
            file cannot be written.
    """
    save_figure(lambda: _drawn(report), path)


def _drawn(report: Mapping[str, Any]) -> Any:
    """The figure."""
    from matplotlib.figure import Figure

    by_weight = report["achieved"]["weights"] is not None
    unit = "params" if by_weight else "channels"
    layers = [row for row in report["layers"] if row[unit]]
    if not layers:
        raise UserError("the report has no layers to draw; give the report of a pruned network")
    totals = _totals(report)
    heights = [_ROW * (len(totals) + 1), _ROW * (len(layers) + 1)]
    figure = Figure(
        figsize=(_WIDTH, min(_MOST_INCHES, sum(heights) + 2 * _MARGIN)), layout="constrained"
    )
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _bars(upper, [(name, 100.0, 100 * share, note, False) for name, share, note in totals])
    upper.set_xlabel("kept (%)", fontsize=_TEXT)
    upper.set_xlim(0, 100)
    _bars(
        lower,
        [
            (
                row["layer"],
                row[unit],
                row[f"{unit}_kept"],
                f"{quantity(row[f'{unit}_kept'])} of {quantity(row[unit])}{_heads(row, unit)}",
                bool(row["fixed"]),
            )
            for row in layers
        ],
    )
    lower.set_xlabel("weights and biases" if by_weight else "channels", fontsize=_TEXT)
    lower.set_xlim(0, max(row[unit] for row in layers))
    _legend(lower, any(row["fixed"] for row in layers))
    title = f"{report['model'] or 'network'} pruned by {report['metric']}"
    upper.set_title(title, fontsize=_TEXT + 3, loc="left", parse_math=False)
    return figure


def _heads(row: Mapping[str, Any], unit: str) -> str:
    return " heads" if unit == "channels" and row.get("unit") == "heads" else ""


def _totals(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """(name, share kept, note) of each total."""
    before, after = report["before"], report["after"]
    found = [
        (title, after[key] / before[key], f"{quantity(after[key])} of {quantity(before[key])}")
        for key, title in (("macs", "MACs"), ("params", "parameters"))
        if before[key]
    ]
    share = report["achieved"].get("latency")
    if share is not None:
        found.append(("latency", share, f"{percent(share)} of the time"))
    return found


def _bars(axes: Any, rows: list[tuple[str, float, float, str, bool]]) -> None:
    """Horizontal bars from top to bottom: name, before, after, note, and whether it is whole."""
    places = range(len(rows))
    axes.barh(places, [row[1] for row in rows], height=0.72, color=_BEFORE)
    colours = [_WHOLE if row[4] else _AFTER for row in rows]
    axes.barh(places, [row[2] for row in rows], height=0.72, color=colours)
    axes.set_yticks(places, [row[0] for row in rows], fontsize=_TEXT)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may hold a dollar sign
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=_TEXT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for place, row in zip(places, rows, strict=True):
        axes.annotate(
            row[3],
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            annotation_clip=False,
        )


def _legend(axes: Any, whole: bool) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=_AFTER, label="kept"), Patch(color=_BEFORE, label="removed")]
    if whole:
        handles.insert(1, Patch(color=_WHOLE, label="kept whole"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(handles),
        frameon=False,
        fontsize=_TEXT,
    )
