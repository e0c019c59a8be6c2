from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.training import FineTuning
from gp_prune.training.settings import schedule


def test_the_learning_rate_fits_the_optimiser() -> None:
    assert FineTuning().rate == 0.01
    assert FineTuning(optimiser="adamw").rate == 0.001
    assert FineTuning(optimiser="adamw", learning_rate=0.5).rate == 0.5
    assert FineTuning(optimiser="adamw").to_json()["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", [-1, 1.5, True, "3"]),
        ("batch_size", [0, 2.0]),
        ("patience", [-1]),
        ("seed", [-1, 0.5]),
        ("learning_rate", [0, -0.1, math.nan, math.inf, "fast"]),
        ("momentum", [-0.1, 1.0, math.nan]),
        ("weight_decay", [-1.0, math.inf]),
        ("warm_up", [1.0, -0.1]),
        ("distill", [-0.1, 1.1, math.nan, True]),
        ("temperature", [0, -1.0, math.inf]),
        ("optimiser", ["lion", "SGD", None]),
    ],
)
def test_values_out_of_range_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UserError) as caught:
            FineTuning(**{name: value})
        assert str(caught.value).startswith(f"{name} of fine-tuning is {value!r}; it must")


def test_nesterov_needs_momentum() -> None:
    for more in ({"momentum": 0.0}, {"optimiser": "adamw"}):
        with pytest.raises(UserError, match="nesterov"):
            FineTuning(nesterov=True, **more)


@given(warm_up=st.floats(0, 0.9), progress=st.floats(0, 1))
def test_the_learning_rate_rises_and_falls_between_zero_and_one(
    warm_up: float, progress: float
) -> None:
    value = schedule(progress, warm_up)
    assert -1e-9 <= value <= 1 + 1e-9
    assert schedule(warm_up, warm_up) == pytest.approx(1)
    assert schedule(1, warm_up) == pytest.approx(0)
    nearer = (progress + warm_up) / 2  # halfway to the peak
    assert schedule(nearer, warm_up) >= value - 1e-9
    assert schedule(progress, warm_up, decay=False) == (value if progress < warm_up else 1.0)
