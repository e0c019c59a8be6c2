"""How much of a training is done is told to who listens, and not too often."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gp_prune.training.shares import LEAST_SECONDS, listening, report_share


@given(st.lists(st.floats(0, 1), max_size=30))
def test_a_listener_hears_a_few_times_per_second(pauses: list[float]) -> None:
    now, heard = 0.0, list[tuple[float, float]]()
    with listening(lambda share: heard.append((now, share)), lambda: now):
        for number, pause in enumerate(pauses):
            now += pause
            report_share(number / len(pauses))
    times = [0.0, *(time for time, _ in heard)]
    assert all(b - a >= LEAST_SECONDS for a, b in pairwise(times))
    # What was not told came soon after what was.
    assert now - times[-1] < LEAST_SECONDS


def test_without_a_listener_nothing_happens() -> None:
    report_share(0.5)
    with listening(lambda share: None):
        pass
    report_share(0.5)
