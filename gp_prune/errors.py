"""Errors that a person can mend: one sentence that names the thing, the value and the remedy."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence; the command line prints it and exits with 2."""
