"""gp-prune: genetic programming that discovers pruning metrics."""

from __future__ import annotations

__version__ = "0.1.0"
