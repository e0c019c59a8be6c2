"""Calibration data for any model: a task's own, a known data set, or a folder of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch
from torch import Tensor
from torch.nn import functional

from gp_prune._compat import import_torchvision
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Loss
from gp_prune.statistics.running import call_model, evaluation_mode
from gp_prune.tasks.data import DATA_SETS, load_data
from gp_prune.training.loss import main_output
from gp_prune.training.samples import in_order

_BATCH_SIZE = 32
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_GREY = (0.299, 0.587, 0.114)
"""How much red, green and blue count in a grey value (ITU-R BT.601)."""


class Calibration(NamedTuple):
    """Samples to measure a network on.

    Attributes:
        name: what they are, for a person to read.
        batches: the samples; empty when there are none.
        loss: mean loss of a batch, None when there are no samples.
    """

    name: str
    batches: Sequence[Batch]
    loss: Loss | None


NO_DATA = Calibration("", (), None)
"""What a metric that only reads weights needs."""


class Images(NamedTuple):
    """A source of labelled images, read one by one.

    Attributes:
        name: what they are, for a person to read.
        labels: (n,) class numbers of all of them.
        read: gives the image of that number, (channels, height, width).
    """

    name: str
    labels: Tensor
    read: Callable[[int], Tensor]


def calibration(
    loaded: LoadedModel,
    source: str | None,
    *,
    samples: int = 512,
    seed: int = 0,
    data_root: str | Path | None = None,
    download: bool = False,
    among: Tensor | None = None,
) -> Calibration:
    """Calibration samples that fit a network, chosen by seed.

    Images are scaled to cover the network's input and cut to its centre; grey images get the
    network's channels, colour images become grey where it has one channel. For torchvision's
    networks they are normalised as ImageNet is. A task's loss is used for its network, cross
    entropy for every other.

    Args:
        loaded: the network.
        source: a data set (one of :data:`gp_prune.tasks.data.DATA_SETS`) or a folder that has one
            folder of images per class, in alphabetical order of the classes. None stands for the
            training samples of a task, and for no data where there is no task.
        samples: largest number of samples.
        seed: decides which samples are taken.
        data_root: folder with torchvision's data sets; by default one in the user's cache folder.
        download: whether torchvision may fetch a missing data set.
        among: (images,) numbers of the images that may be taken; all by default. Who judges the
            pruned network on other images of the source gives those that are not judged on.

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network.
    """
    check_samples(samples)
    task = loaded.task
    if source is None:
        if task is None:
            return NO_DATA
        chosen = _chosen(len(task.train.inputs), samples, seed).to(task.train.inputs.device)
        return Calibration(
            f"{task.name}, training split",
            tuple(in_order(task.train.select(chosen), _BATCH_SIZE)),
            task.loss,
        )
    images = fitting_images(loaded, source, data_root=data_root, download=download)
    allowed = torch.arange(len(images.labels)) if among is None else among
    picked = allowed[_chosen(len(allowed), samples, seed)]
    inputs = torch.stack([images.read(i) for i in picked.tolist()])
    labels = images.labels[picked]
    if task is not None and task.kind == "reconstruction":
        return Calibration(images.name, _in_batches(inputs, inputs, labels), task.loss)
    loss = task.loss if task else cross_entropy
    return Calibration(images.name, _in_batches(inputs, labels, labels), loss)


def fitting_images(
    loaded: LoadedModel,
    source: str,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Images:
    """Images brought to what a network takes, read one by one (see :func:`calibration`).

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network; the
            last two also when an image is read.
    """
    images = _open(source, data_root, download=download)
    shape = _image_shape(loaded)
    normalised = loaded.imagenet and shape[0] == len(_IMAGENET_MEAN)
    mean = torch.tensor(_IMAGENET_MEAN).reshape(-1, 1, 1)
    deviation = torch.tensor(_IMAGENET_DEVIATION).reshape(-1, 1, 1)

    def read(index: int) -> Tensor:
        image = fitted(images.read(index), shape)
        return (image - mean) / deviation if normalised else image

    return Images(images.name, images.labels, read)


def check_samples(samples: int) -> None:
    """Raise UserError unless so many samples can be taken."""
    if samples < 1:
        raise UserError(f"the number of samples is {samples}; it must be at least 1")


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Mean cross entropy, in nats, of the main output of a network."""
    return functional.cross_entropy(main_output(output), target)


def check_labels(loaded: LoadedModel, data: Calibration) -> None:
    """Raise UserError unless cross entropy can compare the network's outputs with the labels.

    The network's output must have the shape (samples, classes) with a class for every label.
    """
    if data.loss is None or (loaded.task and loaded.task.kind == "reconstruction"):
        return
    with evaluation_mode(loaded.model), torch.no_grad():
        shape = tuple(main_output(call_model(loaded.model, loaded.example_inputs)).shape)
    if len(shape) != 2:
        raise UserError(
            f"the output of {loaded.name!r} has shape {shape}, but labels are compared with an "
            "output (samples, classes); use prune() and tune_pruned() with a loss of your own"
        )
    largest = max(int(batch.labels.max()) for batch in data.batches if batch.labels is not None)
    if largest >= shape[1]:
        raise UserError(
            f"data {data.name!r} has labels up to {largest}, but {loaded.name!r} has "
            f"{shape[1]} outputs; labels must be less than the number of outputs, use other data"
        )


def fitted(image: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """An image brought to a network's input shape.

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


def _chosen(count: int, samples: int, seed: int) -> Tensor:
    """Indices of at most ``samples`` of ``count`` samples, in random order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:samples]


def _in_batches(inputs: Tensor, target: Tensor, labels: Tensor) -> tuple[Batch, ...]:
    starts = range(0, len(inputs), _BATCH_SIZE)
    parts = [slice(start, start + _BATCH_SIZE) for start in starts]
    return tuple(Batch(inputs[part], target[part], labels[part]) for part in parts)


def _image_shape(loaded: LoadedModel) -> tuple[int, int, int]:
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


def _open(source: str, data_root: str | Path | None, *, download: bool) -> Images:
    if source in DATA_SETS:
        default = platformdirs.user_cache_path("gp-prune", appauthor=False) / "data"
        root = default if data_root is None else Path(data_root).expanduser()
        train = load_data(source, root, download=download).train
        return Images(source, train.labels, lambda index: train.inputs[index])
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"unknown data {source!r}: no folder has that name, and the data sets are "
            f"{', '.join(DATA_SETS)}"
        )
    return _open_folder(folder)


def _open_folder(folder: Path) -> Images:
    torchvision = import_torchvision()
    try:
        files = torchvision.datasets.ImageFolder(str(folder)).samples
    except OSError as error:
        raise UserError(
            f"data folder {str(folder)!r} has no images in folders of classes; "
            "it needs one folder per class with images in it"
        ) from error
    labels = torch.tensor([label for _, label in files])
    return Images(str(folder), labels, partial(_read_image, torchvision, files))


def _read_image(torchvision: Any, files: Sequence[tuple[str, int]], index: int) -> Tensor:
    path = files[index][0]
    try:
        image = torchvision.datasets.folder.default_loader(path)
        tensor: Tensor = torchvision.transforms.functional.to_tensor(image)
        return tensor
    except (OSError, ValueError) as error:
        raise UserError(f"image {path!r} cannot be read; remove or replace it") from error
