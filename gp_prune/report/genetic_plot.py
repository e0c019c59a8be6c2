"""Floor 10: the front of a genetic pruning as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gp_prune.report.figures import save_figure

_FRONT, _COLOURS = "#2166ac", {"random": "#8a929e", "l1": "#c2703d"}
_TEXT = 8  # points


def plot_front(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the error over the MACs and over the parameters that are left.

    Args:
        report: what :func:`gp_prune.guided.genetic.writing.result_json` says.
        path: where to; the suffix ``.png``, ``.svg`` or ``.pdf`` says the format. The file is
            replaced as one step.

    Raises:
        UserError: matplotlib is missing, the suffix is another, or the file cannot be written.
    """
    save_figure(lambda: _drawn(report), path)


def _drawn(report: Mapping[str, Any]) -> Any:
    """The figure: two panels with one vertical axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    macs = "conv_macs" if report["counted_macs"] == "conv" else "macs"
    titles = {"conv_macs": "convolution MACs kept (%)", "macs": "MACs kept (%)"}
    for axes, field, title in zip(
        panels,
        (macs, "params_not_zero"),
        (titles[macs], "parameters not zero (%)"),
        strict=True,
    ):
        _panel(axes, report, field)
        axes.set_xlabel(title, fontsize=_TEXT)
    what = "error (%)" if report["error"] == "error" else "mean squared error"
    panels[0].set_ylabel(f"{report['split']} {what}", fontsize=_TEXT)
    panels[0].legend(frameon=False, fontsize=_TEXT)
    name = report["settings"]["model"] or "network"
    figure.suptitle(f"{name}: front of the genetic pruner", fontsize=_TEXT + 3, parse_math=False)
    return figure


def _panel(axes: Any, report: Mapping[str, Any], field: str) -> None:
    dense = report["dense"]
    unit = 100.0 if report["error"] == "error" else 1.0

    def draw(points: Sequence[Mapping[str, Any]], label: str, colour: str, marker: str) -> None:
        across = [100 * max(point[field], 1) / max(dense[field], 1) for point in points]
        axes.plot(across, [unit * point["report_error"] for point in points], marker,
                  label=label, color=colour, markersize=5)  # fmt: skip

    for name, points in report["baselines"].items():
        draw([point for point in points if point], name, _COLOURS.get(name, "#555555"), "x")
    draw(report["front"], "front", _FRONT, "o")
    for point in report["front"]:
        axes.annotate(
            point["name"],
            (100 * max(point[field], 1) / max(dense[field], 1), unit * point["report_error"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=_TEXT - 2,
        )
    axes.axhline(unit * dense["report_error"], color="#333333", linewidth=0.8, linestyle=":")
    if report["front"]:  # an empty axis has no logarithms
        axes.set_xscale("log")
    # Plain numbers: two powers of ten are seldom on the axis.
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=_TEXT, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
