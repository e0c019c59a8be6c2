"""Where the parts of a plot are drawn, in the units of an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gp_prune.report.page.parts import Heat, Plot, Point, Series

WIDTH, HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 24, 12, 10, 40
_DIGIT = 6.2
"""Width of a digit of a tick."""
_CLOUD = 2
"""Faint points closer than this are one, so that a long run makes no large page."""

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Mark:
    """A point where it is drawn."""

    x: float
    y: float
    point: Point


@dataclass(frozen=True)
class DrawnSeries:
    """A series with its line and its marks."""

    series: Series
    path: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Picture:
    """A plot where its parts are drawn.

    Attributes:
        plot: the plot.
        series: from back to front.
        cloud: the path of the faint points.
        x_ticks: position and label.
        y_ticks: position and label.
        frame: left, right, top and bottom of the area of the points.
    """

    plot: Plot
    series: Sequence[DrawnSeries]
    cloud: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    frame: tuple[float, float, float, float]


def draw(plot: Plot) -> Picture:
    """Return a plot with the places of its parts."""
    points = [(p.x, p.y) for series in plot.series for p in series.points]
    everything = [*points, *plot.cloud]
    x_ticks = ticks([x for x, _ in everything], whole=plot.whole)
    y_ticks = ticks([y for _, y in everything] + ([0.0] if plot.zero else []))
    widest = max(len(format_tick(y, y_ticks)) for y in y_ticks)
    left, right = round(_LEFT + _DIGIT * widest, 1), WIDTH - _RIGHT
    top, bottom = _TOP, HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _between(x, x_ticks[0], x_ticks[-1], left, right),
            _between(y, y_ticks[0], y_ticks[-1], bottom, top),
        )

    drawn = []
    for series in plot.series:
        marks = [Mark(*place(point.x, point.y), point) for point in series.points]
        path = " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in marks) if series.line else ""
        drawn.append(DrawnSeries(series, path, marks))
    return Picture(
        plot=plot,
        series=drawn,
        cloud=_cloud(place(x, y) for x, y in plot.cloud),
        x_ticks=[(place(x, y_ticks[0])[0], format_tick(x, x_ticks)) for x in x_ticks],
        y_ticks=[(place(x_ticks[0], y)[1], format_tick(y, y_ticks)) for y in y_ticks],
        frame=(left, right, top, bottom),
    )


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    return round(start + (value - low) / (high - low) * (end - start), 1)


def _cloud(places: Iterable[tuple[float, float]]) -> str:
    """Return a path with a dot at each place; of those that hide each other, one."""
    cells = {(round(x / _CLOUD), round(y / _CLOUD)) for x, y in places}
    return "".join(f"M{x * _CLOUD} {y * _CLOUD}h0" for x, y in sorted(cells))


def ticks(values: Sequence[float], *, whole: bool = False, most: int = 6) -> list[float]:
    """Return round numbers that enclose values, at least two.

    Args:
        values: what the axis shows.
        whole: whether all must be whole.
        most: number of steps.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        spread = 1.0 if whole or not low else abs(low) / 2
        low, high = low - spread, high + spread
        if whole and low < 0 <= low + spread:
            low = 0.0
    size = 10 ** math.floor(math.log10((high - low) / most))
    step = next(s * size for s in _STEPS if s * size * most >= high - low)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def format_tick(value: float, all_ticks: Sequence[float]) -> str:
    """Return a tick with the digits that its neighbours need."""
    step = all_ticks[1] - all_ticks[0]
    if max(map(abs, all_ticks)) >= 1e5 or step < 1e-4:
        return f"{value:.3g}"
    digits = next((d for d in range(5) if abs(round(step, d) - step) < 1e-9 * step), 5)
    return f"{value:.{digits}f}"


HEAT_WIDTH, HEAT_ROW, HEAT_NAMES = 380, 16, 110


@dataclass(frozen=True)
class Shade:
    """A share of a table of shades."""

    x: float
    y: float
    width: float
    share: float
    label: str


def shades(heat: Heat) -> list[Shade]:
    """Return the shades of a table, row by row."""
    width = (HEAT_WIDTH - HEAT_NAMES) / max(1, len(heat.columns))
    return [
        Shade(
            round(HEAT_NAMES + n * width, 1), HEAT_ROW * row, round(width + 0.3, 1), share,
            f"{name}, generation {heat.columns[n]}: {share:.0%}",
        )
        for row, (name, shares) in enumerate(heat.rows)
        for n, share in enumerate(shares)
    ]  # fmt: skip
