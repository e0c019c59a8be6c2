"""Bridge what is missing, slow or does not fit: optional packages, torch, old import paths.

torchvision beside a torch of another build (a CPU-only one, very often) fails at import, although
its data sets, transforms and models are plain Python and would work.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gp_prune.errors import UserError

if TYPE_CHECKING:
    import torch

MOVED = {
    "gp_prune.axes": "gp_prune.language.axes",
    "gp_prune.binding": "gp_prune.language.symbols",
    "gp_prune.discovery": "gp_prune.language.primitive",
    "gp_prune.layer": "gp_prune.language.record",
    "gp_prune.primitive": "gp_prune.language.primitive",
    "gp_prune.symbols": "gp_prune.language.symbols",
}
"""Import paths that users' primitive files have, with where they lead until version 0.2."""

_MISSING_OPERATOR = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")

# torch forgets an operator as soon as the library object that declared it is collected.
_declared: list[torch.library.Library] = []


def import_optional(module: str, purpose: str, install: str, package: str = "") -> ModuleType:
    """Import a package that not everybody has.

    A package that is there, and lacks one that it needs itself, is not called missing.

    Args:
        module: what is imported.
        purpose: what needs it, as the message begins, for instance ``"a plot"``.
        install: what pip is asked for, for instance ``"gp-prune[plot]"``.
        package: its name in the message; by default that of the module.

    Raises:
        UserError: it is not installed.
    """
    package = package or module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (module, package):
            raise
        raise UserError(
            f"{purpose} needs {package}, which is not installed; install it with: "
            f"pip install '{install}'"
        ) from error


def import_torch() -> None:
    """Import torch for a process of this program, in four fifths of the processor time.

    The garbage collector would pass several times over the million objects that torch makes, none
    of which is garbage. It is off meanwhile, and leaves them alone afterwards.
    """
    if "torch" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch")
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


class TorchvisionWarning(UserWarning):
    """torchvision was imported without its compiled operators."""


def import_torchvision() -> ModuleType:
    """Import ``torchvision``, without its compiled operators if it must be.

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
        return import_optional("torchvision", "this data set or model", "torchvision")
    except RuntimeError as error:
        if str(error) != _MISSING_OPERATOR:
            raise
    import torch  # here, because every import of gp_prune reads this file

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


def import_beside_torchvision(module: str, purpose: str, install: str) -> ModuleType:
    """Import a package that imports torchvision if it is there, which must then be importable.

    The arguments are those of :func:`import_optional`.

    Raises:
        UserError: it is not installed.
    """
    with contextlib.suppress(UserError):
        import_torchvision()
    return import_optional(module, purpose, install)


def _forget_partial_import() -> None:
    """Drop the submodules that a failed import left behind, so that the next one runs them all."""
    for name in list(sys.modules):
        if name == "torchvision" or name.startswith("torchvision."):
            del sys.modules[name]


def _declare_operators() -> None:
    """Make the operator names known to torch; calling one still fails with torch's own message."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)


class MovedModuleFinder(MetaPathFinder, Loader):
    """Import a module by the path that it had in version 0.1, with a deprecation warning."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return how a moved module is loaded; None for every other name."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the names of the one that took its place."""
        new = MOVED[module.__name__]
        warnings.warn(
            f"the module {module.__name__} is {new} now, and the old path goes in version 0.2; "
            "import the names for your own primitives from gp_prune itself",
            DeprecationWarning,
            stacklevel=2,
        )
        vars(module).update(
            (name, value)
            for name, value in vars(importlib.import_module(new)).items()
            if not name.startswith("__") or name == "__getattr__"
        )


def find_renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` by which a module has earlier names, with a deprecation warning.

    Args:
        module: its full name.
        names: earlier name -> full name of what it stands for.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = names[name].rpartition(".")
        warnings.warn(
            f"{module}.{name} is {names[name]} now, and the old name goes in version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(home), new)

    return find
