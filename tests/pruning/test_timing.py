"""Time of a network, and of two in turns."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning import latency, timing
from gp_prune.pruning.timing import compare


def test_turns_alternate_and_drift_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = nn.Linear(3, 3), nn.Linear(3, 3)
    passes: list[nn.Module] = []

    def timed_pass(model: nn.Module, inputs: Any, forward_fn: Any = None) -> float:
        passes.append(model)
        return (1.0 if model is slow else 0.25) * (1 + len(passes) / 20)

    monkeypatch.setattr(timing, "timed_pass", timed_pass)
    found = compare(slow, fast, torch.zeros(2, 3), turns=20)
    assert found.share == pytest.approx(0.25, abs=0.01)
    assert found.lower <= found.share <= found.upper
    assert (found.before.repeats, found.after.repeats) == (20, 20)
    order = [model is fast for model in passes[3:]]
    assert order == [False, True, True, False] * 10


def test_times_of_real_networks() -> None:
    images = torch.zeros(2, 3, 32, 32)
    with torch.random.fork_rng():
        small, large = (
            nn.Conv2d(3, 4, 3),
            nn.Sequential(nn.Conv2d(3, 256, 3), nn.Conv2d(256, 64, 3)),
        )
    found = compare(large.train(), small, images, turns=5)
    assert found.share < 0.8
    assert 0 < found.after.median_s < found.before.median_s
    assert (found.before.batch, found.before.device) == (2, "cpu")
    assert large.training
    assert json.loads(json.dumps(found.to_json()))["share"]["median"] == found.share
    with pytest.raises(UserError, match="turns is 0"):
        compare(large, small, images, turns=0)


def test_latency_reports_its_circumstances() -> None:
    found = latency(nn.Linear(3, 3), torch.zeros(7, 3), repeats=9)
    assert 0 < found.lower_s <= found.median_s <= found.upper_s
    assert (found.repeats, found.batch, found.device) == (9, 7, "cpu")
    assert found.threads == torch.get_num_threads()
    with pytest.raises(UserError, match="repeats is 0"):
        latency(nn.Linear(3, 3), torch.zeros(7, 3), repeats=0)
