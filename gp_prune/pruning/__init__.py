"""Floor 7: from scores to a pruned network.

``trace`` -> :class:`Architecture`; ``select_channels`` or ``select_weights`` -> a plan; ``mask`` or
``compact`` apply it; ``predict``, ``measure`` and ``latency`` say what it costs.
"""

from gp_prune.pruning.architecture import Architecture, ChannelGroup, Slot
from gp_prune.pruning.cost import Cost, Latency, latency, measure, predict
from gp_prune.pruning.layer_cost import LayerCost, Side
from gp_prune.pruning.masking import mask, unmask
from gp_prune.pruning.method import MetricPattern, MetricUnstructured
from gp_prune.pruning.pattern import Pattern
from gp_prune.pruning.plan import Achieved, Budget, ChannelPlan
from gp_prune.pruning.readers import readers
from gp_prune.pruning.scores import DegenerateScores, group_scores
from gp_prune.pruning.selection import select_channels
from gp_prune.pruning.surgery import compact
from gp_prune.pruning.tracing import trace
from gp_prune.pruning.weight_plan import AchievedWeights, PackedMask, WeightPlan
from gp_prune.pruning.weights import select_weights

__all__ = [
    "Achieved",
    "AchievedWeights",
    "Architecture",
    "Budget",
    "ChannelGroup",
    "ChannelPlan",
    "Cost",
    "DegenerateScores",
    "Latency",
    "LayerCost",
    "MetricPattern",
    "MetricUnstructured",
    "PackedMask",
    "Pattern",
    "Side",
    "Slot",
    "WeightPlan",
    "compact",
    "group_scores",
    "latency",
    "mask",
    "measure",
    "predict",
    "readers",
    "select_channels",
    "select_weights",
    "trace",
    "unmask",
]
