"""Errors that a person can mend: one sentence that names the thing, the value and the remedy."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence; the command line prints it and exits with 2."""


def pluralize(number: int, noun: str) -> str:
    """Return a count with its noun, as messages need it: ``1 sample``, ``2 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
