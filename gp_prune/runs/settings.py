"""The settings of a run: a data class that is read and written as TOML; the code that they name."""

from __future__ import annotations

import difflib
import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_args, get_origin, get_type_hints

from gp_prune.base.files import MOST_TEXT, code_digest, read_file
from gp_prune.base.json_fields import check_type
from gp_prune.base.sizes import normalise_size, parse_size
from gp_prune.errors import UserError

_TASKS = ("tasks", "validate_on", "report_on")
"""The settings that name tasks."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file; nothing in it is checked but that it is TOML.

    Raises:
        UserError: the file cannot be read, or is not TOML.
    """
    file = repr(str(path))
    try:
        return tomllib.loads(read_file(path, MOST_TEXT).decode())
    except OSError as error:
        raise UserError(f"settings file {file} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(
            f"settings file {file} is nested too deeply; settings are not nested at all"
        ) from None
    except ValueError as error:
        raise UserError(f"settings file {file} is not valid TOML: {error}") from None


class Settings:
    """Base of a frozen dataclass of settings; all that decides the result of a run.

    Every field has a default, and is of type str, int, float, bool, or a tuple of any number of
    entries of one of these: ``tuple[float, ...]``. The dataclass checks the values with
    :func:`gp_prune.errors.check_fields`.

    Settings of runs that measure layers have a field ``max_memory``, a size with its unit.

    Attributes:
        ADJUSTABLE: names of the settings that a resumed run may change: what the journal holds
            stays right whatever they are.
    """

    ADJUSTABLE: ClassVar[frozenset[str]] = frozenset()

    def normalise_memory(self) -> None:
        """Write ``max_memory`` as its shortest text, so that equal sizes are equal settings.

        Raises:
            UserError: it is no size.
        """
        size = getattr(self, "max_memory")  # noqa: B009 - a field of the dataclass
        object.__setattr__(self, "max_memory", normalise_size(size, "max_memory (--max-memory)"))

    @property
    def memory(self) -> int:
        """Return the most bytes for what is measured."""
        return parse_size(getattr(self, "max_memory"), "max_memory")  # noqa: B009 - as above

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(cast(Any, self)).items()
        }

    def to_toml(self) -> str:
        """Return the settings as TOML, which :meth:`from_toml` reads back."""
        settings = asdict(cast(Any, self))
        return "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read settings from a TOML file; those it leaves out have their defaults.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        return cls.from_content(read_toml(path), path)

    @classmethod
    def from_content(cls, content: Mapping[str, Any], path: Path) -> Self:
        """Return the settings that were read from a file, see :meth:`from_toml`.

        Raises:
            UserError: a setting is unknown or wrong.
        """
        return cls(**cls._check(content, path))

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Read the settings that a TOML file gives, and check their names and types.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        return cls._check(read_toml(path), path)

    @classmethod
    def _check(cls, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Check the names and the types of settings that were read from a file, and return them.

        Raises:
            UserError: one is unknown or wrong.
        """
        file = repr(str(path))
        data = dict(content)
        hints = get_type_hints(cls)
        types = {field.name: hints[field.name] for field in fields(cast(Any, cls))}
        for name, value in data.items():
            if name not in types:
                close = difflib.get_close_matches(name, types, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise UserError(f"unknown setting {name!r} in {file}{hint}")
            if get_origin(types[name]) is not tuple:
                check_type(value, types[name], f"setting {name!r} in {file}")
                continue
            check_type(value, list, f"setting {name!r} in {file}")
            for entry in value:
                check_type(entry, get_args(types[name])[0], f"an entry of {name!r} in {file}")
            data[name] = tuple(value)
        return data

    @property
    def python_files(self) -> tuple[str, ...]:
        """Return the Python files that a run with these settings executes."""
        return code_files(asdict(cast(Any, self)))

    def changed(self, other: Self) -> list[str]:
        """Return the names of the settings whose values differ from those of another object."""
        return [
            field.name
            for field in fields(cast(Any, self))
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a basic TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def code_files(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the Python files that settings name: of primitives, of a model and of tasks."""
    tasks = (name for entry in _TASKS for name in settings.get(entry, ()))
    files = (str(name).rpartition(":")[0] for name in (settings.get("model", ""), *tasks))
    models = dict.fromkeys(file for file in files if file.endswith(".py"))
    return (*settings.get("primitives", ()), *models)


def check_trust(code: Iterable[str], trust: Iterable[str | Path], owner: str) -> None:
    """Check that the user has named every Python file that settings from a file would run.

    Args:
        code: the files.
        trust: the files that the user has named.
        owner: what the settings belong to, for the message.

    Raises:
        UserError: one was not named, or one that was named is not among them.
    """
    trusted = {Path(file).resolve(): str(file) for file in trust}
    unused = set(trusted)
    for file in code:
        path = Path(file).resolve()
        unused.discard(path)
        if path not in trusted:
            raise UserError(
                f"{owner} runs the code of {file!r} ({code_digest(file)}); read that file, and if "
                f"you trust it, name it with --trust {shlex.quote(file)}"
            )
    for path in sorted(unused):
        raise UserError(f"{owner} does not run {trusted[path]!r}; leave it out")
