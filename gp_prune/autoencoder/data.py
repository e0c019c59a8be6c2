"""Load the data of a run: the paper's clusters, the image sets of the tasks, or a user's file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gp_prune.base.files import check_regular
from gp_prune.errors import UserError
from gp_prune.runs.jobs import TaskSource
from gp_prune.statistics.running import as_device, derive_seed
from gp_prune.tasks.data import DATA_SETS, load_data
from gp_prune.training import Samples
from gp_prune.training.samples import tensor_digest

SPLITS = ("train", "validation", "test")

_SPLIT_SEED = 20250714
_HELD_OUT = 0.2  # of a user's own file, for each of validation and test
_FEWEST = 10


@dataclass(frozen=True, eq=False)
class FlatSamples(Samples):
    """Vectors, one for each sample.

    Attributes:
        inputs: (n, features) float32 in [0, 1].
        target: nothing, because a network reconstructs its inputs.
        labels: (n,) int64 class or cluster numbers, if there are any.
    """

    inputs: Tensor


_ReadSplit = Callable[[str], FlatSamples]


@dataclass(frozen=True)
class ClusterRecipe:
    """How the samples of clusters are drawn.

    Attributes:
        clusters: number of clusters.
        samples: samples of every split.
        dimensions: bits of a sample.
        ones: probability of a 1 in a centroid. The paper takes the bits of a binomial of 2 draws
            that are not zero, which makes 3/4.
        noise: probability that a bit of a sample is flipped.
    """

    clusters: int = 10
    samples: int = 1000
    dimensions: int = 1000
    ones: float = 0.75
    noise: float = 0.05

    def draw(self, split: str, seed: int) -> FlatSamples:
        """Draw the samples of one split, each with its own noise, in random order.

        All splits have the same centroids. In the paper's code the samples of the test split that
        belong to different copies of a centroid share their noise; here no two samples do.

        Args:
            split: one of :data:`SPLITS`.
            seed: decides centroids, noise and order.

        Returns:
            (n, dimensions) float32 samples of 0 and 1, labelled by the (n,) int64 numbers of their
            clusters; the clusters differ in size by one sample at most.
        """
        common = torch.Generator().manual_seed(derive_seed("clusters", seed))
        shape = self.clusters, self.dimensions
        centroids = torch.rand(shape, generator=common) < self.ones
        generator = torch.Generator().manual_seed(derive_seed("clusters", seed, split))
        labels = torch.arange(self.samples) % self.clusters
        labels = labels[torch.randperm(self.samples, generator=generator)]
        flipped = torch.rand(self.samples, self.dimensions, generator=generator) < self.noise
        return FlatSamples((centroids[labels] ^ flipped).float(), labels=labels)


RECIPES: dict[str, ClusterRecipe] = {
    "binary-clusters": ClusterRecipe(),
    "binary-clusters-50": ClusterRecipe(clusters=50, samples=5000, dimensions=4000),
}
"""The paper's data sets: 10 clusters of 100 samples with 1000 bits; 50 clusters with 4000 bits."""

DATA_NAMES: tuple[str, ...] = (*RECIPES, *DATA_SETS)
"""Every name of a data set; a path that ends with ``.npz`` is a user's own."""


@dataclass(frozen=True, eq=False)
class FlatData:
    """A data set of vectors; the test split is only read when it is asked for.

    Attributes:
        name: its name, or the path of its file.
        shape: of one sample: ``(features,)``, or channels, height and width of an image.
        train: what networks learn from, and where operators measure.
        validation: what decides which cell is the best.
        read_test: reads the test split; call :meth:`test`.
    """

    name: str
    shape: tuple[int, ...]
    train: FlatSamples
    validation: FlatSamples
    read_test: Callable[[], FlatSamples]

    def test(self) -> FlatSamples:
        """Return the test split, for the final report alone."""
        return self.read_test()

    def fingerprint(self) -> str:
        """Return the SHA-256 over train and validation samples."""
        parts = (self.train, self.validation)
        tensors = (tensor for part in parts for tensor in (part.inputs, part.labels))
        return tensor_digest(tensor for tensor in tensors if tensor is not None)


def load(name: str, seed: int, source: TaskSource, limit: int = 0) -> FlatData:
    """Load a data set by its name, onto the device of the source.

    Args:
        name: one of :data:`DATA_NAMES`, or the path of an ``.npz`` file of numpy with ``inputs``
            (n, ...) in [0, 1] and perhaps ``labels`` (n,). A fifth of its samples, drawn by a fixed
            seed, is for validation and as much for the test.
        seed: of the clusters; other data does not depend on it.
        source: where torchvision's files are, and the device.
        limit: number of training samples and of validation samples at most; 0 for all. What is
            left out is the end of a random order.

    Raises:
        UserError: the name is unknown, or the files are missing or damaged.
    """
    if name in RECIPES:
        shape: tuple[int, ...] = (RECIPES[name].dimensions,)
        read: _ReadSplit = partial(RECIPES[name].draw, seed=seed)
    elif name in DATA_SETS:
        shape, read = _read_images(name, source)
    elif name.endswith(".npz"):
        shape, read = _read_file(name)
    else:
        raise UserError(
            f"unknown data {name!r}; choose one of {', '.join(DATA_NAMES)}, or a file with the "
            "ending .npz"
        )
    device = as_device(source.device)
    train, validation = (
        read(split).select(slice(limit or None)).to(device) for split in ("train", "validation")
    )
    return FlatData(name, shape, train, validation, lambda: read("test").to(device))


def _read_images(name: str, source: TaskSource) -> tuple[tuple[int, ...], _ReadSplit]:
    images = load_data(name, source.data_root, download=source.download)

    def read(split: str) -> FlatSamples:
        samples = images.read_test() if split == "test" else getattr(images, split)
        return FlatSamples(samples.inputs.flatten(1), labels=samples.labels)

    return images.shape, read


def _read_file(path: str) -> tuple[tuple[int, ...], _ReadSplit]:
    inputs, labels = _check_arrays(path, _read_arrays(path))
    whole = FlatSamples(inputs.flatten(1), labels=labels)
    order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(len(inputs)))
    held = max(1, int(_HELD_OUT * len(inputs)))
    parts = {
        "test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :],
    }  # fmt: skip
    return tuple(inputs.shape[1:]), lambda split: whole.select(parts[split])


_SMALL = 64 * 2**20
_MOST_PACKED = 200
"""How much smaller than its content an array of more than 64 MB may be; zeros are 1,000 times."""


def _read_arrays(path: str) -> dict[str, Any]:
    """Read the arrays ``inputs`` and ``labels`` of a file, as far as it has them."""
    try:
        check_regular(path)
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
            for entry in content.zip.infolist() if content.zip else ():
                if entry.file_size > _SMALL + _MOST_PACKED * entry.compress_size:
                    raise OSError(
                        0, f"{entry.filename!r} in it unpacks to {entry.file_size:,} bytes"
                    )
            return {name: content[name] for name in ("inputs", "labels") if name in content}
    except MemoryError:
        raise UserError(f"data file {path!r} cannot be read: it does not fit the memory") from None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file of plain arrays"
        raise UserError(f"data file {path!r} cannot be read: {reason}") from None


def _check_arrays(path: str, arrays: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    if "inputs" not in arrays:
        raise UserError(
            f"data file {path!r} has no array 'inputs'; save it with "
            "numpy.savez(path, inputs=..., labels=...)"
        )
    values = arrays["inputs"]
    if values.dtype.kind not in "biuf":
        raise UserError(f"'inputs' in {path!r} has the type {values.dtype}; save real numbers")
    if values.ndim < 2 or len(values) < _FEWEST or not values.size:
        raise UserError(
            f"'inputs' in {path!r} has the shape {values.shape}; it must be (n, ...) with at "
            f"least {_FEWEST} samples and one feature"
        )
    inputs = torch.from_numpy(values.astype(np.float32))
    if not bool(inputs.isfinite().all()):
        raise UserError(f"'inputs' in {path!r} holds NaN or infinity; fill or leave out those")
    if not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise UserError(f"'inputs' in {path!r} must lie in [0, 1]; scale the values")
    if "labels" not in arrays:
        return inputs, None
    labels = arrays["labels"]
    whole = labels.shape == (len(inputs),) and labels.dtype.kind in "iu"
    if not whole or labels.min() < 0:
        raise UserError(
            f"'labels' in {path!r} must be one whole number, at least 0, for every sample"
        )
    return inputs, torch.from_numpy(labels.astype(np.int64))
