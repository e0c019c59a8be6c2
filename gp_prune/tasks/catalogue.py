"""Name the built-in tasks, and load one with its network trained."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gp_prune.base.files import DamagedFileError
from gp_prune.base.json_fields import canonical_digest
from gp_prune.base.names import LANGUAGE_TASKS as LANGUAGE_TASKS
from gp_prune.base.names import TASK_NAMES as TASK_NAMES
from gp_prune.errors import SEED, check_value
from gp_prune.pruning import measure
from gp_prune.statistics.running import as_device, one_thread, random_state
from gp_prune.tasks import cache
from gp_prune.tasks.cache import CacheWarning, Entry
from gp_prune.tasks.cifar_resnet import CifarResNet
from gp_prune.tasks.data import (
    IMAGE_SHAPES,
    DataSet,
    LabelledSplit,
    Split,
    load_data,
    user_folder,
)
from gp_prune.tasks.language_models import HEAD, LANGUAGE_MODELS, SEQUENCE
from gp_prune.tasks.measures import default_loss, default_measure, mean_error
from gp_prune.tasks.models import MODELS, Kind
from gp_prune.tasks.names import FROM_FILES, check_task_name, read_name, weights_file
from gp_prune.tasks.task import Task
from gp_prune.tasks.texts import TextData, load_text
from gp_prune.tasks.training import Descent, optimise
from gp_prune.training.samples import tensor_digest
from gp_prune.training.weights import load_weights

_SOURCE_VERSION = 2
"""Raise by one whenever a change to the models, the data or the training changes the weights."""


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
    "resnet-digits": Recipe(20, 1e-2, weight_decay=0.3),
    "mobilenet-digits": Recipe(30, 1e-2, batch_size=32, weight_decay=0.3),
    "mlp-digits": Recipe(40, 5e-3, batch_size=32, weight_decay=0.3),
}
_LARGE_RECIPES: dict[str, Recipe] = {
    "lenet": Recipe(5, 3e-3),
    "cnn": Recipe(3, 1e-2, batch_size=128, weight_decay=0.1),
    "autoencoder": Recipe(10, 5e-3, batch_size=128),
    "caffe_lenet": Recipe(10, 2e-3, weight_decay=0.05),
    "resnet": Recipe(3, 1e-2, batch_size=128, weight_decay=0.1),
    "mobilenet": Recipe(3, 1e-2, batch_size=128, weight_decay=0.1),
    "mlp": Recipe(12, 2e-3, weight_decay=0.1),
}
_LANGUAGE_RECIPE = Recipe(6, 3e-3, batch_size=16, warm_up=0.1, weight_decay=0.1)
_MOST_LANGUAGE_STEPS = 900
"""So that a long text takes no more time than a short one, of which more epochs are made."""


def recipe(name: str) -> Recipe:
    """Return how the dense network of the task ``name``, without a seed, is trained."""
    model = name.split("-")[0]
    if model in LANGUAGE_MODELS:
        return _LANGUAGE_RECIPE
    return _RECIPES.get(name) or _LARGE_RECIPES[model]


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
        name: ``"<model>-<data set>"``, one of :data:`TASK_NAMES`; with ``"@<seed>"`` after it,
            that seed trains the network and ``seed`` is not used. ``"resnet20-cifar10:FILE"`` and
            ``"resnet56-cifar10:FILE"`` are residual networks for CIFAR-10 with shortcuts without
            parameters; their weights are the plain tensors in a file, and nothing is trained.
            ``"llama-text:FILE"`` trains a language model on the text of a file.
        cache_dir: folder for trained networks; by default one in the user's cache folder.
        data_root: folder with torchvision's data sets; by default one in the user's cache folder.
        download: whether torchvision may fetch a missing data set.
        seed: decides the first weights and the order of the training samples.
        device: where the network and the data are put.

    Raises:
        UserError: the name is unknown, the data set is missing or damaged, the text is too short,
            or the cache folder cannot be used.

    Warns:
        CacheWarning: a cache entry was damaged; the network is trained again and replaces it.
    """
    check_value("seed", seed, SEED)
    check_task_name(name)
    if file := weights_file(name):
        return _load_from_file(name, file, cache_dir, data_root, download, as_device(device))
    base, seed, text = read_name(name, seed)
    model_name, data_name = base.split("-")
    target = as_device(device)
    if model_name in LANGUAGE_MODELS:
        return _load_language_model(name, base, seed, text, cache_dir, target)
    data = load_data(data_name, data_root, download=download)
    built = MODELS[model_name]
    with random_state(seed):
        model = built.build(data.shape, data.classes).to(target).eval()
    train, validation = (as_split(s, built.kind, target) for s in (data.train, data.validation))
    folder, identity = _cache_entry(base, seed, target, data, cache_dir)
    fit = partial(_train, recipe(base), model, built.kind, train, validation, seed)
    return Task(
        model,
        train,
        validation,
        partial(_read_split, built.kind, data.read_test, target),
        name=name,
        kind=built.kind,
        keep=built.interface,
        dense_error=_restore_or(fit, folder, identity, model),
    )


def _load_language_model(
    name: str,
    base: str,
    seed: int,
    text: str,
    cache_dir: str | Path | None,
    device: torch.device,
) -> Task:
    data = load_text(text)
    with random_state(seed):
        model = LANGUAGE_MODELS[base.split("-")[0]]().to(device).eval()
    train, validation = data.train.to(device), data.validation.to(device)
    folder, identity = _cache_entry(base, seed, device, data, cache_dir)
    fit = partial(_train, recipe(base), model, "language", train, validation, seed)
    return Task(
        model,
        train,
        validation,
        partial(_read_sequences, data, device),
        name=name,
        kind="language",
        whole=(HEAD,),
        dense_error=_restore_or(fit, folder, identity, model),
    )


def _read_sequences(data: TextData, device: torch.device) -> Split:
    return data.read_test().to(device)


class TaskFacts(NamedTuple):
    """What a built-in task costs.

    Attributes:
        name: its name.
        kind: kind of the task.
        input_shape: channels, height and width of an image, or the bytes of a sequence.
        params: parameters of the network.
        macs: multiply-accumulate operations for one input.
        training: ``"seconds"`` or ``"minutes"``, about, on one core.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    params: int
    macs: int
    training: str


def task_facts() -> list[TaskFacts]:
    """Return what the built-in tasks cost; no data is read and nothing is trained."""
    facts = []
    for name in TASK_NAMES:
        model_name, data_name = name.split("-")
        training = "seconds" if name in _RECIPES else "minutes"
        shape: tuple[int, ...]
        if model_name in LANGUAGE_MODELS:
            kind, shape = "language", (SEQUENCE,)
            with random_state(0):
                model: nn.Module = LANGUAGE_MODELS[model_name]()
            cost = measure(model, torch.zeros(1, *shape, dtype=torch.int64))
        else:
            kind, shape = MODELS[model_name].kind, IMAGE_SHAPES[data_name]
            with random_state(0):
                model = MODELS[model_name].build(shape, 10)
            cost = measure(model, torch.zeros(1, *shape))
        facts.append(TaskFacts(name, kind, shape, cost.params, int(cost.macs), training))
    return facts


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
    if weights_file(name):
        return True
    base, seed, text = read_name(name, seed)
    model_name, data_name = base.split("-")
    data: DataSet | TextData
    if model_name in LANGUAGE_MODELS:
        data = load_text(text)
    else:
        data = load_data(data_name, data_root, download=download)
    folder, identity = _cache_entry(base, seed, as_device(device), data, cache_dir)
    try:
        return cache.read(folder, identity) is not None
    except DamagedFileError:
        return False


def _load_from_file(
    name: str,
    file: str,
    cache_dir: str | Path | None,
    data_root: str | Path | None,
    download: bool,
    device: torch.device,
) -> Task:
    """Return a task with weights from a file; its error is measured now or taken from the cache."""
    base = name.partition(":")[0]
    data = load_data(base.split("-")[1], data_root, download=download)
    model = CifarResNet(FROM_FILES[base], normalise=True)
    load_weights(model, Path(file).expanduser())
    model.to(device).eval()
    kind: Kind = "classification"
    train, validation = (as_split(part, kind, device) for part in (data.train, data.validation))
    identity = {
        "task": base,
        "source_version": _SOURCE_VERSION,
        "weights": tensor_digest(model.state_dict().values()),
        "data": data.fingerprint(),
        "torch": torch.__version__,
        "device": device.type,
    }
    folder = user_folder(cache_dir, "tasks") / f"{base}-{canonical_digest(identity)[:16]}"
    measure = partial(mean_error, model, validation, default_measure(kind), kind)
    return Task(
        model,
        train,
        validation,
        partial(_read_split, kind, data.read_test, device),
        name=name,
        kind=kind,
        dense_error=_restore_or(measure, folder, identity, model),
    )


def _cache_entry(
    name: str,
    seed: int,
    device: torch.device,
    data: DataSet | TextData,
    cache_dir: str | Path | None,
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


def _train(
    how: Recipe, model: nn.Module, kind: Kind, train: Split, validation: Split, seed: int
) -> float:
    """Train the dense network of a task in place; return its validation error."""
    most = _MOST_LANGUAGE_STEPS if kind == "language" else sys.maxsize
    with one_thread():
        descent = Descent(
            steps=min(most, how.epochs * max(1, len(train) // how.batch_size)),
            learning_rate=how.learning_rate,
            batch_size=how.batch_size,
            seed=seed,
            warm_up=how.warm_up,
            weight_decay=how.weight_decay,
        )
        optimise(model, train.inputs, train.target, default_loss(kind), descent)
        return mean_error(model, validation, default_measure(kind), kind)


def as_split(part: LabelledSplit, kind: Kind, device: torch.device) -> Split:
    """Return labelled images as a split on a device, with the target that a kind of task has."""
    target = part.labels if kind == "classification" else part.inputs
    return Split(part.inputs, target, part.labels).to(device)


def _read_split(kind: Kind, read: Callable[[], LabelledSplit], device: torch.device) -> Split:
    return as_split(read(), kind, device)
