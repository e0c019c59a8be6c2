"""Turn scores into a smaller network: trace, select, mask or cut, and count the cost.

May import ``statistics`` and the packages below it; open ``graph/trace.py`` first. Scores are
joined in ``select/scores.py``, channels chosen in ``select/channels.py`` and cut in ``surgery.py``.
"""

from typing import TYPE_CHECKING

from gp_prune._compat import find_renamed
from gp_prune.errors import DegenerateScores
from gp_prune.pruning.cost import Cost, LayerCost, Side, measure, predict
from gp_prune.pruning.graph.architecture import Architecture, ChannelGroup, Slot, consumers
from gp_prune.pruning.graph.places import layer_places
from gp_prune.pruning.graph.trace import trace
from gp_prune.pruning.plan.channels import Achieved, Budget, ChannelPlan
from gp_prune.pruning.plan.weights import AchievedWeights, PackedMask, Pattern, WeightPlan
from gp_prune.pruning.select.channels import select_channels
from gp_prune.pruning.select.scores import group_scores
from gp_prune.pruning.select.weights import select_weights
from gp_prune.pruning.surgery import compact, mask, unmask
from gp_prune.pruning.timing import Latency, latency
from gp_prune.pruning.torch_methods import MetricPattern, MetricUnstructured

__all__ = [
    "Achieved", "AchievedWeights", "Architecture", "Budget", "ChannelGroup", "ChannelPlan",
    "Cost", "DegenerateScores", "Latency", "LayerCost", "MetricPattern", "MetricUnstructured",
    "PackedMask", "Pattern", "Side", "Slot", "WeightPlan", "compact", "consumers",
    "group_scores", "latency", "layer_places", "mask", "measure", "predict", "select_channels",
    "select_weights", "trace", "unmask",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = find_renamed(__name__, {"readers": "gp_prune.pruning.consumers"})
