"""After pruning: recalibration of batch norms, and fine-tuning in which nothing regrows."""

from __future__ import annotations

from gp_prune.tuning.checkpoint import CheckpointWarning
from gp_prune.tuning.fine_tuning import fine_tune
from gp_prune.tuning.history import Epoch, History
from gp_prune.tuning.holding import Held, held_by
from gp_prune.tuning.recalibration import batch_norms, recalibrate
from gp_prune.tuning.samples import Samples, Source
from gp_prune.tuning.settings import FineTuning

__all__ = [
    "CheckpointWarning",
    "Epoch",
    "FineTuning",
    "Held",
    "History",
    "Samples",
    "Source",
    "batch_norms",
    "fine_tune",
    "held_by",
    "recalibrate",
]
