"""The norm of the unfolded input, against really unfolding it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics.layers import tap_energy


def unfolded(layer: Any, inputs: Tensor) -> Tensor:
    """(i, k) sums of squares by ``F.unfold``, which pads with zeros."""
    columns = functional.unfold(
        inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride
    )
    rows = columns.square().sum((0, 2))
    return rows.reshape(inputs.shape[1], -1)


@settings(deadline=None, max_examples=80)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    groups=st.sampled_from([1, 2, 4]),
)
def test_convolutions_equal_unfold(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    groups: int,
) -> None:
    for k, p, d, length in zip(kernel, padding, dilation, size, strict=True):
        assume(length + 2 * p >= d * (k - 1) + 1)
    layer = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    inputs = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(tap_energy(layer, inputs, layer(inputs)), unfolded(layer, inputs))


def by_tap(layer: Any, inputs: Tensor) -> Any:
    """(i, k) through the layer itself: with one weight set to 1 the output is what it read.

    The output of a layer whose only weight is tap k of channel i is the values that this tap
    reads, so its squared norm is the answer. Works for padding modes and transposed layers;
    in a transposed layer a tap never adds two inputs into one output position.
    """
    weight: Any = layer.weight
    transposed = "Transpose" in type(layer).__name__
    channels, taps = layer.in_channels, weight[0, 0].numel()
    found = torch.zeros(channels, taps, dtype=torch.float64)
    for channel in range(channels):
        for tap in range(taps):
            with torch.no_grad():
                weight.zero_()
                row = weight[channel, 0] if transposed else weight[0, channel]
                row.reshape(-1)[tap] = 1.0
            found[channel, tap] = layer(inputs).square().sum()
    return found


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_padding_modes(mode: str, axes: int) -> None:
    kind = getattr(nn, f"Conv{axes}d")
    layer = kind(2, 3, 3, 2, 1, padding_mode=mode, bias=False, dtype=torch.float64)
    inputs = torch.randn(2, 2, *[5] * axes, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(tap_energy(layer, inputs, layer(inputs)), by_tap(layer, inputs))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_named_paddings(padding: str, kernel: int) -> None:
    layer = nn.Conv2d(
        2, 1, kernel, padding=padding, dilation=(1, 2), bias=False, dtype=torch.float64
    )
    inputs = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(tap_energy(layer, inputs, layer(inputs)), by_tap(layer, inputs))


@settings(deadline=None, max_examples=40)
@given(
    axes=st.sampled_from([1, 2]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    extra=st.integers(0, 1),
)
def test_transposed_convolutions(
    axes: int, kernel: int, stride: int, padding: int, dilation: int, extra: int
) -> None:
    assume(extra < max(stride, dilation))
    assume(2 * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 > 0)
    layer = getattr(nn, f"ConvTranspose{axes}d")(
        2, 2, kernel, stride, padding, extra, 1, False, dilation, dtype=torch.float64
    )
    inputs = torch.randn(2, 2, *[3] * axes, generator=torch.Generator().manual_seed(3)).double()
    torch.testing.assert_close(tap_energy(layer, inputs, layer(inputs)), by_tap(layer, inputs))


def test_linear_layers_sum_over_samples_and_tokens() -> None:
    layer = nn.Linear(3, 2)
    inputs = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(4))
    expected = inputs.double().square().sum((0, 1)).unsqueeze(-1)
    torch.testing.assert_close(tap_energy(layer, inputs, layer(inputs)), expected)


def test_a_single_sample_without_its_axis() -> None:
    layer = nn.Conv2d(2, 3, 3)
    inputs = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        tap_energy(layer, inputs, layer(inputs)), unfolded(layer, inputs[None]).double()
    )
