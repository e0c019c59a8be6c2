"""Draw the pictures of the documentation: ``python docs/pictures/draw.py`` writes the SVG files.

The scores are those of the metric l1 on the synthetic layer of the package.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from gp_prune import Metric, synthetic_layer

HERE = Path(__file__).resolve().parent
INK, FAINT, BLUE, ORANGE, LINE = "#1f2328", "#57606a", "#0072b2", "#d55e00", "#d0d7de"


def text(x: float, y: float, words: str, size: int = 14, colour: str = INK, **more: str) -> str:
    """Return a line of text, in the middle of its place."""
    style = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="middle"{style}>'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, colour: str = LINE) -> str:
    """Return a box with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="#fff" '
        f'stroke="{colour}" stroke-width="1.5"/>'
    )


def arrow(x: float, y: float, length: float) -> str:
    """Return an arrow to the right."""
    end = x + length
    return (
        f'<path d="M{x:g} {y:g}H{end:g}m-7-5l7 5-7 5" fill="none" stroke="{FAINT}" '
        'stroke-width="1.8"/>'
    )


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """Return a picture with a white ground, which is readable on dark pages, too."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="#fff"/>\n{body}\n</svg>\n'
    )


def overview() -> str:
    """Draw the way from a formula to scores, to a smaller layer."""
    scores = Metric.load("l1").scores(synthetic_layer()).tolist()
    keep = sorted(scores)[len(scores) // 2]
    parts = [box(16, 40, 236, 150), text(134, 28, "1  a formula, evolved or published", 13, FAINT)]
    parts += [
        text(134, 112, "sum[i,k](abs(W))", 19, ORANGE, font_family="ui-monospace, monospace"),
        text(134, 150, "one value per channel o of a layer", 12, FAINT),
        arrow(262, 115, 36),
        box(308, 40, 236, 150),
        text(426, 28, "2  scores of the channels", 13, FAINT),
    ]
    step = 200 / len(scores)
    for number, score in enumerate(scores):
        height = 105 * score / max(scores)
        x = 326 + number * step
        colour = BLUE if score >= keep else LINE
        parts.append(
            f'<rect x="{x:.1f}" y="{172 - height:.1f}" width="{step - 5:.1f}" '
            f'height="{height:.1f}" fill="{colour}"/>'
        )
    parts += [text(426, 60, "the budget keeps the highest", 12, FAINT), arrow(554, 115, 36)]
    parts += [box(600, 40, 236, 150), text(718, 28, "3  a smaller network", 13, FAINT)]
    for number, score in enumerate(scores):
        y = 58 + number * (116 / len(scores))
        kept = score >= keep
        parts.append(
            f'<rect x="640" y="{y:.1f}" width="156" height="{116 / len(scores) - 4:.1f}" rx="2" '
            f'fill="{BLUE if kept else "none"}" stroke="{BLUE if kept else LINE}" '
            f'stroke-dasharray="{"none" if kept else "4 3"}"/>'
        )
    title = "A formula scores the channels of a layer; the lowest are removed"
    return picture(852, 206, title, parts)


def axes() -> str:
    """Draw the letters of the axes of a weight and of an activation."""
    parts = [text(200, 28, "weight W of a convolution", 14), text(520, 28, "activation A", 14)]
    for number in range(4):
        x, y = 120 + 26 * number, 60 + 18 * number
        parts.append(box(x, y, 110, 76, BLUE))
    parts += [
        text(66, 168, "o: filters, one per", 12, FAINT),
        text(66, 184, "output channel", 12, FAINT),
        text(250, 205, "i: input channels, k: taps", 12, FAINT),
    ]
    for number in range(4):
        x, y = 430 + 26 * number, 60 + 18 * number
        parts.append(box(x, y, 110, 76, ORANGE))
    parts += [
        text(390, 168, "n: samples", 12, FAINT),
        text(560, 205, "o: channels, s: positions", 12, FAINT),
        text(330, 240, "sum[i,k](abs(W)) removes i and k; one value per o is left", 13),
    ]
    return picture(660, 260, "Axes of a weight and of an activation", parts)


def search() -> str:
    """Draw the loop of a search."""
    steps = (
        ("draw", "crossover, mutation"),
        ("score", "channels of every task"),
        ("cut", "to equal MACs"),
        ("measure", "validation error"),
        ("select", "NSGA-II"),
    )
    parts = []
    for number, (name, note) in enumerate(steps):
        x = 16 + 168 * number
        parts += [
            box(x, 30, 136, 74, BLUE),
            text(x + 68, 62, name, 16),
            text(x + 68, 86, note, 11, FAINT),
        ]
        if number < len(steps) - 1:
            parts.append(arrow(x + 140, 67, 24))
    parts.append(
        f'<path d="M756 108v34H84v-30m-5 7l5-7 5 7" fill="none" stroke="{FAINT}" '
        'stroke-width="1.8"/>'
    )
    parts.append(text(420, 164, "next generation; the front is kept", 12, FAINT))
    return picture(844, 180, "The loop of a search: draw, score, cut, measure, select", parts)


PICTURES = {"overview": overview, "axes": axes, "search": search}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw(), encoding="utf-8")
