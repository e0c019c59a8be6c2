"""Draw what was pruned, the front of a genetic pruning, and a run of the autoencoder trainer.

matplotlib is an extra, so it is imported only when something is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gp_prune._compat import import_optional
from gp_prune.base.files import write_bytes
from gp_prune.errors import UserError
from gp_prune.report.console import percent, quantity
from gp_prune.report.text import printable

if TYPE_CHECKING:
    from gp_prune.autoencoder.population import HistoryRow
    from gp_prune.autoencoder.run import AutoencodeResult

SUFFIXES = (".png", ".svg", ".pdf")
_BLUE, _GREY, _ORANGE, _LIGHT = "#2166ac", "#8a929e", "#c2703d", "#d3d7de"
TEXT = 8
"""Points of the text of a plot."""


def save_figure(draw: Callable[[], Any], path: str | Path) -> None:
    """Draw a figure and write it atomically.

    Args:
        draw: makes the figure; it is called once matplotlib is known to be installed.
        path: the file; its suffix ``.png``, ``.svg`` or ``.pdf`` is the format.

    Raises:
        UserError: matplotlib is missing, the suffix is another, or the file cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix not in SUFFIXES:
        raise UserError(
            f"a plot cannot be written to {str(path)!r}; its name must end with one of "
            f"{', '.join(SUFFIXES)}"
        )
    matplotlib = find_matplotlib()
    content = io.BytesIO()
    # A fixed salt and no date, so that the same content gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "gp-prune", "svg.fonttype": "none"}):
        date = {"CreationDate" if target.suffix == ".pdf" else "Date": None}
        metadata = {} if target.suffix == ".png" else date
        draw().savefig(content, format=target.suffix[1:], dpi=150, metadata=metadata)
    try:
        write_bytes(target, content.getvalue())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"the plot {str(path)!r} cannot be written ({reason}); name another file"
        ) from error


def find_matplotlib() -> Any:
    """Import matplotlib; UserError says how to install it where it is missing."""
    return import_optional("matplotlib", "a plot", "gp-prune[plot]")


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of matplotlib of a size in inches, which a notebook shows."""
    from gp_prune.report.notebook_figure import NotebookFigure

    return NotebookFigure(figsize=(width, height), layout="constrained")


def clean_axes(axes: Any, *, size: int = TEXT, which: str = "major", left: bool = False) -> None:
    """Leave out the frame but for the axes, and set the size of the tick labels.

    Args:
        axes: of matplotlib.
        size: points of the tick labels.
        which: the ticks: ``"major"``, ``"minor"`` or ``"both"``.
        left: leave out the left axis, too.
    """
    axes.tick_params(labelsize=size, which=which)
    for side in ("top", "right", *(["left"] if left else [])):
        axes.spines[side].set_visible(False)


_BASELINES = {"random": _GREY, "l1": _ORANGE}


def plot_front(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the error over the MACs and over the parameters that are left.

    Args:
        report: the object of :func:`gp_prune.genetic.result.result_json`.
        path: see :func:`save_figure`.

    Raises:
        UserError: see :func:`save_figure`.
    """
    save_figure(lambda: _draw_front(report), path)


def _draw_front(report: Mapping[str, Any]) -> Any:
    """Draw two panels with one vertical axis."""
    figure = new_figure(9.0, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    macs = "conv_macs" if report["counted_macs"] == "conv" else "macs"
    titles = {"conv_macs": "convolution MACs kept (%)", "macs": "MACs kept (%)",
              "params_not_zero": "parameters not zero (%)"}  # fmt: skip
    for axes, field in zip(panels, (macs, "params_not_zero"), strict=True):
        _draw_front_over(axes, report, field)
        axes.set_xlabel(titles[field], fontsize=TEXT)
    what = "error (%)" if report["error"] == "error" else "mean squared error"
    panels[0].set_ylabel(f"{report['split']} {what}", fontsize=TEXT)
    panels[0].legend(frameon=False, fontsize=TEXT)
    name = printable(report["settings"]["model"] or "network")
    figure.suptitle(f"{name}: front of the genetic pruner", fontsize=TEXT + 3, parse_math=False)
    return figure


def _draw_front_over(axes: Any, report: Mapping[str, Any], field: str) -> None:
    dense = report["dense"]
    unit = 100.0 if report["error"] == "error" else 1.0

    def locate(point: Mapping[str, Any]) -> tuple[float, float]:
        return 100 * max(point[field], 1) / max(dense[field], 1), unit * point["report_error"]

    def draw(points: Sequence[Mapping[str, Any]], label: str, colour: str, marker: str) -> None:
        xy = [locate(point) for point in points]
        axes.plot([x for x, _ in xy], [y for _, y in xy], marker,
                  label=label, color=colour, markersize=5)  # fmt: skip

    for name, points in report["baselines"].items():
        draw([point for point in points if point], name, _BASELINES.get(name, "#555555"), "x")
    draw(report["front"], "front", _BLUE, "o")
    for point in report["front"]:
        axes.annotate(point["name"], locate(point), xytext=(4, 4), textcoords="offset points",
                      fontsize=TEXT - 2)  # fmt: skip
    axes.axhline(unit * dense["report_error"], color="#333333", linewidth=0.8, linestyle=":")
    if report["front"]:  # an empty axis has no logarithms
        axes.set_xscale("log")
    # Plain numbers: the axis seldom shows two powers of ten.
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(lambda value, _: f"{value:g}")
    clean_axes(axes, which="both")


_PICTURE = 1.0  # inches
LOSSES = {"l1": "L1 loss", "bce": "cross-entropy (nats)"}
"""Loss of an autoencoder -> what its axis is called."""


def write_plots(result: AutoencodeResult) -> list[Path]:
    """Write curves and reconstructions as PNG and SVG into the run folder; return the files.

    Raises:
        UserError: matplotlib is missing, or a file cannot be written.
    """
    plots = {"curves": _draw_curves, "reconstructions": _draw_reconstructions}
    paths = plot_files(result.folder)
    for path in paths:
        save_figure(partial(plots[path.stem], result), path)
    return paths


def plot_files(folder: Path) -> list[Path]:
    """Return the files that :func:`write_plots` writes."""
    names = ("curves", "reconstructions")
    return [folder / f"{name}{suffix}" for name in names for suffix in (".png", ".svg")]


def _draw_curves(result: AutoencodeResult) -> Any:
    """Draw loss, sparsity and schedule over the epochs."""
    figure = new_figure(7.0, 7.5)
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 2])
    by_cell = [
        [row for row in result.history if row.cell == cell]
        for cell in range(1 + max(row.cell for row in result.history))
    ]
    _draw_loss(upper, result, by_cell)
    _draw_sparsity(middle, by_cell)
    _draw_schedule(lower, result, len(by_cell))
    for axes in (upper, middle, lower):
        clean_axes(axes)
    settings = result.settings
    title = printable(f"{settings.mode}: {settings.operator}, {settings.data}")
    figure.suptitle(title, fontsize=TEXT + 3, parse_math=False)
    return figure


def _draw_loss(axes: Any, result: AutoencodeResult, by_cell: list[list[HistoryRow]]) -> None:
    for number, rows in enumerate(by_cell):
        if number == result.best_cell:
            continue
        axes.plot([r.generation for r in rows], [r.validation_loss for r in rows],
                  color=_GREY, linewidth=0.6, alpha=0.6)  # fmt: skip
    best = by_cell[result.best_cell]
    epochs = [row.generation for row in best]
    axes.plot(epochs, [row.validation_loss for row in best], color=_BLUE,
              label="validation" if len(by_cell) == 1 else "validation, best cell")  # fmt: skip
    trained = [(row.generation, row.train_loss) for row in best if row.train_loss is not None]
    axes.plot(*zip(*trained, strict=True), color=_ORANGE, linewidth=0.8, label="training")
    pruned = [row for row in best if row.pruned]
    axes.plot([r.generation for r in pruned], [r.validation_loss for r in pruned], "v",
              color=_BLUE, markersize=5, linestyle="", label="pruned")  # fmt: skip
    axes.set_ylabel(LOSSES[result.settings.loss], fontsize=TEXT)
    axes.legend(frameon=False, fontsize=TEXT)


def _draw_sparsity(axes: Any, by_cell: list[list[HistoryRow]]) -> None:
    for rows in by_cell:
        axes.step([r.generation for r in rows], [100 * r.sparsity for r in rows], where="post",
                  color=_BLUE, linewidth=0.8, alpha=1 if len(by_cell) == 1 else 0.5)  # fmt: skip
    axes.set_ylabel("weights that are zero (%)", fontsize=TEXT)
    axes.set_ylim(bottom=0)


def _draw_schedule(axes: Any, result: AutoencodeResult, cells: int) -> None:
    epochs = range(1, len(result.probabilities) + 1)
    axes.plot(epochs, result.probabilities, color=_BLUE, drawstyle="steps-mid",
              label=f"schedule {result.settings.schedule}")  # fmt: skip
    pruned = [0.0] * len(result.probabilities)
    for row in result.history:
        pruned[row.generation - 1] += row.pruned / cells
    axes.bar(epochs, pruned, color=_GREY, alpha=0.6, width=0.8, label="share of cells pruned")
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("probability", fontsize=TEXT)
    axes.set_xlabel("epoch", fontsize=TEXT)
    axes.legend(frameon=False, fontsize=TEXT)


def _draw_reconstructions(result: AutoencodeResult) -> Any:
    """Draw samples of the validation split above their reconstructions."""
    rows = result.reconstructions()
    count = len(result.pictures)
    figure = new_figure(_PICTURE * count, _PICTURE * len(rows) + 0.3 * len(rows))
    panels = figure.subplots(len(rows), count, squeeze=False)
    for (title, pictures), line in zip(rows, panels, strict=True):
        line[0].set_title(title, fontsize=TEXT, loc="left")
        for picture, axes in zip(pictures, line, strict=True):
            axes.imshow(_to_picture(picture, result.shape), cmap="gray", vmin=0, vmax=1,
                        interpolation="nearest")  # fmt: skip
            axes.set_axis_off()
    return figure


def _to_picture(values: Any, shape: tuple[int, ...]) -> Any:
    """Return an array (rows, columns), or (rows, columns, 3); vectors become a rectangle."""
    values = values.detach().cpu()
    if len(shape) == 3 and shape[0] in (1, 3):
        picture = values.reshape(shape).permute(1, 2, 0)
        return (picture[..., 0] if shape[0] == 1 else picture).numpy()
    size = values.numel()
    rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return values.reshape(rows, size // rows).numpy()


_BEFORE, _AFTER, _WHOLE = _LIGHT, _BLUE, _GREY
_WIDTH = 8.0  # inches
_ROW = 0.21  # inches per layer: a line of text of 8 points, and space
_MARGIN = 1.15  # inches for the title and the axes
_MAX_INCHES = 300.0  # of 72 points; readers refuse much larger pictures


def plot_pruning(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the report of :meth:`gp_prune.apply.result.PrunedModel.report` as bars.

    The upper panel shows the totals (MACs, parameters, and latency where it was measured) as
    shares of the original, the lower one the channels of every layer, or its weights where single
    weights were pruned. Layers that were kept whole are grey.

    Args:
        report: the report, or the content of a saved ``report.json``.
        path: see :func:`save_figure`.

    Raises:
        UserError: the report has no layers; or see :func:`save_figure`.
    """
    save_figure(lambda: _draw_layers(report), path)


def _draw_layers(report: Mapping[str, Any]) -> Any:
    by_weight = report["achieved"]["weights"] is not None
    unit = "params" if by_weight else "channels"
    layers = [row for row in report["layers"] if row[unit]]
    if not layers:
        raise UserError("the report has no layers to draw; give the report of a pruned network")
    totals = _totals(report)
    heights = [_ROW * (len(totals) + 1), _ROW * (len(layers) + 1)]
    figure = new_figure(_WIDTH, min(_MAX_INCHES, sum(heights) + 2 * _MARGIN))
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _draw_bars(upper, [_Bar(name, 100.0, 100 * share, note) for name, share, note in totals])
    upper.set_xlabel("kept (%)", fontsize=TEXT)
    upper.set_xlim(0, 100)
    _draw_bars(lower, [_layer_bar(row, unit) for row in layers])
    lower.set_xlabel("weights and biases" if by_weight else "channels", fontsize=TEXT)
    lower.set_xlim(0, max(row[unit] for row in layers))
    _add_legend(lower, any(row["fixed"] for row in layers))
    title = printable(f"{report['model'] or 'network'} pruned by {report['metric']}")
    upper.set_title(title, fontsize=TEXT + 3, loc="left", parse_math=False)
    return figure


class _Bar(NamedTuple):
    name: str
    before: float
    after: float
    note: str
    whole: bool = False


def _layer_bar(row: Mapping[str, Any], unit: str) -> _Bar:
    before, after = row[unit], row[f"{unit}_kept"]
    heads = " heads" if unit == "channels" and row.get("unit") == "heads" else ""
    note = f"{quantity(after)} of {quantity(before)}{heads}"
    return _Bar(row["layer"], before, after, note, bool(row["fixed"]))


def _totals(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return name, share kept, and note of each total."""
    before, after = report["before"], report["after"]
    totals = [
        (title, after[key] / before[key], f"{quantity(after[key])} of {quantity(before[key])}")
        for key, title in (("macs", "MACs"), ("params", "parameters"))
        if before[key]
    ]
    share = report["achieved"].get("latency")
    if share is not None:
        totals.append(("latency", share, f"{percent(share)} of the time"))
    return totals


def _draw_bars(axes: Any, bars: Sequence[_Bar]) -> None:
    """Draw horizontal bars from top to bottom."""
    rows = range(len(bars))
    axes.barh(rows, [bar.before for bar in bars], height=0.72, color=_BEFORE)
    colours = [_WHOLE if bar.whole else _AFTER for bar in bars]
    axes.barh(rows, [bar.after for bar in bars], height=0.72, color=colours)
    axes.set_yticks(rows, [printable(bar.name) for bar in bars])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a name may contain a dollar sign
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    clean_axes(axes, left=True)
    for row, bar in enumerate(bars):
        axes.annotate(
            bar.note, (1.0, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=TEXT, annotation_clip=False,
        )  # fmt: skip


def _add_legend(axes: Any, whole: bool) -> None:
    from matplotlib.patches import Patch

    colours = {"kept": _AFTER, **({"kept whole": _WHOLE} if whole else {}), "removed": _BEFORE}
    axes.legend(
        handles=[Patch(color=colour, label=label) for label, colour in colours.items()],
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(colours), frameon=False, fontsize=TEXT,
    )  # fmt: skip
