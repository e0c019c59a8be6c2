"""How a result shows itself."""

from __future__ import annotations

import torch
from torch import nn

from gp_prune.apply.prune import prune


def test_a_result_is_printed_on_one_line() -> None:
    model = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 3))
    pruned = prune(model, "l1", torch.zeros(2, 5), keep_params=0.5)
    assert str(pruned) == (
        "<PrunedModel by 'l1' (compact): 50.0 % of the channels, 50.0 % of the MACs, "
        "50.7 % of the params kept>"
    )
    masked = prune(model, "magnitude", torch.zeros(2, 5), keep_params=0.5)
    assert repr(masked).startswith("<PrunedModel by 'magnitude' (mask): 50.0 % of the weights, ")
