"""Pooling in another way than torch's gives what torch's gives."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.training import pooling
from gp_prune.training.pooling import MaxPool2x2, pool_fast


def both(maps: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Output and gradient of torch's pooling and of ours."""
    weights = torch.randn(nn.MaxPool2d(2)(maps).shape, generator=torch.Generator().manual_seed(1))
    results = []
    for pool in (nn.MaxPool2d(2), pool_fast(nn.MaxPool2d(2))):
        inputs = maps.clone().requires_grad_()
        output = pool(inputs)
        (gradient,) = torch.autograd.grad((output * weights).sum(), inputs)
        results.append((output.detach(), gradient))
    return results


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_LEAST_NUMBERS", 0)


@given(
    shape=st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(2, 9)] * 2),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_outputs_and_gradients_are_torchs_also_where_numbers_are_equal(
    shape: tuple[int, ...], seed: int, dtype: torch.dtype, levels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-levels, levels + 1, shape, generator=generator).to(dtype)
    (output, gradient), (ours, our_gradient) = both(maps)
    assert torch.equal(ours, output)
    assert torch.equal(our_gradient, gradient)
    with torch.no_grad():
        assert torch.equal(pool_fast(nn.MaxPool2d(2))(maps), output)


def test_small_maps_with_gradients_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_LEAST_NUMBERS", 100)
    pool = pool_fast(nn.MaxPool2d(2))
    for side, own in ((4, False), (10, True)):
        output = pool(torch.randn(1, 1, side, side, requires_grad=True))
        assert (type(output.grad_fn).__name__ == "_PoolBackward") == own


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_memory_formats(layout: torch.memory_format) -> None:
    maps = torch.randn(2, 5, 6, 8).contiguous(memory_format=layout)
    (output, gradient), (ours, our_gradient) = both(maps)
    assert torch.equal(ours, output)
    assert torch.equal(our_gradient, gradient)
    assert ours.is_contiguous(memory_format=layout) == output.is_contiguous(memory_format=layout)


def test_single_images_and_maps_too_small_to_pool_are_torchs() -> None:
    maps = torch.randn(3, 6, 4)
    assert torch.equal(pool_fast(nn.MaxPool2d(2))(maps), nn.MaxPool2d(2)(maps))
    with pytest.raises(RuntimeError, match="Output size is too small"):
        pool_fast(nn.MaxPool2d(2))(torch.randn(1, 1, 1, 4))


def test_not_a_number_goes_through() -> None:
    maps = torch.tensor([[[[1.0, torch.nan], [2.0, 3.0]]]])
    assert pool_fast(nn.MaxPool2d(2))(maps).isnan().all()


class _Doubled(nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        doubled: Tensor = 2 * super().forward(input)
        return doubled


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(3),
        nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d((2, 1)),
        nn.MaxPool2d(2, return_indices=True), nn.AvgPool2d(2), _Doubled(2),
    ],
)  # fmt: skip
def test_other_pools_are_left_alone(pool: nn.Module) -> None:
    before = type(pool)
    assert type(pool_fast(pool)) is before


def test_all_of_a_network_are_replaced_with_their_hooks_and_flags() -> None:
    called = []
    network = nn.Sequential(nn.MaxPool2d((2, 2), (2, 2)), nn.Sequential(nn.MaxPool2d(2))).eval()
    network[0].register_forward_hook(lambda *_: called.append(1))
    fast = pool_fast(copy.deepcopy(network))
    assert [type(m) for m in fast.modules() if isinstance(m, nn.MaxPool2d)] == [MaxPool2x2] * 2
    assert not any(module.training for module in fast.modules())
    maps = torch.randn(1, 2, 8, 8)
    assert torch.equal(fast(maps), network(maps))
    assert len(called) == 2


def test_a_second_derivative_is_refused() -> None:
    maps = torch.randn(1, 1, 4, 4, requires_grad=True)
    output = pool_fast(nn.MaxPool2d(2))(maps).square().sum()
    (gradient,) = torch.autograd.grad(output, maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())
