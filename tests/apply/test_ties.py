"""A ranking that is one of positions is refused, unless it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gp_prune import Metric, prune
from gp_prune.errors import DegenerateScores, UserError
from gp_prune.pruning import Budget, select_channels, trace, unmask
from gp_prune.pruning.select.scores import as_array

CHANNELS: dict[str, Any] = {"keep_channels": 0.5}
WEIGHTS: dict[str, Any] = {"keep_params": 0.4}


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(64, 5),
        )  # fmt: skip


IMAGES = torch.zeros(2, 3, 6, 6)


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("at_least(b, 0)", CHANNELS),
        ("at_least(b, 0)", {"keep_macs": 0.4}),
        ("at_least(b, 0)", {**CHANNELS, "steps": 3}),
        ("at_least(b, 0)", {**CHANNELS, "mode": "mask"}),
        ("nonzero(at_least(b, 0.01))", CHANNELS),
        ("add(at_least(b, 0), at_least(b, 0.1))", CHANNELS),
        ("at_least(W, 0)", WEIGHTS),
        ("at_least(W, 0)", {**WEIGHTS, "steps": 2}),
        ("at_least(W, 0)", {"pattern": "2:4"}),
    ],
)
def test_scores_that_tie_everywhere_cut_by_position_only_if_allowed(
    network: nn.Module, formula: str, options: dict[str, Any]
) -> None:
    metric = Metric.parse(formula)
    with pytest.raises(UserError, match=r"of the scores of metric .* are tied.* --allow-ties"):
        prune(network, metric, IMAGES, **options)
    once = {**options, "steps": 1}  # what is left of a layer after a step may be all equal
    assert prune(network, metric, IMAGES, allow_ties=True, **once).plan.ties > 0.5


def test_ties_that_decide_nothing_are_no_fault(network: nn.Module) -> None:
    sparse = prune(network, "magnitude", IMAGES, keep_params=0.3).model
    unmask(sparse)
    for options in ({"keep_params": 0.2}, {"keep_params": 0.5}, {"keep_params": 0.1, "steps": 4}):
        assert prune(sparse, "magnitude", IMAGES, **options).plan.ties > 0.5  # type: ignore[arg-type]
    for name in ("0", "2"):
        with torch.no_grad():
            network.get_parameter(f"{name}.weight")[:9] = 0
    half = prune(network, "l1", IMAGES, keep_channels=7 / 16)
    assert half.plan.ties == 9 / 16
    assert half.plan.to_json()["removed"] == {"0": list(range(9)), "2": list(range(9))}


def test_what_position_decides_is_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    traced = trace(model, torch.zeros(1, 4))
    for scores, keep, expected in (
        ([1, 1, 1, 1, 2, 2, 2, 2], 0.5, 0.0),
        ([1, 1, 1, 1, 2, 2, 2, 2], 0.25, 0.5),
        ([1, 1, 1, 2, 3, 4, 5, 6], 0.75, 3 / 8),
        ([1, 2, 3, 4, 5, 6, 7, 7], 0.5, 0.0),
    ):
        conventions = Metric.load("l1").conventions
        plan = select_channels(
            traced, {"0": torch.tensor(scores)}, conventions, Budget("channels", keep)
        )
        assert plan.undecided == expected


def test_rounding_in_the_place_of_scores_is_refused(network: nn.Module) -> None:
    zero = "sub(add(b, mul(3, add(b, 1))), add(mul(4, b), 3))"
    for formula in (zero, f"z_score[o]({zero})"):
        with pytest.raises(DegenerateScores, match="constant"):
            prune(network, Metric.parse(formula), IMAGES, keep_channels=0.5)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (torch.tensor([1 + 1j, 2]), "complex"),
        (torch.tensor([1.0, 2], dtype=torch.complex128), "complex"),
        ([1 + 1j, 2], "complex"),
        (["1", "2"], "wrong-shape"),
        ([[1], [2, 3]], "wrong-shape"),
        ("12", "wrong-shape"),
        ([10**400, 1], "wrong-shape"),
    ],
)
def test_scores_are_real_numbers(scores: Any, reason: str) -> None:
    with pytest.raises(DegenerateScores) as refused:
        as_array(scores, "layer")
    assert refused.value.reason == reason
    assert as_array([True, 2, 3.5], "layer").tolist() == [1, 2, 3.5]
