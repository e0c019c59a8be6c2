"""Print text that others wrote: what steers a terminal is written out, also when it is piped.

All that the command line prints goes through :func:`echo`, :func:`print_json` or a console of
:mod:`gp_prune.report.console`, and thereby through :func:`printable` or :func:`printable_json`.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Any

import click

from gp_prune.base.json_fields import escape_json


class Rendered(str):
    """A line of a console of this program, in which only the program's own colours steer."""

    __slots__ = ()


def printable(text: str) -> str:
    r"""Return text with every character that is not shown as itself written out, as ``\x1b``.

    Written out are control characters (escape sequences begin with one), marks that change the
    direction of text, other invisible characters, and what is no character at all, such as a byte
    of a file name that is not UTF-8. Line ends and tabs stay.
    """
    if isinstance(text, Rendered) or text.isprintable():
        return text
    return "".join(map(_written_out, text))


def _written_out(character: str) -> str:
    shown = character.isprintable() or character in "\n\t"
    if shown or unicodedata.category(character) == "Zs":  # blanks of another width
        return character
    return character.encode("unicode_escape").decode()


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text on stdout or stderr, as :func:`printable` gives it."""
    click.echo(printable(text), err=err, nl=nl)


def print_json(data: Any, *, allow_nan: bool = False) -> None:
    r"""Print JSON on stdout; in ASCII unless its encoding has every character.

    Characters that steer a terminal are written as ``\u001b``, which JSON reads as the same text.
    """
    has_all = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(data, indent=2, ensure_ascii=not has_all, allow_nan=allow_nan)
    click.echo(escape_json(text))
