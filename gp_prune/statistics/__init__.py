"""Floor 6: measuring the prunable layers of a model, streaming over calibration data."""

from __future__ import annotations

from gp_prune.statistics.batches import Batch, Forward, Inputs, Loss, Progress
from gp_prune.statistics.collecting import collect, collect_each
from gp_prune.statistics.layers import dense_weight, prunable_layers
from gp_prune.statistics.outgoing import Reader

__all__ = [
    "Batch",
    "Forward",
    "Inputs",
    "Loss",
    "Progress",
    "Reader",
    "collect",
    "collect_each",
    "dense_weight",
    "prunable_layers",
]
