"""Floor 10: a figure of matplotlib as a file, the same for the same content."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.files import write_bytes

SUFFIXES = (".png", ".svg", ".pdf")


def save_figure(draw: Callable[[], Any], path: str | Path) -> None:
    """Draw and write a figure, as one step.

    Args:
        draw: makes the figure, once matplotlib is there.
        path: where to; the suffix ``.png``, ``.svg`` or ``.pdf`` says the format.

    Raises:
        UserError: matplotlib is missing, the suffix is another, or the file cannot be written.
    """
    target = Path(path).expanduser()
    if target.suffix not in SUFFIXES:
        raise UserError(
            f"a plot cannot be written to {str(path)!r}; its name must end with one of "
            f"{', '.join(SUFFIXES)}"
        )
    matplotlib = find_matplotlib()
    content = io.BytesIO()
    # A fixed salt and no date, so that the same content gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "gp-prune", "svg.fonttype": "none"}):
        date = {"CreationDate" if target.suffix == ".pdf" else "Date": None}
        metadata = {} if target.suffix == ".png" else date
        draw().savefig(content, format=target.suffix[1:], dpi=150, metadata=metadata)
    try:
        write_bytes(target, content.getvalue())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"the plot {str(path)!r} cannot be written ({reason}); name another file"
        ) from error


def find_matplotlib() -> Any:
    """The module; UserError says how to install it where it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise UserError(
            "a plot needs matplotlib, which is not installed; install it with "
            "pip install 'gp-prune[plot]'"
        ) from error
    return matplotlib
