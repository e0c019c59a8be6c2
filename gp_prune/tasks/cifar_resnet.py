"""Build the residual networks of He et al. (2016) for CIFAR-10, with parameter-free shortcuts.

A network of depth 6 n + 2 has a first convolution, three stages of n blocks with 16, 32 and 64
channels, and a linear layer on the channel means. Where a stage has more channels than the one
before, the shortcut takes every second row and column and fills up with channels of zeros
("option A"), half of them before and half after. The modules have the names that Idelbayev's
published weights go by (github.com/akamaster/pytorch_resnet_cifar10), so that those load.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)
CLASSES = 10
IMAGE = (3, 32, 32)
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""What the published weights expect of red, green and blue in [0, 1]: the values of ImageNet."""


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """Two convolutions with batch norm beside a shortcut; ``after`` is a multiple of ``before``."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.added = after - before
        self.stride = 2 if self.added else 1
        self.conv1 = _convolution(before, after, self.stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = _convolution(after, after, 1)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, after, h / stride, w / stride)."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.added:
            return x
        front = self.added // 2
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, front, self.added - front))


class CifarResNet(nn.Module):
    """The network with ``blocks`` blocks per stage, 6 * ``blocks`` + 2 layers deep."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, blocks: int, *, normalise: bool = False) -> None:
        """Build the network with random weights.

        Args:
            blocks: residual blocks of each stage.
            normalise: whether the network takes images in [0, 1], and normalises them itself as
                the published weights expect it; otherwise it takes normalised ones.
        """
        super().__init__()
        self.conv1 = _convolution(IMAGE[0], WIDTHS[0], 1)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        stages = [
            nn.Sequential(*(Block(*pair) for pair in pairwise((before, *[after] * blocks))))
            for before, after in pairwise((WIDTHS[0], *WIDTHS))
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(WIDTHS[-1], CLASSES)
        mean, deviation = (MEAN, DEVIATION) if normalise else ((0.0,) * 3, (1.0,) * 3)
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to the logits (n, 10)."""
        x = (x - self.mean) / self.deviation
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
