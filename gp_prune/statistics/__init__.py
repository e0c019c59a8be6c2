"""Floor 6: measuring the prunable layers of a model, streaming over calibration data."""

from __future__ import annotations

from gp_prune.statistics.batches import Batch, Inputs, Loss
from gp_prune.statistics.collecting import collect
from gp_prune.statistics.layers import dense_weight, prunable_layers
from gp_prune.statistics.outgoing import Reader

__all__ = ["Batch", "Inputs", "Loss", "Reader", "collect", "dense_weight", "prunable_layers"]
