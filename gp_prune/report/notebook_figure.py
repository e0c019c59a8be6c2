"""A figure of matplotlib that a notebook shows; import it only where matplotlib is installed."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

_DPI = 150


class NotebookFigure(Figure):  # type: ignore[misc,unused-ignore]
    """A figure that a notebook shows without pyplot, whose list of figures it does not enter."""

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG."""
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=_DPI)
        return content.getvalue()
