"""A task's images as a researcher loads them: torchvision's data set behind a DataLoader."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from gp_prune._compat import import_torchvision
from gp_prune.tasks import Split, Task

TORCHVISION = {"mnist": "MNIST", "fashionmnist": "FashionMNIST"}


class Loadable(NamedTuple):
    """Training and validation images with their labels, one by one."""

    train: Dataset[Any]
    validation: Dataset[Any]


def loadable(task: Task, data_root: str | None) -> Loadable:
    """Return the splits of a task as data sets of torch.

    MNIST and FashionMNIST are torchvision's, with ``ToTensor`` as the transform, which decodes an
    image whenever it is taken; of other data sets the tensors are taken as they are.

    Args:
        task: the task.
        data_root: folder with torchvision's data sets.
    """
    name = TORCHVISION.get(task.name.rpartition("-")[2])
    if name is None or data_root is None:
        return Loadable(
            *(TensorDataset(s.inputs, _labels(s)) for s in (task.train, task.validation))
        )
    vision = import_torchvision()
    transforms = importlib.import_module("torchvision.transforms")
    images = getattr(vision.datasets, name)(data_root, train=True, transform=transforms.ToTensor())
    places = {image.tobytes(): place for place, image in enumerate(images.data.numpy())}
    return Loadable(
        *(Subset(images, _places(split, places)) for split in (task.train, task.validation))
    )


def _places(split: Split, places: dict[bytes, int]) -> list[int]:
    """Where the images of a split stand in the data set."""
    raw: np.ndarray = split.inputs[:, 0].mul(255).round().to(torch.uint8).numpy()
    return [places[image.tobytes()] for image in raw]


def _labels(split: Split) -> Tensor:
    assert split.labels is not None, "the built-in tasks have labels"
    return split.labels


def same(images: Dataset[Any], split: Split, count: int = 100) -> bool:
    """Whether the first images and labels are those of the split."""
    taken = [images[place] for place in range(count)]
    inputs = torch.stack([image for image, _ in taken])
    labels: Tensor = torch.tensor([int(label) for _, label in taken])
    return torch.equal(inputs, split.inputs[:count]) and torch.equal(labels, _labels(split)[:count])
