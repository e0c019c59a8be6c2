"""Channels are followed once, however often a network changes their places."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from gp_prune.pruning import Architecture, trace
from gp_prune.pruning.graph import cut_check
from gp_prune.pruning.graph.cut_check import verify_groups


class Rotating(nn.Module):
    """Halves change places again and again; their sizes follow the width."""

    def __init__(self, width: int, turns: int) -> None:
        super().__init__()
        self.first, self.last, self.turns = nn.Linear(6, width), nn.Linear(width, 3), turns

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for _ in range(self.turns):
            half = h.shape[-1] // 2
            h = h + torch.cat((h[..., half:], h[..., :half]), -1)
        return self.last(h)  # type: ignore[no-any-return]


def test_the_time_is_linear_in_the_width_and_the_turns() -> None:
    trace(Rotating(4, 1), torch.randn(2, 6), try_out=False)
    started = time.process_time()
    found = trace(Rotating(2048, 12), torch.randn(2, 6), try_out=False)
    assert time.process_time() - started < 3
    group = found.by_name["first"]
    assert group.size == 1024, "channels that change places go together"
    assert group.slots[0].channels == tuple(range(1024)) * 2


@pytest.mark.parametrize("constant_first", [True, False])
def test_a_part_without_gradients_takes_its_place(constant_first: bool) -> None:
    class Appending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(11, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            return self.second(torch.cat((x, h) if constant_first else (h, x), 1))  # type: ignore[no-any-return]

    found = trace(Appending(), torch.randn(2, 3, 5, 5)).by_name["first"]
    assert not found.fixed
    read = next(slot for slot in found.slots if slot.side == "in")
    numbers = tuple(range(8))
    assert read.channels == ((-1,) * 3 + numbers if constant_first else numbers + (-1,) * 3)


class OneByOne:
    """A check in which only some groups can be cut."""

    def __init__(self, bad: set[str], over: bool = False) -> None:
        self.bad, self.trials, self.over = bad, 0, over

    def find_violation(self, architecture: Architecture, groups: list[object]) -> str:
        self.trials += 1
        return "no" if self.bad.intersection(g.name for g in groups) else ""  # type: ignore[attr-defined]


def wide(count: int) -> Architecture:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(count)]
    return trace(nn.Sequential(*layers, nn.Linear(4, 2)), torch.randn(2, 4), try_out=False)


def test_groups_that_fail_are_found_in_few_trials() -> None:
    architecture = wide(40)
    check = OneByOne({"7.0", "31.0"})
    assert verify_groups(check, architecture) == {"7.0": "no", "31.0": "no"}  # type: ignore[arg-type]
    assert check.trials <= 25


def test_what_passed_is_not_tried_again() -> None:
    architecture = wide(6)
    check = OneByOne({"4.0"})
    assert verify_groups(check, architecture, {"0.0", "2.0", "6.0"}) == {"4.0": "no"}  # type: ignore[arg-type]
    assert check.trials <= 5


def test_trials_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = wide(6)
    check = OneByOne({group.name for group in architecture.free}, over=True)
    reasons = verify_groups(check, architecture)  # type: ignore[arg-type]
    assert set(reasons) == {group.name for group in architecture.free}
    assert "seconds for trying out" in [*reasons.values()][-1]
    assert check.trials < len(reasons)
    monkeypatch.setattr(cut_check, "TRIAL_SECONDS", -1)
    assert not wide(3).groups[0].fixed, "what can be cut at once is not held up"
    assert trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3)).free
