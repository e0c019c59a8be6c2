"""Show tables and summaries on a terminal, or as plain lines of text elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from gp_prune.report.text import Rendered, printable

PLAIN_WIDTH = 120
"""Characters per line where the output is not a terminal."""

LEAST_TEXT = 40
"""Characters of the narrowest column of text beside figures."""

MARK = ">>>>"
"""Marks the recommended row of a table."""


class _SafeConsole(Console):
    """A console that lets no text steer the terminal, whatever it is part of."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments of a part; rich's own codes are segments without text."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def make_console(stream: IO[str], plain_width: int = PLAIN_WIDTH) -> Console:
    """Return a console that prints text unchanged: brackets in formulas are no markup.

    A line has the width of the terminal, or elsewhere of the variable COLUMNS or ``plain_width``.
    What could steer the terminal is written out, see :func:`gp_prune.report.text.printable`.
    """
    columns = os.environ.get("COLUMNS", "")
    elsewhere = int(columns) if columns.isdecimal() and 0 < int(columns) < 10**4 else plain_width
    width = None if stream.isatty() else elsewhere
    return _SafeConsole(file=stream, width=width, markup=False, highlight=False, emoji=False)


def quantity(number: int) -> str:
    """Format a count with three digits and a prefix: ``9.63 M``; exact below ten thousand."""
    if abs(number) < 10_000:
        return str(number)
    value, prefix = float(number), ""
    for prefix in ("k", "M", "G", "T"):  # noqa: B007 - the last one reached is used
        value /= 1000
        if abs(value) < 999.5:
            break
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {prefix}"


def percent(share: float) -> str:
    """Format a share as a percentage with one decimal: ``50.1 %``."""
    return f"{100 * share:.1f} %"


def new_table(title: str, headings: Iterable[str], *, padding: int = 1) -> Table:
    """Return a table without lines or rows.

    Args:
        title: the line above it.
        headings: of the columns; a column is flush right if its heading starts with ``>``.
        padding: blanks between two columns.
    """
    table = Table(title=title, title_justify="left", box=None, padding=(0, padding, 0, 0))
    _add_columns(table, headings, no_wrap=True)
    return table


def split_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    room: int,
    *,
    keys: int,
    styles: Mapping[int, str] | None = None,
    padding: int = 1,
    text: Sequence[str] = (),
) -> list[Table]:
    """Return tables that together have all columns, so that no number is cut or folded.

    Args:
        headings: of the columns; a column is flush right if its heading starts with ``>``.
        rows: of the table.
        room: characters of a line; a table has more where its first columns leave no room for one
            other.
        keys: number of first columns, which every table repeats.
        styles: number of a row -> its style.
        padding: blanks between two columns.
        text: heading and cells of one more column, which is folded to fill the room; it is left
            out where less than :data:`LEAST_TEXT` characters are left beside the others.
    """
    columns = list(zip(headings, *rows, strict=True))
    widths = [
        max(map(cell_len, (heading.removeprefix(">"), *cells))) + padding
        for heading, *cells in columns
    ]
    first = sum(widths[:keys])
    parts: list[list[int]] = [[]]
    used = first
    for number in range(keys, len(columns)):
        if parts[-1] and used + widths[number] - padding > room:
            parts.append([])
            used = first
        parts[-1].append(number)
        used += widths[number]
    beside = bool(text) and sum(widths) + LEAST_TEXT <= room
    tables = []
    for part in parts:
        shown = [*range(keys), *part]
        table = new_table("", [headings[number] for number in shown], padding=padding)
        table.title = None
        table.width = None if beside else sum(widths[number] for number in shown)
        if beside:
            table.add_column(text[0], overflow="fold", min_width=LEAST_TEXT)
        for number, row in enumerate(rows):
            cells = [row[n] for n in shown] + ([text[number + 1]] if beside else [])
            # As Text, because in a plain string rich takes [i,k] for markup.
            table.add_row(*map(Text, cells), style=(styles or {}).get(number, ""))
        tables.append(table)
    return tables


def _add_columns(table: Table, headings: Iterable[str], **options: Any) -> None:
    for heading in headings:
        flush = "right" if heading.startswith(">") else "left"
        table.add_column(heading.removeprefix(">"), justify=flush, **options)  # type: ignore[arg-type]


def render(console: Console, *parts: RenderableType) -> list[str]:
    """Return what a console prints as lines, without the blanks that fill a line."""
    with console.capture() as captured:
        console.print(Group(*parts), crop=False)
    return rendered_lines(captured.get())


def rendered_lines(text: str) -> list[str]:
    """Return what a console of :func:`make_console` printed as lines, without blanks at the end."""
    return [Rendered(line.rstrip()) for line in text.removesuffix("\n").split("\n") if text]


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    fold: Collection[str] | None = None,
) -> None:
    """Print a table; a column is flush right if its heading starts with ``>``.

    Args:
        console: where to.
        headings: of the columns.
        rows: of the table.
        fold: headings of the columns whose words may stand on several lines, or None for all and
            also within words. Where the words do not fit, the rows become blocks if most columns
            fold, and lines that are longer than the console otherwise.
    """
    rows, room, gap = [[*map(printable, row)] for row in rows], console.width, 2
    widths: list[int] = []
    if fold is not None:
        least, widths = _column_widths(room, gap, headings, rows, fold)
        if least > room:
            gap = 1
            least, widths = _column_widths(room, gap, headings, rows, fold)
        if least > room and 2 * len(fold) > len(headings):
            _print_blocks(console, headings, rows)
            return
        console.width = max(least, room)
    table = Table(
        box=SIMPLE_HEAD if console.is_terminal else None,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        padding=(0, gap - 1 if console.is_terminal else gap, 0, 0),
    )
    _add_columns(table, headings, overflow="fold")
    for column, width in zip(table.columns, widths, strict=False):
        column.width = width
    for row in rows:
        table.add_row(*map(Text, row))
    _print(console, table)
    console.width = room


def _column_widths(
    room: int,
    gap: int,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    fold: Collection[str],
) -> tuple[int, list[int]]:
    """Return the least width of a table without a broken word, and the widths of its columns."""
    columns = [list(column) for column in zip(headings, *rows, strict=True)]
    columns = [[name.removeprefix(">"), *cells] for name, *cells in columns]
    natural = [max(map(cell_len, column)) for column in columns]
    least = [
        max((cell_len(word) for cell in column for word in cell.split()), default=0)
        if heading in fold
        else width
        for heading, column, width in zip(headings, columns, natural, strict=True)
    ]
    total = sum(least) + gap * (len(least) - 1)
    wanted = sum(natural) - sum(least)
    share = min(1.0, max(0, room - total) / wanted) if wanted else 0.0
    widths = [low + int(share * (high - low)) for low, high in zip(least, natural, strict=True)]
    return total, widths


def _print_blocks(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print every row as its first cell and, below, the others with their headings."""
    for row in rows:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        named = zip(headings[1:], row[1:], strict=True)
        facts = [(f"  {heading.removeprefix('>')}", cell) for heading, cell in named if cell]
        print_facts(console, facts)


def print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns, long values folded under themselves."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(printable(name)), Text(printable(value)))
    _print(console, grid)


def _print(console: Console, content: Table) -> None:
    if console.is_terminal:
        console.print(content)
    else:
        console.file.writelines(f"{line}\n" for line in render(console, content))
