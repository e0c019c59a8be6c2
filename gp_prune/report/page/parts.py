"""What a page of a run is made of: facts, tables and plots, without their appearance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell of a table, or a fact.

    Attributes:
        text: what is shown; of a formula, its text form.
        value: the exact number where ``text`` is a rounded one.
        math: MathML of this package, which is shown in the place of the text.
        target: key of the row that it leads to.
        link: relative address of a page that it leads to.
        share: a share from 0 to 1 that is drawn as a bar.
    """

    text: str
    value: float | None = None
    math: str = ""
    target: str = ""
    link: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: the first one is its heading.
        key: what marks of plots that belong to it have, too; empty for none.
        best: whether it is the recommended one.
    """

    cells: Sequence[Cell]
    key: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headings: of the columns.
        rows: the rows.
        title: the line above it.
        folded: whether it is shown when it is asked for alone.
    """

    headings: Sequence[str]
    rows: Sequence[Row]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values in two columns."""

    rows: Sequence[tuple[str, Cell]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A point of a plot.

    Attributes:
        x: on the horizontal axis.
        y: on the vertical axis.
        label: what is said of it.
        key: of the row that it belongs to; empty for none.
    """

    x: float
    y: float
    label: str
    key: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: for the legend.
        look: ``"front"``, ``"best"``, ``"random"``, ``"l1"``, ``"published"`` or ``"other"``; with
            ``" alike"`` behind it, the marks are hollow, beside a series of the same look.
        points: in their order.
        line: whether they are connected.
    """

    name: str
    look: str
    points: Sequence[Point]
    line: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: the line above it.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        series: what is drawn.
        cloud: further points, drawn faintly.
        cloud_name: what they are, for the legend.
        whole: whether the horizontal axis has whole numbers alone.
        zero: whether the vertical axis begins at 0.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    cloud: Sequence[tuple[float, float]] = ()
    cloud_name: str = ""
    whole: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Heat:
    """Shares over generations, as a table of shades.

    Attributes:
        title: the line above it.
        columns: the numbers of the generations.
        rows: name and one share from 0 to 1 for each column.
    """

    title: str
    columns: Sequence[int]
    rows: Sequence[tuple[str, Sequence[float]]]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


Part = Table | Facts | Command | Plot | Heat | Heading | str
"""A text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """All that a page says.

    Attributes:
        title: of the page.
        summary: sentences below it.
        sections: in their order.
        formula: the recommended formula, if there is one.
        formula_name: its name.
        running: whether the run goes on.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    formula: Cell | None = None
    formula_name: str = ""
    running: bool = False
