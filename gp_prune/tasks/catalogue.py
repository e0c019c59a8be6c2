"""Name the built-in tasks, and load one with its network trained."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gp_prune._io import DamagedFileError, canonical_digest
from gp_prune.errors import SEED, UserError, check_value
from gp_prune.statistics.running import as_device, one_thread, random_state
from gp_prune.tasks import cache
from gp_prune.tasks.cache import CacheWarning, Entry
from gp_prune.tasks.data import DATA_SETS, DataSet, Split, load_data, user_folder
from gp_prune.tasks.models import MODELS, Kind
from gp_prune.tasks.task import Task, as_split
from gp_prune.tasks.training import Descent, optimise

_SOURCE_VERSION = 2
"""Raise by one whenever a change to the models, the data or the training changes the weights."""

TASK_NAMES: tuple[str, ...] = tuple(starmap("{1}-{0}".format, product(DATA_SETS, MODELS)))
"""Every name that :func:`load_task` knows; those that need no files come first."""


@dataclass(frozen=True)
class Recipe:
    """How a dense network is trained: AdamW, one rise and fall of the learning rate.

    Attributes:
        epochs: passes over the training split.
        learning_rate: highest learning rate.
        batch_size: samples per mini-batch.
        warm_up: share of the steps during which the learning rate rises.
        weight_decay: decoupled weight decay.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 64
    warm_up: float = 0.2
    weight_decay: float = 0.0


_RECIPES: dict[str, Recipe] = {
    "lenet-digits": Recipe(60, 8e-3, batch_size=32, weight_decay=0.3),
    "cnn-digits": Recipe(20, 1e-2, batch_size=64, weight_decay=0.3),
    "autoencoder-digits": Recipe(200, 1e-2, batch_size=32),
    "caffe_lenet-digits": Recipe(40, 3e-3, batch_size=32, weight_decay=0.3),
}
_LARGE_RECIPES: dict[str, Recipe] = {
    "lenet": Recipe(5, 3e-3),
    "cnn": Recipe(3, 1e-2, batch_size=128, weight_decay=0.1),
    "autoencoder": Recipe(10, 5e-3, batch_size=128),
    "caffe_lenet": Recipe(10, 2e-3, weight_decay=0.05),
}


def recipe(name: str) -> Recipe:
    """Return how the dense network of the task ``name`` is trained."""
    return _RECIPES.get(name) or _LARGE_RECIPES[name.split("-")[0]]


def load_task(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Task:
    """Return the task of that name, its network trained now or taken from the cache.

    The same arguments give the same weights, bit for bit on a CPU: training takes one thread.

    Args:
        name: ``"<model>-<data set>"``, one of :data:`TASK_NAMES`.
        cache_dir: folder for trained networks; by default one in the user's cache folder.
        data_root: folder with torchvision's data sets; by default one in the user's cache folder.
        download: whether torchvision may fetch a missing data set.
        seed: decides the first weights and the order of the training samples.
        device: where the network and the data are put.

    Raises:
        UserError: the name is unknown, the data set is missing or damaged, or the cache folder
            cannot be used.

    Warns:
        CacheWarning: a cache entry was damaged; the network is trained again and replaces it.
    """
    check_task_name(name)
    check_value("seed", seed, SEED)
    model_name, data_name = name.split("-")
    target = as_device(device)
    data = load_data(data_name, data_root, download=download)
    kind = MODELS[model_name].kind
    with random_state(seed):
        model = MODELS[model_name].build(data.shape, data.classes).to(target).eval()
    task = Task(
        name=name,
        kind=kind,
        model=model,
        train=as_split(data.train, kind, target),
        validation=as_split(data.validation, kind, target),
        interface=MODELS[model_name].interface,
        dense_error=math.nan,
        trivial_error=math.nan,
        read_test=partial(_read_split, kind, data.read_test, target),
    )
    folder, identity = _cache_entry(name, seed, target, data, cache_dir)
    return replace(
        task,
        dense_error=_restore_or(partial(_train, task, seed), folder, identity, model),
        trivial_error=task.trivial_error_on(task.validation),
    )


def is_trained(
    name: str,
    *,
    cache_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> bool:
    """Return whether :func:`load_task` with the same arguments would find the network in the cache.

    Raises:
        UserError: as :func:`load_task`.
    """
    check_task_name(name)
    data = load_data(name.split("-")[1], data_root, download=download)
    folder, identity = _cache_entry(name, seed, as_device(device), data, cache_dir)
    try:
        return cache.read(folder, identity) is not None
    except DamagedFileError:
        return False


def check_task_name(name: str) -> None:
    """Raise UserError unless there is a task of that name."""
    if name in TASK_NAMES:
        return
    close = difflib.get_close_matches(name, TASK_NAMES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UserError(f"unknown task {name!r}{hint}; choose one of {', '.join(TASK_NAMES)}")


def _cache_entry(
    name: str, seed: int, device: torch.device, data: DataSet, cache_dir: str | Path | None
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a trained network, and all that decides its weights as JSON."""
    identity = {
        "task": name,
        "source_version": _SOURCE_VERSION,
        "seed": seed,
        "recipe": asdict(recipe(name)),
        "data": data.fingerprint(),
        "torch": torch.__version__,
        "device": device.type,
    }
    folder = user_folder(cache_dir, "tasks") / f"{name}-{canonical_digest(identity)[:16]}"
    return folder, identity


def _restore_or(
    train: Callable[[], float], folder: Path, identity: dict[str, Any], model: nn.Module
) -> float:
    """Put the weights from the cache into ``model``, or train it and store them.

    Returns:
        The validation error of the trained network.
    """
    try:
        entry = cache.read(folder, identity)
    except DamagedFileError as damage:
        warnings.warn(f"{damage}; the network is trained again", CacheWarning, stacklevel=3)
        entry = None
    if entry is not None:
        model.load_state_dict(entry.weights)
        return entry.dense_error
    dense_error = train()
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    cache.write(folder, identity, Entry(weights, dense_error))
    return dense_error


def _train(task: Task, seed: int) -> float:
    """Train the dense network of a task in place; return its validation error."""
    how = recipe(task.name)
    with one_thread():
        descent = Descent(
            steps=how.epochs * max(1, len(task.train) // how.batch_size),
            learning_rate=how.learning_rate,
            batch_size=how.batch_size,
            seed=seed,
            warm_up=how.warm_up,
            weight_decay=how.weight_decay,
        )
        optimise(task.model, task.train.inputs, task.train.target, task.loss, descent)
    return task.error(task.model, task.validation)


def _read_split(kind: Kind, read: Callable[[], Split], device: torch.device) -> Split:
    return as_split(read(), kind, device)
