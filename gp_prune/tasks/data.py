"""Load the data sets of the built-in tasks, split into train, validation and test samples.

Inputs are float32 images in [0, 1] with the shape (n, channels, height, width). The split does not
depend on the seed of a task, so that errors of different seeds compare.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor

from gp_prune._compat import import_torchvision
from gp_prune.base.names import DATA_SETS as DATA_SETS
from gp_prune.errors import UserError
from gp_prune.tasks.models import Shape
from gp_prune.training.samples import Samples, tensor_digest

_SPLIT_SEED = 20220709
_VALIDATION_SAMPLES = 10_000
_VISION_SETS = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashionmnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}
"""For each name: torchvision's class, and the folder in the data root where its files stand."""

_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_TRAIN = tuple(map("data_batch_{}.bin".format, range(1, 6)))
_CIFAR_TEST = ("test_batch.bin",)
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32  # a byte with the label, then the red, green and blue planes

IMAGE_SHAPES: dict[str, Shape] = {
    "digits": (1, 8, 8), "mnist": (1, 28, 28), "fashionmnist": (1, 28, 28), "cifar10": (3, 32, 32),
}  # fmt: skip
"""Channels, height and width of the images of each."""


@dataclass(frozen=True, eq=False)
class Split(Samples):
    """Samples of one part of the data of a task, in memory.

    Attributes:
        inputs: (n, ...) what the network takes; of the known data sets (n, channels, height, width)
            float32 in [0, 1].
        target: (n, ...) what the loss compares with: the labels of a classification, the inputs
            themselves of a reconstruction, the numbers to predict of a regression.
        labels: (n,) int64 class numbers; None where there are none.
    """

    inputs: Tensor
    target: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LabelledSplit(Split):
    """Labelled images of one part of a known data set."""

    labels: Tensor


@dataclass(frozen=True)
class DataSet:
    """One data set; the test samples are read only when they are asked for.

    Attributes:
        name: its name in a task name.
        train: what networks are trained on.
        validation: what candidates are judged on.
        read_test: reads the test samples.
        classes: number of classes.
    """

    name: str
    train: LabelledSplit
    validation: LabelledSplit
    read_test: Callable[[], LabelledSplit]
    classes: int = 10

    @property
    def shape(self) -> Shape:
        """Return channels, height and width of one image."""
        _, channels, height, width = self.train.inputs.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """Return the SHA-256 of the train and validation samples."""
        parts = (self.train, self.validation)
        return tensor_digest(tensor for part in parts for tensor in (part.inputs, part.labels))


def user_folder(given: str | Path | None, default: str) -> Path:
    """Return a folder that a person names, or one in the user's cache folder."""
    if given is not None:
        return Path(given).expanduser()
    return platformdirs.user_cache_path("gp-prune", appauthor=False) / default


def load_data(name: str, root: str | Path | None = None, *, download: bool = False) -> DataSet:
    """Load the data set of that name.

    CIFAR-10 is read from its official binary version (``cifar-10-batches-bin``) where that folder
    is there, so that nothing is unpickled; otherwise torchvision reads the pickled version.

    Args:
        name: one of :data:`DATA_SETS`.
        root: folder that holds torchvision's data sets, by default one in the user's cache folder;
            not touched for ``digits``.
        download: whether torchvision may fetch a missing data set into ``root``.

    Raises:
        UserError: the name is unknown, or the files are missing or damaged.
    """
    if name == "digits":
        train, validation = _read_digits("train"), _read_digits("validation")
        return DataSet("digits", train, validation, partial(_read_digits, "test"))
    if name in _VISION_SETS:
        return _load_vision(name, user_folder(root, "data"), download=download)
    raise UserError(f"unknown data set {name!r}; choose one of {', '.join(DATA_SETS)}")


def stratified_split(labels: Tensor, sizes: tuple[int, ...], seed: int) -> list[np.ndarray]:
    """Cut samples into parts of given sizes in which every class has its share.

    Each class is shuffled and spread evenly over one line on which all the samples stand; the parts
    are cut from that line, so a class misses its share of a part by less than one sample per cut.

    Args:
        labels: (n,) class numbers.
        sizes: number of samples in each part, in all at most n.
        seed: seed of the shuffles.

    Returns:
        One array of indices per part, in random order; the parts are disjoint.

    Raises:
        ValueError: the sizes add up to more than there are samples.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"parts of {sizes} samples do not fit into {len(labels)} samples")
    # RandomState, unlike torch and numpy's newer generators, promises the same stream for ever.
    random = np.random.RandomState(seed)
    classes = labels.numpy()
    position = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        position[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    line = np.lexsort((classes, position))
    ends = np.cumsum(sizes)
    return [
        random.permutation(line[end - size : end]) for size, end in zip(sizes, ends, strict=True)
    ]


def _read_digits(part: str) -> LabelledSplit:
    """Read a part of scikit-learn's 1797 digits: train 1077, validation 360, test 360."""
    inputs, labels = _all_digits()
    return LabelledSplit(inputs, labels, labels).select(_digit_parts()[part])


@cache
def _digit_parts() -> dict[str, Tensor]:
    """Return the numbers of the samples of each part."""
    labels = _all_digits()[1]
    sizes = {"test": 360, "validation": 360, "train": len(labels) - 720}
    parts = stratified_split(labels, tuple(sizes.values()), _SPLIT_SEED)
    return dict(zip(sizes, map(torch.from_numpy, parts), strict=True))


@cache
def _all_digits() -> tuple[Tensor, Tensor]:
    """Return images and classes; every task on digits takes its samples from the same ones."""
    table = torch.from_numpy(_digits_table())
    return table[:, :-1].float().div(16).reshape(-1, 1, 8, 8), table[:, -1].long()


def _digits_table() -> np.ndarray:
    """scikit-learn's digits: (samples, 64 pixels and the class).

    scikit-learn takes a second to import, so its file is read directly where it exists.
    """
    package = importlib.util.find_spec("sklearn")
    if package is not None and package.origin is not None:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    return np.column_stack(load_digits(return_X_y=True))


def _load_vision(name: str, data_root: Path, *, download: bool) -> DataSet:
    samples = _read_vision(name, data_root, train=True, download=download)
    count = len(samples.labels)
    held_out = min(_VALIDATION_SAMPLES, count // 5)
    parts = stratified_split(samples.labels, (held_out, count - held_out), _SPLIT_SEED)
    validation, train = (samples.select(torch.from_numpy(part)) for part in parts)
    read_test = partial(_read_vision, name, data_root, train=False, download=download)
    return DataSet(name, train, validation, read_test)


def _read_vision(name: str, data_root: Path, *, train: bool, download: bool) -> LabelledSplit:
    """Read the official training or test set of a torchvision data set."""
    if name == "cifar10" and (data_root / _CIFAR_FOLDER).is_dir():
        return _read_cifar_binary(data_root / _CIFAR_FOLDER, train=train)
    class_name, subfolder = _VISION_SETS[name]
    reader = getattr(import_torchvision().datasets, class_name)
    try:
        read = reader(data_root, train=train, download=download)
    # A missing set is a RuntimeError; damaged files show as any of the others.
    except (RuntimeError, OSError, ValueError, TypeError, AssertionError, LookupError) as error:
        # Only the first sentence: the rest is advice about arguments of torchvision.
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        if name == "cifar10":
            reason += f"; there is no {_CIFAR_FOLDER} beside it either"
        raise _unreadable(name, data_root / subfolder, reason) from error
    inputs = torch.as_tensor(read.data).float().div_(255)
    inputs = inputs.unsqueeze(1) if inputs.dim() == 3 else inputs.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(read.targets).long()
    if len(labels) == 0 or len(inputs) != len(labels) or not bool(labels.lt(10).all()):
        reason = f"{len(inputs)} images, {len(labels)} labels, each label must be 0 to 9"
        raise _unreadable(name, data_root / subfolder, reason)
    return LabelledSplit(inputs, labels, labels)


def _read_cifar_binary(folder: Path, *, train: bool) -> LabelledSplit:
    """Read the official training or test set of CIFAR-10 from its binary version."""
    _check_cifar_sizes(folder)
    names = _CIFAR_TRAIN if train else _CIFAR_TEST
    try:
        files = [np.fromfile(folder / name, dtype=np.uint8) for name in names]
    except OSError as error:
        raise _unreadable("cifar10", folder, error.strerror or str(error)) from error
    for name, content in zip(names, files, strict=True):
        largest = content[::_CIFAR_RECORD].max()
        if largest > 9:
            reason = f"{name} has the label {largest}, each label must be 0 to 9"
            raise _unreadable("cifar10", folder, reason)
    records = torch.from_numpy(np.concatenate(files)).reshape(-1, _CIFAR_RECORD)
    inputs = records[:, 1:].float().div_(255).reshape(-1, *_CIFAR_SHAPE)
    labels = records[:, 0].long()
    return LabelledSplit(inputs, labels, labels)


def _check_cifar_sizes(folder: Path) -> None:
    """Check that all six files are there, with the same number of whole records.

    The published files have 10,000 records each. Any other number will do, so that a part of the
    set can be used, but it must be the same in all files: then a file that was cut short at the
    end of a record is noticed, too.
    """
    sizes: dict[str, int] = {}
    for name in (*_CIFAR_TRAIN, *_CIFAR_TEST):
        path = folder / name
        if not path.is_file():
            raise _unreadable("cifar10", folder, f"{name} is missing")
        sizes[name] = path.stat().st_size
        if sizes[name] == 0 or sizes[name] % _CIFAR_RECORD:
            reason = (
                f"{name} has {sizes[name]} bytes, no whole number of {_CIFAR_RECORD}-byte records"
            )
            raise _unreadable("cifar10", folder, reason)
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[least] != sizes[most]:
        counts = (sizes[least] // _CIFAR_RECORD, sizes[most] // _CIFAR_RECORD)
        reason = f"{least} has {counts[0]} records, {most} has {counts[1]}, all must have as many"
        raise _unreadable("cifar10", folder, reason)


def _unreadable(name: str, folder: Path, reason: str) -> UserError:
    return UserError(
        f"data set {name!r} cannot be read from {folder} ({reason}); name the folder above a "
        "complete copy with --data-root, or remove what is left there and use --download"
    )
