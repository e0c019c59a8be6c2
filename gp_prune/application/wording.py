"""Small parts of sentences."""

from __future__ import annotations


def several(number: int, noun: str) -> str:
    """A number of things: ``1 sample``, ``2 samples``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
