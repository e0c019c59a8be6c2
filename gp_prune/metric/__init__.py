"""Define the metric that users hold: a formula with its conventions, source and provenance.

May import ``language`` and ``formula``; open ``metric.py`` first.
``file.py`` holds the conventions of a ranking; the ranking itself is in ``pruning/select``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune._compat import find_renamed

if not TYPE_CHECKING:
    __getattr__ = find_renamed(
        __name__,
        {
            "Metric": "gp_prune.metric.metric.Metric",
            "MetricError": "gp_prune.metric.metric.MetricError",
            "bundled_metrics": "gp_prune.metric.metric.bundled_metrics",
        },
    )
