"""Floor 10: a run of the autoencoder trainer in pictures: curves, schedule, reconstructions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gp_prune.guided.autoencode.population import Row
from gp_prune.guided.autoencode.results import AutoencodeResult
from gp_prune.report.figures import save_figure

_BLUE, _GREY, _ORANGE = "#2166ac", "#8a929e", "#c2703d"
_TEXT = 8  # points
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
