"""Recalibrate and fine-tune a pruned network so that nothing that was pruned grows back.

May import ``pruning`` and the packages below it; open ``fine_tuning.py`` first.
"""

from __future__ import annotations

from gp_prune.training.checkpoint import CheckpointWarning
from gp_prune.training.fine_tuning import fine_tune
from gp_prune.training.gradual import GradualRemoval
from gp_prune.training.held import Held, held_by
from gp_prune.training.recalibration import batch_norms, recalibrate
from gp_prune.training.samples import Data, Samples
from gp_prune.training.settings import Epoch, FineTuning, History

__all__ = [
    "CheckpointWarning",
    "Data",
    "Epoch",
    "FineTuning",
    "GradualRemoval",
    "Held",
    "History",
    "Samples",
    "batch_norms",
    "fine_tune",
    "held_by",
    "recalibrate",
]
