"""The data of a run: the paper's clusters, the image sets of the tasks, or a file of one's own."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
import torch
from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.runs.jobs import TaskSource
from gp_prune.statistics.running import derive_seed
from gp_prune.tasks.data import DATA_SETS, Split, load_data

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ClusterRecipe:
    """How the samples are made.

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


RECIPES: dict[str, ClusterRecipe] = {
    "binary-clusters": ClusterRecipe(),
    "binary-clusters-50": ClusterRecipe(clusters=50, samples=5000, dimensions=4000),
}
"""The paper's data sets: 10 clusters of 100 samples with 1000 bits; 50 clusters with 4000 bits."""


def draw_split(recipe: ClusterRecipe, split: str, seed: int) -> tuple[Tensor, Tensor]:
    """The samples of one split, each with its own noise, in random order.

    All splits have the same centroids. In the paper's code the samples of the test split that
    belong to different copies of a centroid share their noise; here no two samples do.

    Args:
        recipe: how they are made.
        split: one of :data:`SPLITS`.
        seed: decides centroids, noise and order.

    Returns:
        (n, dimensions) float32 samples of 0 and 1, and (n,) int64 numbers of their clusters; the
        clusters differ in size by one sample at most.
    """
    first = torch.Generator().manual_seed(derive_seed("clusters", seed))
    shape = recipe.clusters, recipe.dimensions
    centroids = torch.rand(shape, generator=first) < recipe.ones
    own = torch.Generator().manual_seed(derive_seed("clusters", seed, split))
    labels = torch.arange(recipe.samples) % recipe.clusters
    labels = labels[torch.randperm(recipe.samples, generator=own)]
    flipped = torch.rand(recipe.samples, recipe.dimensions, generator=own) < recipe.noise
    return (centroids[labels] ^ flipped).float(), labels


DATA_NAMES: tuple[str, ...] = (*RECIPES, *DATA_SETS)
"""Every name of a data set; a path that ends with ``.npz`` is a user's own."""

_SPLIT_SEED = 20250714
_HELD_OUT = 0.2  # of a user's own file, for each of validation and test
_FEWEST = 10


class Samples(NamedTuple):
    """Samples of one split.

    Attributes:
        inputs: (n, features) float32 in [0, 1].
        labels: (n,) int64 class or cluster numbers; None where there are none.
    """

    inputs: Tensor
    labels: Tensor | None


@dataclass(frozen=True, eq=False)
class Data:
    """One data set; the test split is only read when it is asked for.

    Attributes:
        name: its name, or the path of its file.
        shape: of one sample: ``(features,)``, or channels, height and width of an image.
        train: what networks learn from, and where operators measure.
        validation: what decides which cell is the best.
        read_test: reads the test split; call :meth:`test`.
    """

    name: str
    shape: tuple[int, ...]
    train: Samples
    validation: Samples
    read_test: Callable[[], Samples]

    @property
    def binary(self) -> bool:
        """Whether it is one of the paper's."""
        return self.name in RECIPES

    def test(self) -> Samples:
        """The test split, for the final report alone."""
        return self.read_test()

    def fingerprint(self) -> str:
        """SHA-256 over train and validation samples."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.validation):
            if tensor is not None:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def load(name: str, seed: int, source: TaskSource, limit: int = 0) -> Data:
    """A data set by its name, on the device of the source.

    Args:
        name: one of :data:`DATA_NAMES`, or the path of a file: see :func:`_own`.
        seed: of the clusters; other data does not depend on it.
        source: where torchvision's files are, and the device.
        limit: number of training samples and of validation samples at most; 0 for all. What is
            left out is the end of a random order.

    Raises:
        UserError: the name is unknown, or the files are missing or damaged.
    """
    if name in RECIPES:
        found = _clusters(name, RECIPES[name], seed)
    elif name in DATA_SETS:
        found = _images(name, source)
    elif name.endswith(".npz"):
        found = _own(name)
    else:
        raise UserError(
            f"unknown data {name!r}; choose one of {', '.join(DATA_NAMES)}, or a file with the "
            "ending .npz"
        )
    device = torch.device(source.device)
    return Data(
        found.name,
        found.shape,
        _placed(found.train, device, limit),
        _placed(found.validation, device, limit),
        lambda: _placed(found.read_test(), device, 0),
    )


def _placed(samples: Samples, device: torch.device, limit: int) -> Samples:
    chosen = slice(limit or None)
    labels = None if samples.labels is None else samples.labels[chosen].to(device)
    return Samples(samples.inputs[chosen].to(device).contiguous(), labels)


def _clusters(name: str, recipe: ClusterRecipe, seed: int) -> Data:
    def read(split: str) -> Samples:
        return Samples(*draw_split(recipe, split, seed))

    return Data(
        name, (recipe.dimensions,), read("train"), read("validation"), partial(read, "test")
    )


def _images(name: str, source: TaskSource) -> Data:
    root = (
        platformdirs.user_cache_path("gp-prune", appauthor=False) / "data"
        if source.data_root is None
        else Path(source.data_root).expanduser()
    )
    found = load_data(name, root, download=source.download)

    def flat(split: Split) -> Samples:
        return Samples(split.inputs.flatten(1), split.labels)

    return Data(
        name, found.shape, flat(found.train), flat(found.validation),
        lambda: flat(found.read_test()),
    )  # fmt: skip


def _own(path: str) -> Data:
    """A numpy ``.npz`` file with ``inputs`` (n, ...) in [0, 1] and perhaps ``labels`` (n,).

    A fifth of the samples, drawn by a fixed seed, is for validation and as much for the test.
    """
    inputs, labels = _read_own(path)
    order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(len(inputs)))
    held = max(1, int(_HELD_OUT * len(inputs)))

    def part(chosen: Tensor) -> Samples:
        own = None if labels is None else labels[chosen]
        return Samples(inputs[chosen].flatten(1), own)

    test, validation, train = order[:held], order[held : 2 * held], order[2 * held :]
    return Data(path, tuple(inputs.shape[1:]), part(train), part(validation), partial(part, test))


def _read_own(path: str) -> tuple[Tensor, Tensor | None]:
    arrays = _arrays(path)
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


def _arrays(path: str) -> dict[str, Any]:
    """The arrays ``inputs`` and ``labels`` of a file, as far as it has them."""
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
            return {name: content[name] for name in ("inputs", "labels") if name in content}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file of plain arrays"
        raise UserError(f"data file {path!r} cannot be read: {reason}") from None
