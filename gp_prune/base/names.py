"""Names of bundled metrics, tasks, data sets and choices, without importing torch or sympy.

The command line completes them while a person waits.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from itertools import product, starmap
from typing import Any

IMAGE_MODELS = ("lenet", "cnn", "autoencoder", "caffe_lenet", "resnet", "mobilenet", "mlp")
"""Every kind of network that the name of a task on images can start with."""

DATA_SETS = ("digits", "mnist", "fashionmnist", "cifar10")
"""Every data set that the name of a task on images can end with."""

LANGUAGE_MODELS = ("llama", "gpt", "llama_wide", "llama_deep", "gpt_wide")
"""Every language model that the name of a task can start with."""

LANGUAGE_TASKS = tuple(f"{model}-pydoc" for model in LANGUAGE_MODELS)
"""Language models on a text that comes with Python."""

TASK_NAMES: tuple[str, ...] = (
    *starmap("{1}-{0}".format, product(DATA_SETS, IMAGE_MODELS)), *LANGUAGE_TASKS
)  # fmt: skip
"""The names of the built-in tasks; of the images those that need no files come first.

:func:`gp_prune.load_task` also takes ``NAME@SEED``, the same task with a network trained from
another seed.
"""

TEXT_TASKS = tuple(f"{model}-text" for model in LANGUAGE_MODELS)
"""Tasks with the text of a file, written ``NAME:FILE`` or ``NAME@SEED:FILE``."""

WEIGHTS_TASKS = ("resnet20-cifar10", "resnet56-cifar10")
"""Tasks with weights from a file, written ``NAME:FILE``."""

TORCHVISION, TIMM, HF = "torchvision:", "timm:", "hf:"
"""What the name of a network of another package starts with; after ``hf:`` comes a folder."""

SCOPES = ("layer", "global", "isomorphic", "row")
"""What is ranked together."""

BUDGETS = ("pruning_ratio", "keep_channels", "keep_macs", "keep_params", "keep_latency")
"""How much goes or stays, one of them."""

OLD_BUDGETS = {name.rpartition("_")[2]: name for name in BUDGETS}
"""Names of budgets that work until 0.2 -> the names in their place."""

OLD_OPTIONS = {old: new for old, new in OLD_BUDGETS.items() if old != "channels"}
"""Those of the command line, which had fewer."""

KEEP = "keep"
UNRANKED_CHOICES = (KEEP, "refuse")
"""What may happen to layers whose channels all have the same score."""


METRIC_FOLDERS = ("reference", "handwritten", "evolved")
"""Folders of bundled metrics: published, written by hand by this project, found by its searches."""


def bundled_metrics(*folders: str) -> dict[str, Any]:
    """Return the bundled metric files by name, in order of folder and name.

    Args:
        folders: some of :data:`METRIC_FOLDERS`; all, in this order, by default.
    """
    return {
        file.name.removesuffix(".json"): file
        for folder in folders or METRIC_FOLDERS
        for file in _files(folder)
    }


@cache
def _files(folder: str) -> list[Any]:
    """Return the bundled metric files of a folder; they stay the same while a process runs."""
    path = resources.files("gp_prune.evolved_metrics") / folder
    files = path.iterdir() if path.is_dir() else ()
    return sorted((f for f in files if f.name.endswith(".json")), key=lambda file: file.name)
