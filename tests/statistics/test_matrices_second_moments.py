"""SparseGPT's factor, against inverting the whole matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, collect, matrices
from gp_prune.statistics.layers import tap_energy, unfolded
from gp_prune.statistics.matrices import SecondMoments

LAYERS = {
    "conv": (nn.Conv2d(3, 4, (2, 3), padding=1, stride=2), (3, 5, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), (4, 5, 5)),
    "depthwise": (nn.Conv2d(3, 3, 3, groups=3, padding="same"), (3, 4, 4)),
    "reflecting": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 4, 5)),
    "line": (nn.Conv1d(3, 2, 3, padding=1), (3, 7)),
    "volume": (nn.Conv3d(2, 2, 2), (2, 3, 4, 3)),
    "up": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 4, 3)),
    "up-grouped": (nn.ConvTranspose2d(4, 6, (2, 3), groups=2, dilation=2), (4, 3, 3)),
    "up-line": (nn.ConvTranspose1d(2, 3, 2, stride=3, padding=1), (2, 5)),
    "linear": (nn.Linear(5, 3), (5,)),
    "tokens": (nn.Linear(5, 3), (4, 5)),
}


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def by_probing(layer: Any, inputs: Tensor) -> Any:
    """(i, k, n * positions): what every tap reads, as the layer's own output for one weight of 1.

    The output is linear in the weights, so its derivative by a weight is what the weight reads.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T.unsqueeze(1)
    groups, transposed = layer.groups, "Transpose" in type(layer).__name__
    weight: Any = layer.weight
    inside = layer.in_channels // groups
    found = []
    for channel in range(layer.in_channels):
        group, place = divmod(channel, inside)
        for tap in range(weight[0, 0].numel()):
            probe = torch.zeros_like(weight, dtype=torch.float64)
            out = group * (layer.out_channels // groups)
            row = probe[channel, 0] if transposed else probe[out, place]
            row.view(-1)[tap] = 1
            named = {"weight": probe, "bias": torch.zeros(layer.out_channels).double()}
            output = torch.func.functional_call(layer, named, inputs)
            found.append(output[:, out].flatten())
    return torch.stack(found).reshape(layer.in_channels, -1, len(found[0]))


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_unfolding_equals_probing(kind: str) -> None:
    layer, shape = LAYERS[kind]
    layer, inputs = layer.double(), images(3, *shape)
    output = layer(inputs)
    columns = unfolded(layer, inputs, output)
    torch.testing.assert_close(columns, by_probing(layer, inputs))
    torch.testing.assert_close(columns.square().sum(2), tap_energy(layer, inputs, output))


@settings(max_examples=60)
@given(
    kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 3),
    dilation=st.integers(1, 2), extra=st.integers(0, 1), size=st.integers(1, 5),
)  # fmt: skip
def test_transposed_layers_of_any_geometry(
    kernel: int, stride: int, padding: int, dilation: int, extra: int, size: int
) -> None:
    assume(extra < max(stride, dilation))
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 >= 1)
    layer = nn.ConvTranspose1d(
        2, 2, kernel, stride, padding, extra, dilation=dilation, dtype=torch.float64
    )
    inputs = images(2, 2, size)
    torch.testing.assert_close(unfolded(layer, inputs, layer(inputs)), by_probing(layer, inputs))


def plain_factor(columns: Tensor, groups: int) -> Any:
    """(i, k), from the block-diagonal Gram matrix of all inputs and taps and its inverse."""
    inputs, taps, _ = columns.shape
    rows = columns.flatten(0, 1)
    gram = rows @ rows.T
    group = torch.arange(inputs * taps) // (inputs // groups * taps)
    gram = gram * (group.unsqueeze(0) == group.unsqueeze(1))
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram)).double()
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    return upper.diagonal().reshape(inputs, taps)


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_factor_equals_inverting(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = LAYERS[kind]
    layer, inputs = layer.double(), images(7, *shape)
    expected = plain_factor(by_probing(layer, inputs), getattr(layer, "groups", 1))
    data = [Batch(part) for part in inputs.split(3)]  # type: ignore[no-untyped-call]
    for most in (1, 2**22):
        monkeypatch.setattr(matrices, "_MOST_VALUES_AT_ONCE", most)
        (record,) = collect(layer, None, data, needs={"second_moments"}).values()
        torch.testing.assert_close(record.inverse_factor, expected)


def test_inputs_of_zero_give_one() -> None:
    (record,) = collect(
        nn.Conv2d(2, 3, 2), None, [Batch(torch.zeros(2, 2, 3, 3))], needs={"second_moments"}
    ).values()
    assert record.require("inverse_factor").tolist() == [[1.0] * 4] * 2


def test_dead_inputs_stay_finite() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0
    (record,) = collect(nn.Linear(3, 2), None, [Batch(x)], needs={"second_moments"}).values()
    factor = record.require("inverse_factor")[:, 0]
    assert bool(torch.isfinite(factor).all())
    assert int(factor.argmax()) == 1  # the least read is divided by most


def test_a_sample_without_its_axis() -> None:
    layer, x = nn.Conv2d(1, 1, 2).double(), images(1, 3, 3)
    products = SecondMoments("conv", layer)
    products.add(x, layer(x))
    torch.testing.assert_close(products.result(), plain_factor(by_probing(layer, x[None]), 1))


def test_too_many_columns_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1025, 1, 3), nn.Flatten())
    with pytest.raises(UserError, match="layer '0' reads 9225 inputs times taps, too many"):
        collect(model, None, [Batch(torch.ones(1, 1025, 3, 3))], needs={"second_moments"})
    grouped = nn.Conv2d(1025, 1025, 3, groups=1025)
    collect(grouped, None, [Batch(torch.ones(1, 1025, 3, 3))], needs={"second_moments"})


def test_equals_sparsegpt_up_to_its_factor() -> None:
    """The loop of SparseGPT's own code: H of 2 / n X X^T, damped, inverted, factored."""
    layer, x = nn.Linear(6, 2).double(), images(20, 6)
    h = torch.zeros(6, 6).double()
    seen = 0
    for part in x.split(8):  # type: ignore[no-untyped-call]
        h *= seen / (seen + len(part))
        seen += len(part)
        scaled = (2 / seen) ** 0.5 * part.T
        h += scaled @ scaled.T
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    expected = torch.linalg.cholesky(inverse, upper=True).diagonal() * (2 / 20) ** 0.5
    (record,) = collect(layer, None, [Batch(x)], needs={"second_moments"}).values()
    torch.testing.assert_close(record.require("inverse_factor")[:, 0], expected)
    assert functional.relu(expected).all()
