"""Images of a known data set or a folder, brought to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.tasks.data import DATA_SETS, Split, load_data
from gp_prune.tasks.image_folder import Shape, find_images, read_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue count in a grey value (ITU-R BT.601)."""


class Images(Dataset[Batch]):
    """Images, as a data set of torch that reads them when they are taken.

    Attributes:
        name: what they are, for a person to read.
        shape: channels, height and width of each.
        labels: (n,) class numbers of all of them; None where they have none.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        count: int,
        labels: Tensor | None,
        read: Callable[[int], Tensor],
        *,
        repeats: bool = False,
    ) -> None:
        """Make a data set of ``count`` images that ``read`` gives by number.

        Where ``repeats`` says that outputs repeat inputs, the target is the image.
        """
        self.name, self.shape, self.labels = name, shape, labels
        self._count, self._read, self._repeats = count, read, repeats

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    @property
    def classes(self) -> int | None:
        """Return the number of classes that have an image; None where there are no labels."""
        return None if self.labels is None else len(set(self.labels.tolist()))

    def __getitems__(self, indices: list[int]) -> Batch:
        """Read the images with these numbers."""
        inputs = torch.stack([self._read(index) for index in indices])
        labels = None if self.labels is None else self.labels[indices]
        return Batch(inputs, inputs if self._repeats else labels, labels)


def open_images(
    source: str | Path,
    shape: Shape,
    *,
    imagenet: bool = False,
    repeats: bool = False,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Images:
    """Open the images of a data set (its training part) or of a folder for a network.

    Images are scaled to cover the network's input and cut to its centre; grey images get the
    network's channels, colour images become grey where it has one channel.

    Args:
        source: one of :data:`gp_prune.tasks.data.DATA_SETS`, or a folder with one folder of images
            per class; where outputs repeat inputs, also one with images alone.
        shape: channels, height and width that the network takes.
        imagenet: whether images of three channels are normalised as ImageNet is.
        repeats: whether the outputs of the network repeat its inputs.
        data_root: folder with torchvision's data sets.
        download: whether torchvision may fetch a missing data set.

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network; the
            last two also when an image is read.
    """
    if source in DATA_SETS:
        part = load_data(str(source), data_root, download=download).train
        return images_of(str(source), part, shape, imagenet=imagenet, repeats=repeats)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"unknown data {str(source)!r}: no folder has that name, and the data sets are "
            f"{', '.join(DATA_SETS)}"
        )
    paths, labels = find_images(folder, labelled=not repeats)
    fit = _fitting(shape, imagenet=imagenet)
    return Images(
        str(folder),
        shape,
        len(paths),
        labels,
        lambda index: fit(read_image(paths[index], shape)),
        repeats=repeats,
    )


def images_of(
    name: str, part: Split, shape: Shape, *, imagenet: bool = False, repeats: bool = False
) -> Images:
    """Return images that are in memory, brought to what a network takes when they are taken."""
    fit = _fitting(shape, imagenet=imagenet)
    inputs, labels = part.inputs, part.labels
    return Images(name, shape, len(part), labels, lambda index: fit(inputs[index]), repeats=repeats)


def _fitting(shape: Shape, *, imagenet: bool) -> Callable[[Tensor], Tensor]:
    """Return what brings an image to the shape, and normalises it where that is asked for."""
    normalised = imagenet and shape[0] == len(IMAGENET_MEAN)
    mean = torch.tensor(IMAGENET_MEAN).reshape(-1, 1, 1)
    deviation = torch.tensor(_IMAGENET_DEVIATION).reshape(-1, 1, 1)

    def fit(image: Tensor) -> Tensor:
        fitted = fit_image(image, shape)
        return (fitted - mean) / deviation if normalised else fitted

    return fit


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


def image_shape(example_inputs: Any, name: str) -> Shape:
    """Return channels, height and width of the images that a network takes.

    Args:
        example_inputs: what the network is called with.
        name: what the network is called, for the message.

    Raises:
        UserError: they are no images.
    """
    inputs = example_inputs
    if isinstance(inputs, tuple) and len(inputs) == 1:
        inputs = inputs[0]
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise UserError(
            f"--data gives images, but {name!r} does not take one batch of images "
            "(samples, channels, height, width); use prune() with your own batches"
        )
    _, channels, height, width = inputs.shape
    return channels, height, width
