"""The file that holds the result of a run that has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gp_prune.errors import UserError


@contextmanager
def reading_result(path: Path) -> Iterator[None]:
    """Turn what is wrong with the file of a result into one sentence about it.

    Args:
        path: the file.

    Raises:
        UserError: the body cannot read the file, or finds something else in it than it should hold.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"the result {str(path)!r} cannot be read: {reason}; remove it, and --resume computes "
            "it from the journal"
        ) from None
