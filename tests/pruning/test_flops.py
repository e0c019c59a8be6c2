"""The quick counter must count what torch's own counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from gp_prune.pruning.flops import FlopCounter, flop_counter


class Everything(nn.Module):
    """Operators with counts, without, and made of others; some are called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.apart = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.back = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.layer_norm = nn.LayerNorm(4)
        self.bilinear = nn.Bilinear(4, 4, 6)
        self.recurrent = nn.GRU(4, 4, batch_first=True)
        self.last = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.norm(self.stem(x)))
        x = functional.gelu(self.back(functional.avg_pool2d(self.apart(x), 2)))
        rows = self.layer_norm(x.flatten(2).transpose(1, 2))
        rows = torch.einsum("nij,nkj->nik", rows, rows).softmax(-1) @ rows
        rows, _ = self.recurrent(rows)
        rows = self.bilinear(rows, rows.flip(1))
        return self.last(torch.cat([rows, rows * 2], 1)).mean(1)  # type: ignore[no-any-return]


def attention(x: Tensor) -> Tensor:
    rows = x.flatten(2).transpose(1, 2)[:, None]
    return functional.scaled_dot_product_attention(rows, rows, rows)


@pytest.mark.parametrize("around", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [False, True])
def test_the_total_is_that_of_torch(around: Any, training: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Everything().train(training), torch.randn(2, 3, 10, 10)
    with around(), FlopCounter() as quick:
        output = model(x)
    with around(), FlopCounterMode(display=False) as slow:
        expected = model(x)
    # torch has no count for the bilinear layer: 64 positions of 2 samples, 6 x 4 x 4 weights.
    assert quick.total == slow.get_total_flops() + 2 * 128 * 96
    assert quick.uncounted == set()
    torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_gradients_are_counted_too() -> None:
    totals = []
    for counter in (FlopCounter(), FlopCounterMode(display=False)):
        layer, x = nn.Linear(6, 4), torch.ones(3, 6, requires_grad=True)
        with counter:
            layer(x).sum().backward()
        quick = isinstance(counter, FlopCounter)
        totals.append(counter.total if quick else counter.get_total_flops())  # type: ignore[union-attr]
    assert totals[0] == totals[1] == 3 * 2 * 3 * 6 * 4


def test_attention_on_a_cpu_is_counted() -> None:
    with torch.no_grad(), flop_counter() as counter:
        attention(torch.randn(2, 4, 3, 3))
    assert counter.total == 2 * 2 * (2 * 9 * 9 * 4)


def test_operators_without_a_count_are_named() -> None:
    with flop_counter() as counter:
        torch.fft.rfft(torch.randn(2, 8)).abs()
        torch.cdist(torch.randn(3, 4), torch.randn(2, 4))
        torch.linalg.inv(torch.eye(3))
    assert counter.uncounted == {"aten::_fft_r2c", "aten::_cdist_forward", "aten::linalg_inv_ex"}
