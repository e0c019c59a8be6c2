"""Evolve pruning metrics for a regression network of one's own, on a small scale."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from gp_prune import SearchConfig, Task, evolve


def main() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    target = 2 * inputs[:, :1] - inputs[:, 1:2] * inputs[:, 2:3]
    model = nn.Sequential(
        nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1)
    )
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        optimiser.zero_grad()
        functional.mse_loss(model(inputs), target).backward()
        optimiser.step()
    task = Task(model, (inputs, target), kind="regression", name="numbers")
    print(task, *task.remarks)
    # Quick: it begins with two published metrics alone, and compares with none at the end.
    config = SearchConfig(
        population=6, generations=1, validate_on=(), calibration=64, comparison=False,
        no_start_formulas=True, start_formulas=("l1", "taylor_weights"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = evolve(config, Path(folder) / "run", tasks=[task])
        metric = result.metrics[result.recommended.name]
        pruned = metric.prune(model, task.example_inputs, keep_macs=0.5, data=(inputs, target),
                              loss=functional.mse_loss)  # fmt: skip
        print(metric.expression, pruned)


if __name__ == "__main__":
    main()
