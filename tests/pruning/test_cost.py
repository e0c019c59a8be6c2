"""Costs: measured against closed forms, predicted exactly as measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, compact, latency, mask, measure, predict
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.plan.channels import Achieved, Budget, ChannelPlan


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(8, 16, 3, padding=1, bias=False), (8, 16, 16), 16 * 16 * 16 * 8 * 9),
        (nn.Conv2d(8, 16, 3, stride=2, padding=1), (8, 16, 16), 8 * 8 * 16 * 8 * 9),
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 16, 16), 16 * 16 * 16 * 2 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 16, 16), 16 * 16 * 8 * 9),
        (nn.ConvTranspose2d(8, 16, 4, 2, 1), (8, 16, 16), 16 * 16 * 16 * 8 * 16),
        (nn.ConvTranspose2d(8, 16, 4, 2, 1, groups=2), (8, 16, 16), 16 * 16 * 16 * 4 * 16),
        (nn.Conv1d(3, 5, 4), (3, 10), 7 * 5 * 3 * 4),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 3 * 2 * 8),
        (nn.Linear(400, 120), (400,), 48000),
        (nn.Linear(5, 7), (3, 5), 3 * 35),
        (nn.BatchNorm2d(8), (8, 4, 4), 0),
        (nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
         (8, 16, 16), 294912),
    ],
)  # fmt: skip
@pytest.mark.parametrize("samples", [1, 5])
def test_measured_macs_are_the_closed_form(layer: Any, shape: Any, macs: Any, samples: int) -> None:
    cost = measure(layer, torch.zeros(samples, *shape))
    assert cost.macs == macs
    assert cost.params == sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize(
    "name",
    ["lenet", "cnn-relu", "mlp-autoencoder", "conv-autoencoder-unflatten", "joined", "depthwise",
     "conv1d", "conv3d", "partly-grouped", "resnet18", "mobilenet_v2"],
)  # fmt: skip
def test_dense_prediction_is_the_measurement(name: str, network: Callable[[str], Any]) -> None:
    model, inputs, architecture = network(name)
    assert predict(architecture, {}) == measure(model, inputs)[:2]
    assert architecture.constant_macs == 0


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_prediction_is_the_measurement_on_mobilenet(
    seed: int,
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model, inputs, architecture = network("mobilenet_v2")
    plan = random_plan(architecture, seed)
    found = measure(compact(model, plan, architecture), inputs)
    assert predict(architecture, plan.kept(architecture)) == found[:2]


class TestPredictRefuses:
    @pytest.mark.parametrize(
        ("kept", "message"),
        [
            ({"nowhere": 1}, "no channel group 'nowhere'"),
            ({"0": 0}, "'0' cannot keep 0 channels"),
            ({"0": 7}, "'0' cannot keep 7 channels; it has 6"),
            ({"11": 9}, "fixed .network output"),
        ],
    )
    def test_impossible_widths(
        self, kept: Any, message: str, network: Callable[[str], Any]
    ) -> None:
        with pytest.raises(UserError, match=message):
            predict(network("lenet").architecture, kept)


def test_nonzero_counts_masked_weights_as_zero(
    fresh: Callable[..., Any], network: Callable[[str], Any]
) -> None:
    model = fresh("mlp-autoencoder")
    architecture = network("mlp-autoencoder").architecture
    inputs = torch.zeros(2, 20)
    dense = measure(model, inputs)
    assert dense.nonzero == dense.params
    plan = ChannelPlan({"0": (1, 2)}, Budget("channels", 0.5), Achieved(1, 1, 1))
    mask(model, plan, architecture)
    cost = measure(model, inputs)
    assert cost[:2] == dense[:2]
    assert cost.nonzero == dense.nonzero - 2 * (20 + 1 + 3)


class Draws(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize("function", [measure, latency])
def test_flags_and_random_numbers_come_back(function: Callable[..., Any]) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), Draws(), nn.BatchNorm1d(3)).train()
    model[0].eval()
    state = torch.get_rng_state()
    function(model, torch.zeros(4, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [False, True, True]
    assert int(model[2].num_batches_tracked) == 0
    with pytest.raises(RuntimeError):
        function(model, torch.zeros(4, 5))
    assert [m.training for m in model] == [False, True, True]


class Calling(nn.Module):
    """Calls a function with the input and its layers."""

    def __init__(self, function: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


MATRIX = torch.arange(63.0).reshape(7, 9)


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (
            Calling(
                lambda x, a, b, c: c(b(a(x))[0]),
                nn.Linear(8, 16), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 2),
            ),
            (10, 8), 10 * (8 * 16 + 4 * 32 * (16 + 32) + 32 * 2),
        ),
        (Calling(lambda x, a: a(x)[0], nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)),
         (5, 4), 5 * 2 * 4 * 6 * ((4 + 6) + (12 + 6))),
        (Calling(lambda x, a: a(x)[0], nn.GRU(4, 6, batch_first=True)), (5, 4), 5 * 3 * 6 * 10),
        (Calling(lambda x, a: a(x), nn.GRUCell(4, 6)), (4,), 3 * 6 * 10),
        (Calling(lambda x, a: a(x)[0], nn.LSTMCell(4, 6)), (4,), 4 * 6 * 10),
        (Calling(lambda x, a: a(x[:, :4], x[:, 4:]), nn.Bilinear(4, 5, 6)), (9,), 4 * 5 * 6),
        (Calling(lambda x: torch.stack([torch.mv(MATRIX, row) for row in x])), (9,), 63),
        (Calling(lambda x: torch.stack([torch.addmv(MATRIX[:, 0], MATRIX, r) for r in x])),
         (9,), 63),
        (Calling(lambda x: torch.stack([torch.dot(row, row) for row in x])), (9,), 9),
        (Calling(lambda x: torch.addbmm(MATRIX[:5, :6], x[:, :, :4], x[:, 0, :24].view(3, 4, 6))),
         (5, 24), 5 * 4 * 6),
    ],
)  # fmt: skip
def test_operators_that_torch_does_not_count(
    model: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    inputs = torch.randn(3, *shape)
    assert measure(model, inputs).macs == macs
    with flop_counter() as counter:  # where autograd follows
        model(inputs)
    assert counter.total == 2 * 3 * macs
    assert not counter.uncounted
