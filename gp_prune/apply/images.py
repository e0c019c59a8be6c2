"""Labelled images of a known data set or a folder, brought to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gp_prune.apply.image_folder import Shape, find_images, read_image
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.tasks.data import DATA_SETS, load_data

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue count in a grey value (ITU-R BT.601)."""


class Images(Dataset[Batch]):
    """Labelled images, as a data set of torch that reads them when they are taken.

    Attributes:
        name: what they are, for a person to read.
        labels: (n,) class numbers of all of them.
    """

    def __init__(
        self, name: str, labels: Tensor, read: Callable[[int], Tensor], *, repeats: bool = False
    ) -> None:
        """Make a data set of images that ``read`` gives by number, (channels, height, width).

        Where ``repeats`` says that outputs repeat inputs, the target is the image.
        """
        self.name, self.labels = name, labels
        self._read, self._repeats = read, repeats

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Return the number of classes that have an image."""
        return len(set(self.labels.tolist()))

    def __getitems__(self, indices: list[int]) -> Batch:
        """Read the images with these numbers."""
        inputs = torch.stack([self._read(index) for index in indices])
        labels = self.labels[indices]
        return Batch(inputs, inputs if self._repeats else labels, labels)


def open_images(
    loaded: LoadedModel,
    source: str,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Images:
    """Open images and bring them to what a network takes, as ``calibration`` says.

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network; the
            last two also when an image is read.
    """
    shape = _image_shape(loaded)
    name, labels, read = _open(source, shape, data_root, download=download)
    normalised = loaded.imagenet and shape[0] == len(_IMAGENET_MEAN)
    mean = torch.tensor(_IMAGENET_MEAN).reshape(-1, 1, 1)
    deviation = torch.tensor(_IMAGENET_DEVIATION).reshape(-1, 1, 1)

    def fit(index: int) -> Tensor:
        image = fit_image(read(index), shape)
        return (image - mean) / deviation if normalised else image

    return Images(name, labels, fit, repeats=loaded.reconstructs)


def fit_image(image: Tensor, shape: Shape) -> Tensor:
    """Bring an image to the input shape of a network.

    Args:
        image: (channels, height, width).
        shape: channels, height, width that the network takes.

    Raises:
        UserError: the channels cannot be matched.
    """
    channels, height, width = shape
    if image.shape[0] == 1 != channels:
        image = image.expand(channels, -1, -1)
    elif image.shape[0] == 3 and channels == 1:
        image = (image * torch.tensor(_GREY).reshape(3, 1, 1)).sum(0, keepdim=True)
    elif image.shape[0] != channels:
        raise UserError(
            f"the images have {image.shape[0]} channels, the network takes {channels}; "
            "use a data set of its kind"
        )
    if image.shape[1:] == (height, width):
        return image.contiguous()
    scale = max(height / image.shape[1], width / image.shape[2])
    size = [math.ceil(side * scale - 1e-6) for side in image.shape[1:]]
    scaled = functional.interpolate(
        image[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width].contiguous()


def _image_shape(loaded: LoadedModel) -> Shape:
    inputs = loaded.example_inputs
    if isinstance(inputs, tuple) and len(inputs) == 1:
        inputs = inputs[0]
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise UserError(
            f"--data gives images, but {loaded.name!r} does not take one batch of images "
            "(samples, channels, height, width); use prune() with your own batches"
        )
    _, channels, height, width = inputs.shape
    return channels, height, width


def _open(
    source: str, shape: Shape, data_root: str | Path | None, *, download: bool
) -> tuple[str, Tensor, Callable[[int], Tensor]]:
    """Return the name of a source, the labels of its images, and a reader of one by number."""
    if source in DATA_SETS:
        train = load_data(source, data_root, download=download).train
        return source, train.labels, train.inputs.__getitem__
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"unknown data {source!r}: no folder has that name, and the data sets are "
            f"{', '.join(DATA_SETS)}"
        )
    paths, labels = find_images(folder)
    return str(folder), labels, lambda index: read_image(paths[index], shape)
