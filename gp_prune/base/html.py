"""Show objects in notebooks as small tables; all text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

LONGEST = 200
"""Characters of a formula in the one-line text of an object."""


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text without its middle where it is longer than ``longest`` characters."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class Markup(str):
    """Text that is HTML already, such as MathML of this package; it is not escaped."""

    __slots__ = ()


def facts_html(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a title and names with values as HTML; empty values are left out."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{_cell(name)}</th>"
        f"<td style='text-align:left'>{_cell(value)}</td></tr>"
        for name, value in facts
        if value not in ("", None)
    )
    return f"<table><caption>{_cell(title)}</caption><tbody>{rows}</tbody></table>"


def table_html(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML."""
    head = "".join(f"<th>{_cell(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(c)}</td>' for c in row)}</tr>" for row in rows)
    return (
        f"<table><caption>{_cell(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _cell(value: object) -> str:
    return value if isinstance(value, Markup) else html.escape(str(value))
