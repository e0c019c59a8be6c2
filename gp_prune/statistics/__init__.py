"""Measure the prunable layers of a model, streaming over calibration data.

May import ``metric`` and the packages below it; open ``measure.py`` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune._compat import find_renamed
from gp_prune.statistics.batches import Batch, Loss, Progress
from gp_prune.statistics.layers import dense_weight, prunable_layers
from gp_prune.statistics.measure import collect, collect_each
from gp_prune.statistics.records import Consumer, LayerPlace
from gp_prune.statistics.running import Forward, Inputs

__all__ = [
    "Batch",
    "Consumer",
    "Forward",
    "Inputs",
    "LayerPlace",
    "Loss",
    "Progress",
    "collect",
    "collect_each",
    "dense_weight",
    "prunable_layers",
]

if not TYPE_CHECKING:
    __getattr__ = find_renamed(__name__, {"Reader": "gp_prune.statistics.Consumer"})
