"""What is said besides the numbers: only where it holds, with names and a way out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.language.record import Coverage
from gp_prune.metric.file import Conventions
from gp_prune.pruning import measure, timing


class Block(nn.Module):
    """A residual stream under a layer normalisation, and a wide layer beside it."""

    def __init__(self, width: int = 8, hidden: int = 60) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(5, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embed(x)
        stream = stream + self.down(self.up(self.norm(stream)).relu())
        output: torch.Tensor = self.head(self.norm(stream))
        return output


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        output: nn.Module = make().eval()
        return output


def said(pruned: PrunedModel) -> str:
    told = pruned.remarks
    assert json.loads(json.dumps(pruned.report()))["remarks"] == list(told)
    assert all(line.endswith(".") and "\n" not in line for line in told)
    return " ".join(told)


def test_a_layer_that_gives_for_a_residual_stream_is_named() -> None:
    model, x = seeded(Block), torch.zeros(2, 5)
    told = said(prune(model, "l1", x, keep_macs=0.1))
    assert "Layer 'up' keeps " in told and " of 60 channels" in told
    assert "--cut-residual" in told and "cut_residual=True" in told
    assert said(prune(model, "l1", x, keep_macs=0.6)) == ""
    assert "--cut-residual" not in said(prune(model, "l1", x, keep_macs=0.1, cut_residual=True))


def test_heads_are_called_heads() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(32)
            self.attention = nn.MultiheadAttention(32, 16, batch_first=True)
            self.head = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            output: torch.Tensor = self.head(
                self.norm(x + self.attention(y, y, y, need_weights=False)[0])
            )
            return output

    pruned = prune(seeded(Attending), "l1", torch.zeros(2, 5, 32), keep_channels=0.06)
    assert "keeps 1 of 16 heads" in said(pruned)
    units = {row.layer: row.unit for row in pruned.rows}
    assert units["attention"] == "heads" and units["head"] == "channels"


def test_nothing_is_hollow_where_no_normalisation_spans_channels() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 60), nn.ReLU(), nn.Linear(60, 3)))
    assert "residual" not in said(prune(model, "l1", torch.zeros(2, 5), keep_channels=0.05))


def test_a_pattern_names_the_layers_that_cannot_have_it() -> None:
    model = seeded(lambda: nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 7)
    ))  # fmt: skip
    told = said(prune(model, "magnitude", torch.zeros(2, 5), pattern="2:4"))
    assert "layer '0' cannot have the pattern 2:4" in told
    fits = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)))
    assert "budget" not in said(prune(fits, "magnitude", torch.zeros(2, 8), pattern="2:4"))


def test_rounding_says_that_it_is_the_reason() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 3)))
    told = said(prune(model, "l1", torch.zeros(2, 5), keep_params=0.5, round_to=16))
    assert "multiples of 16" in told and "--round-to" in told


def test_nothing_is_left_to_cut() -> None:
    model = seeded(lambda: nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 40)
    ))  # fmt: skip
    pruned = prune(model, "l1", torch.zeros(2, 5), keep_params=0.05)
    assert not pruned.met
    assert "nothing is left to cut" in said(pruned)


@pytest.mark.parametrize(("keep", "near"), [(0.33, True), (0.9, False)])
def test_a_latency_near_the_least_is_told(monkeypatch: Any, keep: float, near: bool) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3)))
    x = torch.zeros(2, 5)
    full = measure(model, x).macs

    def timed_pass(net: nn.Module, inputs: Any, forward_fn: Any = None) -> float:
        return 0.3 + 0.7 * measure(net, inputs).macs / full

    monkeypatch.setattr(timing, "timed_pass", timed_pass)
    pruned = prune(model, "l1", x, keep_latency=keep, min_share=0)
    assert pruned.latency_floor == pytest.approx(0.3 + 0.7 / 64)
    assert pruned.met
    assert ("The smallest network of this kind" in said(pruned)) is near


def test_one_sentence_for_every_ranking() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 90)))
    pruned = prune(
        model, "l1", torch.zeros(2, 5), keep_params=0.62, conventions=Conventions("global")
    )
    assert not pruned.met
    assert "no cut comes nearer" in said(pruned)


def test_what_was_measured_is_reported() -> None:
    """Samples and positions of every measurement, and a limit that was met with its remedy."""
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 3)))
    whole = prune(model, "l1", torch.zeros(2, 5), keep_params=0.5, max_memory=2**62)
    assert "max_memory (--max-memory) is " in said(
        whole
    ) and "so the limit may not hold; give less" in said(whole)
    coverage = {"0": {"input": Coverage(9, 20, 1, 1)}}
    part = replace(whole, coverage=coverage, max_memory=10**6)
    assert (
        "input of layer '0' was measured on 9 of 20 samples, because the whole does not fit"
        in said(part)
    )
    report = part.report()
    assert report["max_memory"] == 10**6 and report["measured"].startswith("20 samples; input in 0")
    assert report["coverage"]["0"]["input"]["samples"] == 9
