"""Provide ``gp-prune doctor``: say what is installed, found, and missing for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from gp_prune.cli.options import json_option
from gp_prune.errors import pluralize
from gp_prune.report.text import echo, print_json

PACKAGES = ("gp-prune", "torch", "torchvision", "torch-pruning", "deap", "sympy", "numpy",
            "scikit-learn")  # fmt: skip
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "plot": (("matplotlib",), "plots: apply --plot, genetic, autoencode, result.plot"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "apply --onnx, export_onnx"),
    "timm": (("timm",), "networks timm:NAME"),
    "transformers": (("transformers",), "networks of transformers"),
    "compare": (("matplotlib", "scikit_posthocs"), "statistics and plots of compare"),
    "dask": (("dask", "distributed"), "--dask: several machines"),
    "tensorboard": (("tensorboard",), "--tensorboard, gp_prune.TensorBoard"),
    "mlflow": (("mlflow",), "gp_prune.MLflow"),
    "trackio": (("trackio",), "gp_prune.Trackio"),
}
"""Extra -> modules that it brings, and what needs them."""


@click.command()
@click.option("--cache-dir", help="Folder for trained networks.")
@click.option("--data-root", help="Folder with torchvision's data sets.")
@json_option
def doctor(cache_dir: str | None, data_root: str | None, as_json: bool) -> None:
    """Say what is installed and found here, and what is missing for which command.

    Nothing is downloaded, trained or changed.
    """
    found = examine(cache_dir, data_root)
    if as_json:
        print_json(found)
        return
    from gp_prune.report.console import make_console, print_facts

    console = make_console(sys.stdout)
    rows = [(name, version or "not installed") for name, version in found["packages"].items()]
    rows += [
        ("processor", f"{found['cores']} cores that may be used, {found['memory'] or 'unknown'}"),
        ("GPU", found["gpu"] or "none that torch can use; --device cuda is refused"),
        ("trained networks", _folder(found["cache"], found["cached"], "task")),
        ("free there", f"{found['free_gigabytes']} GB"),
        ("data sets", _folder(found["data"], len(found["data_sets"]), "set")),
    ]
    rows += [(f"  {name}", "found") for name in found["data_sets"]]
    for extra, state in found["extras"].items():
        missing = ", ".join(state["missing"])
        install = f"missing {missing}: pip install 'gp-prune[{extra}]'"
        rows.append((f"extra {extra}", f"{install if missing else 'found'} ({state['for']})"))
    print_facts(console, rows)
    echo()
    echo("The digits of scikit-learn, which the default search uses, come with scikit-learn.")


def _folder(path: str, count: int, what: str) -> str:
    return f"{path} ({pluralize(count, what)})"


def examine(cache_dir: str | None, data_root: str | None) -> dict[str, Any]:
    """Return what is installed and found, as JSON.

    Args:
        cache_dir: folder for trained networks; None for the usual one.
        data_root: folder with data sets; None for the usual one.
    """
    import torch

    from gp_prune.base.sizes import machine_memory
    from gp_prune.runs.processes import cores
    from gp_prune.tasks.data import user_folder

    cache, data = user_folder(cache_dir, "tasks"), user_folder(data_root, "data")
    memory = machine_memory()
    return {
        "packages": {"python": platform.python_version(), **{n: _version(n) for n in PACKAGES}},
        "cores": cores(),
        "memory": None if memory is None else f"{memory / 2**30:.1f} GB of memory",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cache": str(cache),
        "cached": len(list(cache.glob("*/meta.json"))),
        "data": str(data),
        "data_sets": _folders(data),
        "free_gigabytes": round(shutil.disk_usage(_existing(cache)).free / 1e9, 1),
        "extras": {
            extra: {"missing": [n for n in modules if find_spec(n) is None], "for": use}
            for extra, (modules, use) in EXTRAS.items()
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _existing(path: Path) -> Path:
    """Return the folder, or the first one above it that exists."""
    return next(folder for folder in (path, *path.resolve().parents) if folder.exists())
