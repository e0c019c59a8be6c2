from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.autoencoder.schedule import SCHEDULES, evaluate_schedule, named_schedule
from gp_prune.errors import UserError

FORMULAS = {
    "fixed": lambda t, T, p, n: p,
    "increase": lambda t, T, p, n: p * t / T,
    "decrease": lambda t, T, p, n: p - p * t / T,
    "population": lambda t, T, p, n: p * t / T / n,
    "exponential": lambda t, T, p, n: p - p * math.e ** (-2 * t / T),
    "final": lambda t, T, p, n: p * (4 * t >= 3 * T),
    "after": lambda t, T, p, n: p * (t == T),
}

shares = st.floats(0, 1)


@pytest.mark.parametrize("name", SCHEDULES)
@given(p=shares, T=st.integers(1, 1000), n=st.integers(1, 20), data=st.data())
def test_every_schedule_is_its_formula(
    name: str, p: float, T: int, n: int, data: st.DataObject
) -> None:
    t = data.draw(st.integers(0, T))
    value = named_schedule(name, p, n)(t, T)
    assert value == pytest.approx(FORMULAS[name](t, T, p, n), abs=1e-12)
    assert 0 <= value <= 1


@given(p=st.floats(0.01, 1), T=st.integers(4, 400))
def test_how_schedules_begin_and_end(p: float, T: int) -> None:
    def of(name: str, t: int) -> float:
        return named_schedule(name, p)(t, T)

    assert of("decrease", 0) == p
    assert of("decrease", T) == pytest.approx(0, abs=1e-12)
    assert of("increase", T) == pytest.approx(p)
    assert of("exponential", T) == pytest.approx(p * (1 - math.exp(-2)))
    assert of("final", T // 2) == 0 < of("final", T)
    assert of("after", T - 1) == 0 < of("after", T)


def test_after_prunes_behind_the_last_epoch_alone() -> None:
    assert evaluate_schedule(named_schedule("after", 0.7), 5) == (0, 0, 0, 0, 0.7)


def test_a_schedule_of_ones_own() -> None:
    assert evaluate_schedule(lambda t, T: (t == 2) / 2, 3) == (0, 0.5, 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="after epoch 1 of 3"):
        evaluate_schedule(lambda t, T: value, 3)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UserError, match="unknown schedule 'never'"):
        named_schedule("never", 0.5)
    with pytest.raises(UserError, match="probability"):
        named_schedule("fixed", 1.5)
    with pytest.raises(UserError, match="0 solutions"):
        named_schedule("population", 0.5, 0)
