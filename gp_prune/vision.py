"""Importing torchvision, also where its compiled operators do not fit the installed torch.

torchvision beside a torch of another build (a CPU-only one, very often) fails at import, although
its data sets, transforms and models are plain Python and would work.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch

from gp_prune.errors import UserError

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")

# torch forgets an operator as soon as the library object that declared it is collected.
_declared: list[torch.library.Library] = []


class TorchvisionWarning(UserWarning):
    """torchvision was imported without its compiled operators."""


def import_torchvision() -> ModuleType:
    """The module ``torchvision``, imported without its compiled operators if it must be.

    The plain import is tried first. Only when it fails because the operator ``nms`` is missing are
    ``nms`` and ``qnms`` declared (without an implementation) and the import tried once more; every
    other failure is raised as it is.

    Returns:
        The imported package, with ``datasets``, ``models`` and ``transforms``.

    Raises:
        UserError: torchvision is not installed.

    Warns:
        TorchvisionWarning: the compiled operators are missing; said once per process.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise UserError(
            "torchvision is not installed, and this data set or model comes from it; "
            "install it with: pip install torchvision"
        ) from error
    except RuntimeError as error:
        if str(error) != _MISSING_OPERATOR:
            raise
    _forget_partial_import()
    _declare_operators()
    module = importlib.import_module("torchvision")
    warnings.warn(
        f"torchvision's compiled operators do not load beside torch {torch.__version__}, so its "
        "data sets, transforms and models work, but box operators such as nms and roi_align do "
        "not; install the torchvision build that matches torch to have them",
        TorchvisionWarning,
        stacklevel=2,
    )
    return module


def _forget_partial_import() -> None:
    """Drop the submodules that a failed import left behind, so that the next one runs them all."""
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]


def _declare_operators() -> None:
    """Make the operator names known to torch; calling one still fails with torch's own message."""
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)
