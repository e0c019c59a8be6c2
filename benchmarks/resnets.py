"""The residual networks of He et al. (2016) for CIFAR-10, on normalised images.

gp-prune apply l1 benchmarks/resnets.py:resnet20 --keep-macs 0.5
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gp_prune.tasks.cifar_resnet import DEVIATION, IMAGE, MEAN, Block, CifarResNet

__all__ = ["DEVIATION", "IMAGE", "MEAN", "NETWORKS", "Block", "load_published", "normalised"]


def resnet20() -> tuple[nn.Module, Tensor]:
    """ResNet-20 with random weights, and an example input."""
    return CifarResNet(3).eval(), torch.zeros(1, *IMAGE)


def resnet56() -> tuple[nn.Module, Tensor]:
    """ResNet-56 with random weights, and an example input."""
    return CifarResNet(9).eval(), torch.zeros(1, *IMAGE)


NETWORKS = {"resnet20": resnet20, "resnet56": resnet56}


def load_published(model: nn.Module, path: Path) -> None:
    """Put published weights into ``model``; nothing is unpickled but tensors.

    Args:
        model: a network of this file.
        path: a file of ``torch.save`` with the entries by name, or with a dictionary of them under
            "state_dict"; names may begin with "module.".

    Raises:
        RuntimeError: an entry is missing, left over or of another shape.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    entries = content.get("state_dict", content)
    model.load_state_dict({name.removeprefix("module."): value for name, value in entries.items()})


def normalised(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] as the published weights expect them."""
    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (images - mean) / deviation
