"""The weights that read a channel, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Consumer, collect
from gp_prune.statistics.layers import to_dense
from gp_prune.statistics.records import by_input

LAYERS = [
    nn.Linear(6, 4), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, (1, 3), groups=2),
    nn.Conv1d(6, 6, 2, groups=6),
    nn.ConvTranspose2d(6, 4, 3), nn.ConvTranspose2d(6, 4, (2, 1), groups=2),
    nn.ConvTranspose1d(6, 6, 3, groups=6),
]  # fmt: skip


def each(width: int) -> tuple[tuple[int, ...], ...]:
    return tuple((entry,) for entry in range(width))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_weights_by_input_are_the_columns_of_the_dense_weight(layer: Any) -> None:
    weight = layer.weight.detach().double()
    table, dense = by_input(weight, layer), to_dense(weight, layer)
    assert table.numel() == weight.numel()
    for entry in range(6):
        column = dense[:, entry].flatten()
        assert torch.equal(table[entry], column[column != 0])


def data(*shape: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, *shape, generator=generator).double()
    y = torch.randn(5, 3, generator=generator).double()
    return [Batch(x[:2], y[:2]), Batch(x[2:], y[2:])]


class Branches(nn.Module):
    """One layer, read by a convolution and, flattened, by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 2)
        self.conv = nn.Conv2d(2, 3, 2)
        self.fc = nn.Linear(2 * 4, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x).tanh()
        return self.conv(x).mean((2, 3)) + self.fc(x.flatten(1))


def test_all_readers_stand_side_by_side() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Branches().double()
    readers = {"first": [Consumer("conv", each(2)), Consumer("fc", ((0, 1, 2, 3), (4, 5, 6, 7)))]}
    needs, loss = {"outgoing", "gradients"}, functional.mse_loss
    records = collect(model, None, data(1, 3, 3), needs=needs, loss=loss, outgoing=readers)
    images: list[Any] = [batch.inputs for batch in data(1, 3, 3)]
    x = torch.cat(images)
    functional.mse_loss(model(x), torch.cat([b.target for b in data(1, 3, 3)])).backward()  # type: ignore[no-untyped-call]
    for field, read in (("outgoing", lambda p: p.detach()), ("outgoing_grad", lambda p: p.grad)):
        conv, fc = read(model.conv.weight), read(model.fc.weight)  # type: ignore[no-untyped-call]
        expected = [
            torch.cat([conv[:, q].flatten(), fc[:, 4 * q : 4 * q + 4].T.flatten()]) for q in (0, 1)
        ]
        torch.testing.assert_close(getattr(records["first"], field), torch.stack(expected))
        for name, width in (("conv", 3), ("fc", 3)):
            assert getattr(records[name], field).tolist() == [[0.0]] * width
    alone = collect(model, ["first"], data(1, 3, 3), needs=needs, loss=loss, outgoing=readers)
    torch.testing.assert_close(alone["first"].outgoing_grad, records["first"].outgoing_grad)
    weights = collect(model, ["first"], (), needs={"outgoing"}, outgoing=readers)["first"]
    assert torch.equal(weights.require("outgoing"), records["first"].require("outgoing"))
    assert weights.outgoing_grad is None


def test_channels_with_fewer_readers_are_filled_up_with_zeros() -> None:
    model: Any = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 2))
    readers = {"0": [Consumer("1", ((), (0,), (2, 1)))]}
    weight = model[1].weight.detach().double()
    record = collect(model, None, (), needs={"outgoing"}, outgoing=readers)["0"]
    expected = torch.zeros(3, 4).double()
    expected[1, :2] = weight[:, 0]
    expected[2] = torch.cat([weight[:, 2], weight[:, 1]])
    assert torch.equal(record.require("outgoing"), expected)


def test_a_reader_that_does_not_run_has_no_gradient() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3).double(), nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Any:
            return self.used(x)

    record = collect(
        Lazy(), ["used"], data(3), needs={"outgoing", "gradients"}, loss=functional.mse_loss,
        outgoing={"used": [Consumer("idle", each(3))]},
    )["used"]  # fmt: skip
    assert record.require("outgoing").all() and not record.require("outgoing_grad").any()


def test_a_reader_that_is_not_in_the_model_is_named() -> None:
    readers = {"": [Consumer("head", each(2))]}
    with pytest.raises(UserError, match="read by 'head', which the model does not have"):
        collect(nn.Linear(2, 2), None, (), needs={"outgoing"}, outgoing=readers)
