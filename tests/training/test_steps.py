from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.tasks.training import random_batches
from gp_prune.training.samples import equal_parts
from gp_prune.training.settings import schedule


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


@given(count=st.integers(1, 60), size=st.integers(1, 80), seed=st.integers(0, 2**31))
def test_one_pass_of_mini_batches_takes_no_sample_twice(count: int, size: int, seed: int) -> None:
    batches = random_batches(count, size, seed)
    taken = [next(batches) for _ in range(count // min(size, count))]
    assert all(len(batch) == min(size, count) for batch in taken)
    together = torch.cat(taken).tolist()
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(count))


@given(count=st.integers(1, 300), most=st.integers(1, 80))
def test_equal_parts(count: int, most: int) -> None:
    sizes = [len(part) for part in torch.arange(count).tensor_split(equal_parts(count, most))]
    assert max(sizes) <= (3 if most == 2 and count % 2 else most)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, most, count)
