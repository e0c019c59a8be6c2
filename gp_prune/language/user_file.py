"""Run a Python file of a user as a module."""

from __future__ import annotations

import importlib.util
import linecache
import sys
from importlib.abc import InspectLoader
from pathlib import Path
from types import ModuleType

from gp_prune.errors import UserError


def run_python_file(
    path: Path, module_name: str, what: str, error_type: type[UserError] = UserError
) -> ModuleType:
    """Run a file, and return it as a module that can be found in ``sys.modules``.

    Args:
        path: the file.
        module_name: its name as a module.
        what: what the file is, for the message, such as ``"model file"``.
        error_type: of what is raised.

    Raises:
        UserError: the file is missing, is no Python file or does not run; the message names it, and
            no module is left over.
    """
    file = f"{what} {str(path)!r}"
    if not path.is_file():
        raise error_type(f"{file} does not exist; give a Python file")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise error_type(f"{file} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if before is None:
            del sys.modules[module_name]
        else:
            sys.modules[module_name] = before
        if isinstance(error, UserError):
            raise error_type(f"{file}: {error}") from error
        # SystemExit too, which would otherwise end the program without a message.
        if isinstance(error, Exception | SystemExit):
            raise error_type(f"{file} does not run: {describe(error)}; mend the file") from error
        raise
    keep_source(module)
    return module


def keep_source(module: ModuleType) -> None:
    """Let ``inspect`` give the source that a module was loaded from after its file has changed.

    By default it reads the file again, and finds other code at the lines of a function.
    """
    loader, file = module.__loader__, module.__file__
    if file is None or not isinstance(loader, InspectLoader):
        return
    source = loader.get_source(module.__name__)
    if source is not None:
        # Without a time of change the entry is never compared with the file.
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file


def describe(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
