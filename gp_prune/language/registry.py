"""Find primitives in the built-in families and in a user's own file."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from gp_prune.language.primitive import Operand, Operator, PrimitiveError, PrimitiveSet

FAMILIES = "gp_prune.primitives"
"""The package whose modules are the built-in families."""


def declared_in(module: ModuleType) -> list[Operand | Operator]:
    """The primitives that a module declares, in the order of the file, each once."""
    found = {id(value): value for value in vars(module).values()}
    return [value for value in found.values() if isinstance(value, Operand | Operator)]


@cache
def builtin_primitives() -> PrimitiveSet:
    """All primitives of the built-in families."""
    package = importlib.import_module(FAMILIES)
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{FAMILIES}.{name}") for name in names]
    return PrimitiveSet(primitive for module in modules for primitive in declared_in(module))


def primitives_from_file(path: str | Path) -> list[Operand | Operator]:
    """The primitives of a user's Python file, which is run as a module.

    Raises:
        PrimitiveError: the file is missing, does not run, or declares no primitive.
    """
    path = Path(path)
    if not path.is_file():
        raise PrimitiveError(f"primitive file {str(path)!r} does not exist; give a Python file")
    name = f"gp_prune_user_primitives_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PrimitiveError(f"primitive file {str(path)!r} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        found = declared_in(module)
        if not found:
            raise PrimitiveError("it declares no primitive; use @operand or @operator")
    except PrimitiveError as error:
        del sys.modules[name]
        raise PrimitiveError(f"primitive file {str(path)!r}: {error}") from error
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PrimitiveError(
            f"primitive file {str(path)!r} does not run: {type(error).__name__}: {error}"
        ) from error
    return found


def primitive_set(*files: str | Path) -> PrimitiveSet:
    """The built-in primitives and those of users' files."""
    base = builtin_primitives()
    more = [primitive for file in files for primitive in primitives_from_file(file)]
    return base.extended(more) if more else base
