"""Prune a network of your own by saved metrics, save it, and load it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from gp_prune import load_pruned, prune, save_pruned


class Block(nn.Module):
    """A residual block: the channels of both paths are coupled and are cut together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(inner)))


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Block(32), Block(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def main() -> None:
    model = build()
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))

    by_weights = prune(model, "l1", images[:1], macs=0.5)
    print("l1:          MACs", by_weights.before.macs, "->", by_weights.after.macs)

    # A metric that measures something gets calibration data, and a loss if it needs gradients.
    by_gradients = prune(
        model, "taylor_bn", images[:1], data=[(images, labels)], loss=functional.cross_entropy,
        params=0.5,
    )  # fmt: skip
    print("taylor_bn: params", by_gradients.before.params, "->", by_gradients.after.params)

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "pruned"
        save_pruned(by_weights, folder)
        again = load_pruned(folder, build())
    print("loaded again, same output:", torch.equal(again(images), by_weights.model(images)))


if __name__ == "__main__":
    main()
