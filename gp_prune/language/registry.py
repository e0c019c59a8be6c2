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
from gp_prune.language.symbols import Notation

FAMILIES = "gp_prune.primitives"
"""The package whose modules are the built-in families."""


def declared_in(module: ModuleType) -> list[Operand | Operator]:
    """Return the primitives that a module declares, in the order of the file, each once.

    They are values of the module or elements of its lists and tuples.
    """
    values = [
        element
        for value in vars(module).values()
        for element in (value if isinstance(value, list | tuple) else [value])
    ]
    primitives = [value for value in values if isinstance(value, Operand | Operator)]
    return list({id(primitive): primitive for primitive in primitives}.values())


@cache
def _families() -> list[ModuleType]:
    package = importlib.import_module(FAMILIES)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{FAMILIES}.{name}") for name in names]


@cache
def builtin_primitives() -> PrimitiveSet:
    """Return all primitives of the built-in families."""
    return PrimitiveSet(primitive for module in _families() for primitive in declared_in(module))


@cache
def builtin_functions() -> dict[str, type[Notation]]:
    """Return the sympy functions of the built-in families by name."""
    return {
        name: value
        for module in _families()
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Notation)
        and value.__module__ == module.__name__
    }


def primitives_from_file(path: str | Path) -> list[Operand | Operator]:
    """Run a user's Python file as a module and return its primitives.

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
        primitives = declared_in(module)
        if not primitives:
            raise PrimitiveError("it declares no primitive; use @operand or @operator")
    except PrimitiveError as error:
        del sys.modules[name]
        raise PrimitiveError(f"primitive file {str(path)!r}: {error}") from error
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PrimitiveError(
            f"primitive file {str(path)!r} does not run: {type(error).__name__}: {error}"
        ) from error
    return primitives


def primitive_set(*files: str | Path) -> PrimitiveSet:
    """Return the built-in primitives and those of users' files."""
    base = builtin_primitives()
    more = [primitive for file in files for primitive in primitives_from_file(file)]
    return base.extended(more) if more else base
