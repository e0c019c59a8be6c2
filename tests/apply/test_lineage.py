"""Networks that are pruned, trained and pruned again: saved as one cut of the first network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune import FineTuning, load_pruned, own_data, prune, save_pruned, tune_pruned
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.attention = nn.MultiheadAttention(16, 8, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).unsqueeze(1)
        h = h + self.attention(h, h, h, need_weights=False)[0]
        output: Tensor = self.head(self.hidden(h).relu()).squeeze(1)
        return output


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(),
        nn.Linear(24, 3),
    )  # fmt: skip


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


X = torch.randn(90, 12, generator=torch.Generator().manual_seed(0))
DATA = own_data((X, X[:, :3].argmax(1)))
SETTINGS = FineTuning(epochs=1)


def train(pruned: PrunedModel, dense: nn.Module) -> PrunedModel:
    return tune_pruned(pruned, dense, DATA, SETTINGS)[0]


@pytest.mark.parametrize("make", [perceptron, Attending])
@pytest.mark.parametrize("times", [2, 3])
def test_cuts_one_after_the_other_load_into_the_first_network(
    tmp_path: Path, make: Callable[[], nn.Module], times: int
) -> None:
    first = seeded(make)
    model = first
    for number in range(times):
        metric = ("l1", "l2")[number % 2]
        model = train(prune(model, metric, X[:2], keep_channels=0.7), model).model
        pruned = prune(model, "l2", X[:2], keep_channels=0.8)
    save_pruned(pruned, tmp_path / "out")
    again = load_pruned(tmp_path / "out", seeded(make, 1))
    with torch.no_grad():
        assert torch.equal(again.eval()(X), pruned.model.eval()(X))
    # What is loaded can be pruned and saved, too.
    once_more = prune(again, "l1", X[:2], keep_channels=0.5)
    save_pruned(once_more, tmp_path / "more")
    last = load_pruned(tmp_path / "more", first)
    with torch.no_grad():
        assert torch.equal(last.eval()(X), once_more.model.eval()(X))


@pytest.mark.parametrize("options", [{}, {"mode": "mask"}, {"metric": "magnitude"}])
def test_what_cannot_be_joined_says_what_it_is_loaded_into(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    first = seeded(perceptron)
    one = prune(first, "l1", X[:2], keep_channels=0.5)
    save_pruned(one, tmp_path / "one")
    options = dict(options)
    budget: Any = {"keep_params": 0.5} if "metric" in options else {"keep_channels": 0.5}
    copied = copy.deepcopy(one.model)  # of which nothing is known
    two = prune(copied, options.pop("metric", "l2"), X[:2], **budget, **options)
    save_pruned(two, tmp_path / "two")
    told = "use the network that the plan was made for|whose layer '0' has [0-9]+ outputs, and that"
    with pytest.raises(UserError, match=told):
        load_pruned(tmp_path / "two", first)
    again = load_pruned(tmp_path / "two", load_pruned(tmp_path / "one", first))
    with torch.no_grad():
        assert torch.equal(again.eval()(X), two.model.eval()(X))


def test_a_layer_that_was_ignored_first_may_be_cut_later(tmp_path: Path) -> None:
    first = seeded(perceptron)
    one = prune(first, "l1", X[:2], keep_channels=0.5, ignore=["3"])
    two = prune(one.model, "l1", X[:2], keep_channels=0.5)
    assert [row.channels_kept for row in two.rows[:2]] == [8, 12]
    save_pruned(two, tmp_path / "two")
    load_pruned(tmp_path / "two", first)


def test_a_network_that_was_changed_by_hand_is_not_joined(tmp_path: Path) -> None:
    first = seeded(perceptron)
    one = prune(first, "l1", X[:2], keep_channels=0.5)
    assert isinstance(one.model, nn.Sequential)
    width = one.rows[0].channels_kept
    one.model[3], one.model[5] = nn.Linear(width, 40), nn.Linear(40, 3)
    two = prune(one.model, "l1", X[:2], keep_channels=0.5)
    assert two.from_first is None
    save_pruned(two, tmp_path / "two")
    with pytest.raises(UserError, match="give the network that it was pruned from"):
        load_pruned(tmp_path / "two", first)
