"""A picture of what pruning did: every layer and the totals, before and after.

It is drawn from the report alone, so also from a ``report.json`` that was saved.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gp_prune._io import write_bytes
from gp_prune.autoencoder.population import Row
from gp_prune.autoencoder.results import AutoencodeResult
from gp_prune.errors import UserError
from gp_prune.report.tables import percent, quantity

SUFFIXES = (".png", ".svg", ".pdf")


def save_figure(draw: Callable[[], Any], path: str | Path) -> None:
    """Draw and write a figure, as one step.

    Args:
        draw: makes the figure, once matplotlib is there.
        path: where to; the suffix ``.png``, ``.svg`` or ``.pdf`` says the format.

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
    """The module; UserError says how to install it where it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise UserError(
            "a plot needs matplotlib, which is not installed; install it with "
            "pip install 'gp-prune[plot]'"
        ) from error
    return matplotlib


_FRONT, _COLOURS = "#2166ac", {"random": "#8a929e", "l1": "#c2703d"}
_TEXT = 8  # points


def plot_front(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw the error over the MACs and over the parameters that are left.

    Args:
        report: what :func:`gp_prune.genetic.result.result_json` says.
        path: where to; the suffix ``.png``, ``.svg`` or ``.pdf`` says the format. The file is
            replaced as one step.

    Raises:
        UserError: matplotlib is missing, the suffix is another, or the file cannot be written.
    """
    save_figure(lambda: _drawn_front(report), path)


def _drawn_front(report: Mapping[str, Any]) -> Any:
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


_BLUE, _GREY, _ORANGE = "#2166ac", "#8a929e", "#c2703d"
_PICTURE = 1.0  # inches
_LOSSES = {"l1": "L1 loss", "bce": "cross-entropy (nats)"}
NAMES = ("curves", "reconstructions")
ENDINGS = (".png", ".svg")


def write_plots(result: AutoencodeResult) -> list[Path]:
    """Write curves and reconstructions as PNG and SVG into the run folder; gives the files.

    Raises:
        UserError: matplotlib is missing, or a file cannot be written.
    """
    written = []
    makers: tuple[Callable[[AutoencodeResult], Any], ...] = (_curves, _reconstructions)
    for name, make in zip(NAMES, makers, strict=True):
        for ending in ENDINGS:
            path = result.folder / f"{name}{ending}"
            save_figure(partial(make, result), path)
            written.append(path)
    return written


def _curves(result: AutoencodeResult) -> Any:
    """Loss, sparsity and schedule over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 7.5), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 2])
    by_cell = [
        [row for row in result.history if row.cell == cell]
        for cell in range(1 + max(row.cell for row in result.history))
    ]
    _loss(upper, result, by_cell)
    _sparsity(middle, by_cell)
    _schedule(lower, result)
    for axes in (upper, middle, lower):
        axes.tick_params(labelsize=_TEXT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    settings = result.settings
    figure.suptitle(
        f"{settings.mode}: {settings.operator}, {settings.data}",
        fontsize=_TEXT + 3,
        parse_math=False,
    )
    return figure


def _loss(axes: Any, result: AutoencodeResult, by_cell: list[list[Row]]) -> None:
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
    axes.set_ylabel(_LOSSES[result.settings.loss], fontsize=_TEXT)
    axes.legend(frameon=False, fontsize=_TEXT)


def _sparsity(axes: Any, by_cell: list[list[Row]]) -> None:
    for rows in by_cell:
        axes.step([r.generation for r in rows], [100 * r.sparsity for r in rows], where="post",
                  color=_BLUE, linewidth=0.8, alpha=1 if len(by_cell) == 1 else 0.5)  # fmt: skip
    axes.set_ylabel("weights that are zero (%)", fontsize=_TEXT)
    axes.set_ylim(bottom=0)


def _schedule(axes: Any, result: AutoencodeResult) -> None:
    epochs = range(1, len(result.probabilities) + 1)
    axes.plot(epochs, result.probabilities, color=_BLUE, drawstyle="steps-mid",
              label=f"schedule {result.settings.schedule}")  # fmt: skip
    cells = 1 + max(row.cell for row in result.history)
    happened = [0.0] * len(result.probabilities)
    for row in result.history:
        happened[row.generation - 1] += row.pruned / cells
    axes.bar(epochs, happened, color=_GREY, alpha=0.6, width=0.8, label="share of cells pruned")
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("probability", fontsize=_TEXT)
    axes.set_xlabel("epoch", fontsize=_TEXT)
    axes.legend(frameon=False, fontsize=_TEXT)


def _reconstructions(result: AutoencodeResult) -> Any:
    """Samples of the validation split above what the network makes of them."""
    from matplotlib.figure import Figure

    rows = result.reconstructions()
    count = len(result.pictures)
    figure = Figure(
        figsize=(_PICTURE * count, _PICTURE * len(rows) + 0.3 * len(rows)), layout="constrained"
    )
    panels = figure.subplots(len(rows), count, squeeze=False)
    for (title, pictures), line in zip(rows, panels, strict=True):
        line[0].set_title(title, fontsize=_TEXT, loc="left")
        for picture, axes in zip(pictures, line, strict=True):
            values = _as_picture(picture, result.shape)
            axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
    return figure


def _as_picture(values: Any, shape: tuple[int, ...]) -> Any:
    """Rows and columns of numbers, in colour with a third axis; vectors become a rectangle."""
    values = values.detach().cpu()
    if len(shape) == 3 and shape[0] in (1, 3):
        picture = values.reshape(shape).permute(1, 2, 0)
        return (picture[..., 0] if shape[0] == 1 else picture).numpy()
    size = values.numel()
    rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return values.reshape(rows, size // rows).numpy()


_BEFORE, _AFTER, _WHOLE = "#d3d7de", "#2166ac", "#8a929e"
_WIDTH = 8.0  # inches
_ROW = 0.21  # inches per layer: a line of text of 8 points, and air
_MARGIN = 1.15  # inches for the title and the axes
_MOST_INCHES = 300.0  # a picture of 72 times as many points is as large as a reader takes


def plot_pruning(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw what :meth:`gp_prune.apply.result.PrunedModel.report` says as bars.

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
    save_figure(lambda: _drawn_layers(report), path)


def _drawn_layers(report: Mapping[str, Any]) -> Any:
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
