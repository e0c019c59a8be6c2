from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import WORST_ERROR, WORST_RAW, Evaluation
from gp_prune.search.scorer import Bench


@pytest.mark.parametrize("test", [False, True])
def test_a_network_that_blew_up_is_bad_but_finite(task_cache: Path, test: bool) -> None:
    """So it can be written down, and costs the run nothing."""
    source = TaskSource(cache_dir=str(task_cache))
    bench, workbench = Bench(source.load("autoencoder-digits"), 64, 0), Workbench(source)
    formula = Metric.load("l1").expression
    plan = bench.trial(formula, SearchConfig().conventions, Budget("channels", 0.5)).plan
    evaluation = Evaluation("autoencoder-digits", plan.to_json(), 3, 0, test=test)
    model = evaluation.pruned(workbench)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    outcome = evaluation.judged(model, workbench)
    assert outcome == (WORST_ERROR, WORST_ERROR if test else None, WORST_RAW, "")
    json.dumps(outcome, allow_nan=False)
