"""Load the task that a name stands for: a built-in one, or a user's network with its data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from gp_prune.apply.hf_data import text_task
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.base.files import resolve_path
from gp_prune.base.names import HF, TIMM, TORCHVISION
from gp_prune.errors import UserError
from gp_prune.statistics.running import as_device, device_of
from gp_prune.statistics.time_limit import MODEL_TIMEOUT
from gp_prune.tasks import Task, check_task_name, is_task_name
from gp_prune.tasks.data import DATA_SETS
from gp_prune.tasks.images import image_shape, open_images
from gp_prune.tasks.models import PREDICTED, Kind
from gp_prune.tasks.splits import Reading, read_data_set


@dataclass(frozen=True)
class TaskOptions:
    """What the networks get that bring no data.

    Attributes:
        data: a data set or a folder of images, or the text of a language model from a folder of
            transformers; empty where each brings its own.
        kind: kind of the task; empty for a classification.
        weights: a state dict, or DEFAULT; empty for the weights that a network comes with.
        input_shape: sizes of one input; empty for what the network says.
        most: most samples of each part; 0 for all.
    """

    data: str = ""
    kind: str = ""
    weights: str = ""
    input_shape: tuple[int, ...] = ()
    most: int = 0


NO_OPTIONS = TaskOptions()

UNUSED = "The function returns a task with its own data, so --data, --kind and --most are not used."
"""The remark of a task that is given options that it does not need."""


def check_task(name: str) -> None:
    """Raise UserError unless a name can be that of a task; nothing is loaded or run."""
    file, _, function = name.rpartition(":")
    if name.startswith((TORCHVISION, TIMM)) or (file.endswith(".py") and function):
        return
    if name.startswith(HF):
        if name == HF:
            raise UserError(f"task {name!r} names no folder; write {HF}FOLDER")
        return
    if name.endswith(".py"):
        raise UserError(f"task {name!r} names no function; write {name}:FUNCTION")
    check_task_name(name)


def full_name(name: str) -> str:
    """Return the one name of a task: files by their absolute paths, no ``@0``, the default seed."""
    if name.startswith(HF) and name != HF:
        return f"{HF}{resolve_path(name.removeprefix(HF))}"
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return f"{resolve_path(file)}:{function}"
    if not is_task_name(name):
        return name
    network, colon, weights = name.partition(":")
    return f"{network}:{resolve_path(weights)}" if colon and weights else name.removesuffix("@0")


def may_need_data(name: str) -> bool:
    """Return whether a name can be that of a network that brings no data.

    A function of a user's file may return a network, or a task with its data.
    """
    foreign = name.startswith((TORCHVISION, TIMM, HF)) or name.rpartition(":")[0].endswith(".py")
    return foreign and not is_task_name(name)


def check_granularity(names: Iterable[str], granularity: str) -> None:
    """Raise UserError for a network of transformers where channels are ranked."""
    folder = next((name for name in names if name.startswith(HF)), None)
    if folder is not None and granularity != "weight":
        raise UserError(
            f"{short_name(folder)!r} keeps the shapes of its weights, and metrics of channels "
            "remove channels; take metrics of single weights (--granularity weight)"
        )


def short_name(name: str) -> str:
    """Return the name of a task for a table: of a file of the user without its folder."""
    file, colon, function = name.rpartition(":")
    if file.endswith(".py"):
        return f"{Path(file).name}{colon}{function}"
    network, colon, weights = name.partition(":")
    return f"{network}{colon}{Path(weights).name}" if colon else name


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the short name of each task; where two are equal, the later one has a number."""
    shorts: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short, number = short_name(name), 1
        while short in shorts.values():
            number += 1
            short = f"{short_name(name)} ({number})"
        shorts[name] = short
    return shorts


def load_named_task(
    name: str,
    options: TaskOptions = NO_OPTIONS,
    *,
    cache_dir: str | Path | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str | torch.device = "cpu",
    model_timeout: float = MODEL_TIMEOUT,
) -> Task:
    """Load the task of that name; it is called by it.

    Args:
        name: a built-in task, ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER`` (a folder of
            transformers), or ``FILE.py:FUNCTION``, where the function takes no arguments and
            returns a :class:`~gp_prune.tasks.Task`, a network, or a network and its example inputs.
        options: data, kind and weights of a network that is no task.
        cache_dir: folder of trained networks.
        data_root: folder of torchvision's data sets.
        download: whether torchvision may fetch a missing data set.
        device: where network and data are put.
        model_timeout: seconds that a user's function and a forward pass may take; 0 for any.

    Raises:
        UserError: there is no such task, it needs data, or what it is made of does not fit.
    """
    check_task(name)
    builtin = is_task_name(name)
    loaded = load_model(
        name,
        input_shape=None if builtin else options.input_shape or None,
        weights=None if builtin else options.weights or None,
        device=device,
        cache_dir=cache_dir,
        data_root=data_root,
        download=download,
        model_timeout=model_timeout,
    )
    task = loaded.task or _with_data(loaded, options, data_root, download=download)
    if loaded.task is not None and not builtin and (options.data or options.kind or options.most):
        task.remarks += (UNUSED,)
    task.name = name
    return task


def _with_data(
    loaded: LoadedModel, options: TaskOptions, data_root: str | Path | None, *, download: bool
) -> Task:
    """Make a task of a network and images, or a text."""
    if loaded.hf is not None and loaded.hf.text:
        return text_task(loaded, options.data, options.kind, options.most or None)
    name, model, source = loaded.name, loaded.model, options.data
    kind = cast("Kind", options.kind or "classification")
    if kind in PREDICTED:
        raise UserError(
            f"--data gives images, which have no {PREDICTED[kind]} to predict; let {name!r} return "
            f"a gp_prune.Task with the data of its {kind} task"
        )
    if not source:
        raise UserError(
            f"{name!r} brings no data to try formulas on; name a data set or a folder of images "
            "with --data, or let a function return a gp_prune.Task"
        )
    if loaded.hf is not None and loaded.hf.other_images:
        raise UserError(
            f"the images of {name!r} are {loaded.hf.other_images}, and those of --data are not; "
            "let a function return a gp_prune.Task with images of yours"
        )
    shape = image_shape(loaded.example_inputs, name)
    device, most = as_device(device_of(model)), options.most or None
    seed = 0
    known = source in DATA_SETS
    if known:
        how = Reading(kind, device, torch.float32, shape, any_target=False, samples=most, seed=seed)
        train, validation, test = read_data_set(
            how, source, imagenet=loaded.imagenet, data_root=data_root, download=download
        )
        return Task(
            model, train, validation, test,
            name=name, kind=kind, example_inputs=loaded.example_inputs, seed=seed,
            whole=loaded.whole,
        )  # fmt: skip
    images = open_images(source, shape, imagenet=loaded.imagenet, repeats=kind == "reconstruction")
    return Task(
        model, images,
        name=name, kind=kind, example_inputs=loaded.example_inputs, samples=most, seed=seed,
        whole=loaded.whole,
    )  # fmt: skip
