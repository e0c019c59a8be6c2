"""Weights that several layers share have one mask, are counted once and stay equal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.apply.prune import prune
from gp_prune.pruning import WeightPlan, unmask
from gp_prune.pruning.select.shared import find_shared, join_shared_scores


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer, and two layers with one weight."""

    def __init__(self, embedding: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight
        self.last = nn.Linear(12, 20, bias=False)
        if embedding:
            self.last.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(self.words(x)).relu()).relu())  # type: ignore[no-any-return]


class TiedCoder(nn.Module):
    """A decoder with the weight of its encoder, as a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 3, 3)
        self.up.weight = self.down.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())  # type: ignore[no-any-return]


WORDS = torch.arange(10).reshape(2, 5)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("budget", [{"keep_params": 0.4}, {"keep_macs": 0.6}, {"pattern": "1:4"}])
@pytest.mark.parametrize("steps", [1, 3])
def test_masked_and_unmasked_networks_agree(budget: dict[str, Any], steps: int) -> None:
    if steps > 1 and "pattern" in budget:
        pytest.skip("a pattern has one step")
    model = Tied().eval()
    pruned = prune(model, "magnitude", WORDS, steps=steps, **budget)
    plain: Any = copy.deepcopy(pruned.model)
    unmask(plain)
    torch.testing.assert_close(plain(WORDS), pruned.model(WORDS))
    assert plain.two.weight is plain.one.weight
    assert plain.last.weight is plain.words.weight
    assert torch.equal(plain.words.weight, model.words.weight)
    zeros = int((plain.one.weight == 0).sum())
    assert zeros and pruned.after.params == pruned.before.params - zeros
    assert pruned.after.nonzero == pruned.before.nonzero - zeros
    assert pruned.before.macs - pruned.after.macs == 5 * 2 * zeros
    assert isinstance(pruned.plan, WeightPlan) and set(pruned.plan.kept) == {"one"}


def test_every_row_counts_once() -> None:
    pruned = prune(Tied().eval(), "magnitude", WORDS, keep_params=0.5)
    rows = {row.layer: row for row in pruned.rows}
    assert sum(row.params for row in rows.values()) == pruned.before.params
    assert sum(row.params_kept for row in rows.values()) == pruned.after.params
    assert min(row.params for row in rows.values()) >= 0
    assert "also that of 'words', a layer of type Embedding" in rows["last"].fixed
    assert rows["two"].params == 12
    assert rows["one"].macs_kept == rows["two"].macs_kept == rows["one"].macs // 2


def test_a_tensor_is_ranked_by_the_mean_of_its_scores() -> None:
    model = Tied(embedding=False)
    scores = {name: torch.rand(12, 12, 1) for name in ("one", "two")}
    scores["last"] = torch.rand(20, 12, 1)
    joined = join_shared_scores(model, scores)
    assert set(joined) == {"one", "last"}
    torch.testing.assert_close(joined["one"], (scores["one"] + scores["two"]).double() / 2)


def test_a_transposed_layer_follows_the_one_that_it_copies() -> None:
    model = TiedCoder().eval()
    pruned = prune(model, "magnitude", torch.randn(2, 3, 8, 8), keep_params=0.5)
    masked: Any = pruned.model
    assert torch.equal(masked.up.weight_mask, masked.down.weight_mask)
    assert pruned.after.params == pruned.before.params - 81


def test_a_layer_that_is_ignored_protects_its_weight() -> None:
    shared = find_shared(Tied(), ["one", "last"], ["two"])
    assert shared.owners == {}
    assert "'two', which is ignored" in shared.whole["one"]
