"""Squared gradients of every sample's loss, against a backward pass for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect, prunable_layers, sample_gradients
from gp_prune.statistics.layers import to_dense

OPTIONS: Any = {"needs": {"sample_fisher"}, "loss": functional.cross_entropy}


def one_by_one(model: Any, x: Tensor, y: Tensor, loss: Any) -> dict[str, Tensor]:
    """Layer -> (o, i, k): mean of the squared gradients, by an ordinary pass for each sample."""
    layers: Any = prunable_layers(model)
    found = {name: torch.zeros(()).double() for name in layers}
    for image, label in zip(x, y, strict=True):
        model.zero_grad()
        loss(model(image[None]), label[None]).backward()
        for name, layer in layers.items():
            grad = (
                torch.zeros_like(layer.weight) if layer.weight.grad is None else layer.weight.grad
            )
            found[name] = found[name] + to_dense(grad, layer).square() / len(x)
    return found


@pytest.mark.parametrize("most", [1, 2**8, 2**22])
def test_every_kind_of_layer(
    mixture: Any, whole: Batch, parts: list[Batch], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_gradients, "_MOST_VALUES_AT_ONCE", most)
    inputs: Any = whole.inputs
    expected = one_by_one(mixture, inputs, whole.target, functional.cross_entropy)
    for batches in ([whole], parts):
        records = collect(mixture, None, batches, **OPTIONS)
        for name, record in records.items():
            assert bool(expected[name].any())
            torch.testing.assert_close(record.sample_fisher, expected[name], msg=name)


class Shapes(nn.Module):
    """Three dimensions, dilation, other padding, and frames that are folded into the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv3d(2, 4, (1, 2, 3), padding="same", padding_mode="circular", groups=2)
        self.flat = nn.Conv2d(4, 3, 2, dilation=2, stride=(1, 2), padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose1d(3, 4, 3, stride=2, output_padding=1, groups=1)
        self.frame = nn.Linear(4, 3)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.deep(x))  # (n, 4, 3, 5, 5)
        n = len(x)
        x = torch.tanh(self.flat(x.transpose(1, 2).flatten(0, 1)))  # a row per frame
        x = torch.tanh(self.up(x.flatten(2)))
        x = self.frame(x.transpose(1, 2)).reshape(n, -1, 3).mean(1)
        with torch.no_grad():
            self.idle(x)
        return x


def test_every_shape_and_folded_samples() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model, x = Shapes().double().eval(), torch.randn(5, 2, 3, 5, 5).double()
    y = torch.arange(5) % 3
    expected = one_by_one(model, x, y, functional.cross_entropy)
    records = collect(model, None, [Batch(x[:2], y[:2]), Batch(x[2:], y[2:])], **OPTIONS)
    assert not records["idle"].require("sample_fisher").any()
    for name, record in records.items():
        torch.testing.assert_close(record.sample_fisher, expected[name], msg=name)


def test_a_layer_that_runs_twice_adds_up_before_squaring() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(2, 2).double()
        x = torch.randn(6, 2).double()
    model = nn.Sequential(layer, nn.ReLU(inplace=True), layer)
    options: Any = {"needs": {"sample_fisher"}, "loss": functional.mse_loss}
    record = collect(model, None, [Batch(x, x)], **options)["0"]
    expected = one_by_one(model, x, x, functional.mse_loss)["0"]
    torch.testing.assert_close(record.sample_fisher, expected)


def test_weights_that_read_a_channel(mixture: Any, whole: Batch) -> None:
    inputs: Any = whole.inputs
    architecture = trace(mixture, inputs)
    records = collect(
        mixture, None, [whole], needs={"sample_fisher", "outgoing"},
        loss=functional.cross_entropy, outgoing=consumers(architecture),
    )  # fmt: skip
    expected = one_by_one(mixture, inputs, whole.target, functional.cross_entropy)
    torch.testing.assert_close(records["tokens"].outgoing_sample_fisher, expected["out"][:, :, 0].T)


def test_rows_that_are_no_samples_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Any:
            return self.layer(x[:3]).mean(0, keepdim=True).expand(len(x), 2)

    ones = torch.ones(4, 2)
    with pytest.raises(UserError, match="runs on 3 rows where the batch has 4 samples"):
        collect(Odd(), None, [Batch(ones, ones)], needs={"sample_fisher"},
                loss=functional.mse_loss)  # fmt: skip
