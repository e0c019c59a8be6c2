"""Plots of a search for papers, as PNG, SVG or PDF: those of its page, and an expression tree.

matplotlib is an extra, so it is imported only when something is drawn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression, format_constant
from gp_prune.pruning.plan.channels import describe_budget
from gp_prune.report.page.parts import Plot, Series
from gp_prune.report.plots import TEXT, clean_axes, find_matplotlib, new_figure, save_figure
from gp_prune.report.text import printable

if TYPE_CHECKING:
    from gp_prune.search.results import SearchResult

COLUMN = 3.4
"""Inches of a column of a paper."""

_TICKS = TEXT - 1

_LOOKS = {
    "best": ("#d55e00", "D", "-"),
    "front": ("#0072b2", "o", "-"),
    "l1": ("#009e73", "s", "--"),
    "published": ("#aa4499", "^", ":"),
    "random": ("#555555", "x", "-."),
    "other": ("#555555", "v", "-."),
}
"""Colour (of Okabe and Ito, which colour-blind people tell apart), marker, line."""

_UNITS = {"macs": "MACs", "params": "parameters"}


class SearchPlots:
    """The plots of a search that has ended; each returns a figure of matplotlib.

    A figure shows itself in a notebook. With a path it is also written; the suffix ``.png``,
    ``.svg`` or ``.pdf`` is the format. Each method raises UserError where matplotlib is missing or
    the file cannot be written.

    Args:
        result: of the search.
    """

    def __init__(self, result: SearchResult) -> None:
        self._result = result

    def front(self, path: str | Path | None = None) -> Any:
        """Draw the error over each other objective, with all formulas that were tried."""
        from gp_prune.report.page.search_log import read_search_log
        from gp_prune.report.page.search_page import front_entries, front_plots

        log = read_search_log(self._result.folder)
        plots = front_plots(self._result.config, log, front_entries(self._result))
        return _finish(lambda: draw_panels(plots), path)

    def course(self, path: str | Path | None = None) -> Any:
        """Draw hypervolume, least error and diversity over the generations."""
        from gp_prune.report.page.search_course import course_plots
        from gp_prune.report.page.search_log import read_search_log

        plots = course_plots(read_search_log(self._result.folder).turns)
        return _finish(lambda: draw_panels(plots), path)

    def errors(self, path: str | Path | None = None, *, kind: str = "macs") -> Any:
        """Draw the test error of the recommended formula and the baselines on each task.

        Args:
            path: the file.
            kind: what is equal for all, ``"macs"`` or ``"params"``.

        Raises:
            UserError: there is no such kind, or the search had no comparison.
        """
        from gp_prune.report.page.search_page import error_plots

        if kind not in _UNITS:
            raise UserError(f"kind is {kind!r}; it must be {' or '.join(_UNITS)}")
        if not self._result.comparison.records:
            raise UserError("the search had no comparison; resume it with comparison=True")
        if not self._result.config.budgets:
            raise UserError(
                f"the search compared at {', '.join(self._result.config.pattern)} alone, and a "
                "pattern is no curve; search at shares, too (ladder=...)"
            )
        plots = error_plots(self._result, kind)
        return _finish(lambda: draw_panels(plots), path)

    def layers(
        self, path: str | Path | None = None, *, kind: str = "macs", keep: float | None = None
    ) -> Any:
        """Draw what the recommended formula keeps of every layer, a panel for each task.

        Args:
            path: the file.
            kind: what is equal for all, ``"macs"`` or ``"params"``; or a pattern of the search.
            keep: the share of it; by default the smallest of the comparison.

        Raises:
            UserError: the run has no such budget, or is one of an earlier version.
        """
        from gp_prune.report.page.search_log import read_search_log

        shares = [s for s in read_search_log(self._result.folder).shares if s.budget == kind]
        least = min((s.keep for s in shares), default=0.0) if keep is None else keep
        shares = [s for s in shares if s.keep == least]
        if not shares:
            budgets = ", ".join(map(str, self._result.config.budgets))
            raise UserError(
                f"the run does not say what is kept of its layers at {kind} {least}; its budgets "
                f"are {budgets} of {' and '.join(_UNITS)}"
            )
        return _finish(lambda: _draw_layers(shares), path)

    def tree(self, path: str | Path | None = None) -> Any:
        """Draw the recommended formula as a tree."""
        return plot_tree(self._result.recommended.expression, path)


def plot_tree(expression: Expression, path: str | Path | None = None) -> Any:
    """Draw a formula as a tree, and return the figure.

    Args:
        expression: the formula.
        path: the file, if it is to be written; see :func:`gp_prune.report.plots.save_figure`.

    Raises:
        UserError: matplotlib is missing, or the file cannot be written.
    """
    return _finish(lambda: _draw_tree(expression), path)


def _finish(draw: Callable[[], Any], path: str | Path | None) -> Any:
    find_matplotlib()
    figure = draw()
    if path is not None:
        save_figure(lambda: figure, path)
    return figure


def _columns(count: int) -> int:
    """Return how many of some panels stand side by side."""
    return min(3, count)


def _new_panels(count: int, height: float, below: float = 0.0) -> tuple[Any, list[Any]]:
    """Return a figure and the axes of its panels, at most three in a row.

    Args:
        count: number of panels.
        height: inches of a row.
        below: inches for a legend.
    """
    columns = _columns(count)
    rows = math.ceil(count / columns)
    figure = new_figure(COLUMN * columns, height * rows + below)
    panels = [*figure.subplots(rows, columns, squeeze=False).ravel()]
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def draw_panels(plots: Sequence[Plot]) -> Any:
    """Draw plots side by side, at most three in a row, with one legend for all."""
    figure, panels = _new_panels(len(plots), 2.5, 0.3)
    handles: dict[str, Any] = {}
    for axes, plot in zip(panels, plots, strict=True):
        _draw_plot(axes, plot, handles)
    if len(handles) > 1:
        figure.legend(
            handles.values(), map(printable, handles), loc="outside lower center",
            ncols=min(len(handles), 2 * _columns(len(plots))), frameon=False, fontsize=TEXT,
        )  # fmt: skip
    return figure


def _draw_plot(axes: Any, plot: Plot, handles: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    if plot.cloud:
        x, y = zip(*plot.cloud, strict=True)
        cloud = axes.plot(x, y, ".", color="#9aa4af", alpha=0.5, markersize=3)
        handles.setdefault(plot.cloud_name, cloud[0])
    for series in plot.series:
        (drawn,) = _draw_series(axes, series)
        if len(plot.series) > 1 or plot.cloud:  # otherwise the title says what it is
            handles.setdefault(series.name, drawn)
    if plot.zero:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=plot.whole))
    axes.set_xlabel(plot.x, fontsize=TEXT)
    axes.set_ylabel(plot.y, fontsize=TEXT)
    if plot.title:
        axes.set_title(printable(plot.title), fontsize=TEXT, parse_math=False)
    clean_axes(axes, size=_TICKS)


def _draw_series(axes: Any, series: Series) -> Any:
    look, *alike = series.look.split()
    colour, marker, line = _LOOKS[look]
    return axes.plot(
        [point.x for point in series.points], [point.y for point in series.points],
        color=colour, marker=marker, linestyle=line if series.line else "", markersize=4.5,
        linewidth=1.2, markerfacecolor="white" if alike else colour,
    )  # fmt: skip


def _draw_layers(shares: Sequence[Any]) -> Any:
    from gp_prune.apply.own_task import short_names

    most = max(len(one.layers) for one in shares)
    figure, panels = _new_panels(len(shares), 0.8 + 0.17 * most)
    titles = short_names([one.task for one in shares])
    for axes, one in zip(panels, shares, strict=True):
        names = [printable(name) for name, _, _ in one.layers]
        places = range(len(names))
        axes.barh(places, [100] * len(names), color="#d8dee4", height=0.7)
        kept = [100 * kept / max(1, of) for _, kept, of in one.layers]
        axes.barh(places, kept, color=_LOOKS["front"][0], height=0.7)
        axes.set_yticks(places, names)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"kept (%) at {describe_budget(one.budget, one.keep)}", fontsize=TEXT)
        axes.set_title(printable(titles[one.task]), fontsize=TEXT, parse_math=False)
        clean_axes(axes, size=_TICKS)
    return figure


def _draw_tree(expression: Expression) -> Any:
    nodes, lines = _places(expression)
    width = 1 + max(x for x, _, _ in nodes)
    figure = new_figure(max(1.5, 0.75 * width), 0.55 * (expression.height + 1) + 0.2)
    axes = figure.subplots()
    for (x, y), (parent_x, parent_y) in lines:
        axes.plot([x, parent_x], [y, parent_y], color="#8a929e", linewidth=1, zorder=1)
    for x, y, node in nodes:
        axes.text(
            x, y, printable(_label(node)), ha="center", va="center", fontsize=TEXT, zorder=2,
            parse_math=False,
            bbox={"boxstyle": "round,pad=0.3", "linewidth": 1, "facecolor": "white",
                  "edgecolor": _LOOKS["front" if node.arguments else "best"][0]},
        )  # fmt: skip
    axes.set_xlim(-0.6, width - 0.4)
    axes.set_ylim(-expression.height - 0.5, 0.5)
    axes.set_axis_off()
    return figure


_Place = tuple[float, float]


def _places(
    expression: Expression,
) -> tuple[list[tuple[float, float, Expression]], list[tuple[_Place, _Place]]]:
    """Return where the nodes of a tree stand, and the lines from arguments to their node.

    Leaves stand side by side, an inner node in the middle above its first and last argument.
    """
    nodes: list[tuple[float, float, Expression]] = []
    lines: list[tuple[_Place, _Place]] = []
    leaves = itertools.count()

    def visit(node: Expression, depth: int) -> _Place:
        children = [visit(argument, depth + 1) for argument in node.arguments]
        x = (children[0][0] + children[-1][0]) / 2 if children else float(next(leaves))
        place = (x, -float(depth))
        nodes.append((*place, node))
        lines.extend((child, place) for child in children)
        return place

    visit(expression, 0)
    return nodes, lines


def _label(node: Expression) -> str:
    if node.value is not None:
        return format_constant(node.value)
    brackets = f"[{','.join(node.over)}]" if node.over else ""
    return f"{node.name}{brackets}"
