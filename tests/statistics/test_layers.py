"""Weights brought to (o, i, k) mean the same as the layers they come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from gp_prune.errors import UserError
from gp_prune.statistics import dense_weight, prunable_layers


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    """A small convolution of any kind, in float64."""
    axes = draw(st.sampled_from([1, 2, 3]))
    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 2, 3]))
    kind = "ConvTranspose" if transposed else "Conv"
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 99)))
        made: nn.Module = getattr(nn, f"{kind}{axes}d")(
            groups * draw(st.integers(1, 2)),
            groups * draw(st.integers(1, 2)),
            draw(st.integers(1, 3)),
            groups=groups,
            bias=False,
            dtype=torch.float64,
        )
    return made


def dense_twin(layer: nn.Module, weight: Tensor) -> Any:
    """The layer without groups that has this dense weight (o, i, k)."""
    twin: Any = type(layer)(
        layer.in_channels, layer.out_channels, layer.kernel_size, bias=False, dtype=torch.float64
    )
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        weight = weight.transpose(0, 1)
    with torch.no_grad():
        twin.weight.copy_(weight.reshape(twin.weight.shape))
    return twin


@settings(deadline=None, max_examples=60)
@given(layer=convolutions())
def test_a_layer_with_the_dense_weight_computes_the_same(layer: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs = torch.randn(2, layer.in_channels, *[4] * len(layer.kernel_size)).double()
        twin = dense_twin(layer, dense_weight(layer))
    torch.testing.assert_close(twin(inputs), layer(inputs))


def test_linear_weights_have_one_tap() -> None:
    layer = nn.Linear(3, 2)
    torch.testing.assert_close(dense_weight(layer)[..., 0], layer.weight.detach().double())
    assert dense_weight(layer).shape == (2, 3, 1)


def test_the_weight_is_a_copy() -> None:
    layer = nn.Linear(3, 2, dtype=torch.float64)
    before = layer.weight.detach().clone()
    dense_weight(layer).zero_()
    assert torch.equal(layer.weight, before)


def test_masked_weights_follow_a_change_of_the_original() -> None:
    layer: Any = nn.Linear(3, 2)
    prune.custom_from_mask(layer, "weight", torch.tensor([[1.0, 1, 1], [0, 0, 0]]))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight_orig.fill_(5.0)  # the plain attribute "weight" is stale now
    assert dense_weight(layer)[..., 0].tolist() == [[5, 5, 5], [0, 0, 0]]


def test_reparametrised_weights_are_the_ones_in_use() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    torch.testing.assert_close(dense_weight(layer)[..., 0], layer.weight.detach().double())


def test_a_lazy_layer_is_refused() -> None:
    layer = nn.LazyLinear(2)
    with pytest.raises(UserError, match="run the model once"):
        dense_weight(layer)


def test_layers_come_in_module_order_and_shared_ones_once() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), shared, nn.ReLU(), shared)
    model.add_module("deep", nn.Sequential(nn.ConvTranspose3d(1, 1, 1)))
    assert list(prunable_layers(model)) == ["0", "2", "deep.0"]
    assert prunable_layers(model)["2"] is shared
