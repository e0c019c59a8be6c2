"""Prune a network of your own by saved metrics, fine-tune it, save it, and load it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from gp_prune import (
    FineTuning,
    fine_tune,
    load_pruned,
    own_data,
    prune,
    save_pruned,
    tune_pruned,
)


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
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), Block(32), Block(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits bundled with scikit-learn as (n, 1, 8, 8) images, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16).float().reshape(-1, 1, 8, 8), torch.tensor(labels)


def main() -> None:
    images, labels = digits()
    data = own_data((images, labels))  # split into training and validation samples
    model = build()
    fine_tune(model, data.train, functional.cross_entropy, FineTuning(epochs=6, optimiser="adamw"))

    # By the weights alone, to half of the MACs; then what is left is trained for three epochs.
    pruned = prune(model, "l1", images[:1], keep_macs=0.5)
    pruned, quality = tune_pruned(pruned, model, data, FineTuning(epochs=3, distill=0.5))
    print("MACs ", pruned.before.macs, "->", pruned.after.macs)
    print(
        f"error {quality.dense:.3f} dense, {quality.pruned:.3f} pruned, "
        f"{quality.recalibrated:.3f} recalibrated, {quality.tuned:.3f} fine-tuned"
    )

    # A metric that measures something gets calibration data, and a loss if it needs gradients.
    by_gradients = prune(
        model, "taylor_bn", images[:1], data=[(images[:256], labels[:256])],
        loss=functional.cross_entropy, keep_params=0.5,
    )  # fmt: skip
    print("parameters", by_gradients.before.params, "->", by_gradients.after.params)

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "pruned"
        save_pruned(pruned, folder)
        again = load_pruned(folder, build())
    print("loaded again, same output:", torch.equal(again(images), pruned.model(images)))


if __name__ == "__main__":
    main()
