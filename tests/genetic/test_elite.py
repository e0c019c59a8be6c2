"""Scores of genes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune import Metric
from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.plan import CHANNELS, GeneLayout
from gp_prune.statistics import Batch

MakeNetwork = Callable[[str], tuple[nn.Module, Tensor]]
METRICS = [Metric.load(name) for name in ("l1", "taylor_weights", "magnitude", "wanda_weight")]
Dense = tuple[GeneLayout, Elite]


def test_what_was_pruned_keeps_its_last_score(dense: Dense, networks: MakeNetwork) -> None:
    layout, elite = dense
    model, inputs = networks("lenet")
    masks = [mask.copy() for mask in elite.masks]
    masks[0][[1, 4]] = False
    masks[2][::3] = False
    plan = layout.plan(masks)
    batches = [Batch(inputs, torch.arange(5), torch.arange(5))]
    scores = MetricScores(layout, METRICS, elite.scores)
    scores.measure(model, plan, batches, torch.nn.functional.cross_entropy, inputs[:1], 0)
    for metric in METRICS:
        for number, mask in enumerate(masks):
            kind = "channel" if layout.genes[number].kind == CHANNELS else "weight"
            if metric.granularity != kind:
                continue
            before, after = elite.scores.of(metric, number), scores.of(metric, number)
            assert before is not None and after is not None
            dead = torch.from_numpy(~mask)
            if metric.name in ("l1", "magnitude") and number == 0:
                assert torch.allclose(before, after)
            assert torch.equal(before[dead], after[dead]) or kind == "channel"
            assert np.isfinite(after.numpy()).all()
