"""The settings of a run as a frozen dataclass, and their TOML form."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from gp_prune.errors import UserError, check_type

MOST_SEED = 2**63 - 1
"""The largest seed: torch takes none that is much larger."""


class Settings:
    """Base of a frozen dataclass of settings; all that decides the result of a run.

    Every field has a default, and is of type str, int, float, bool, or a tuple of any number of
    entries of one of these: ``tuple[float, ...]``. The dataclass checks the values with
    :func:`gp_prune.errors.check_fields`.
    """

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
        return cls(**cls.read(path))

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Read the settings that a TOML file gives, and check their names and types.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        file = repr(str(path))
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"settings file {file} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise UserError(f"settings file {file} is not valid TOML: {error}") from None
        types = get_type_hints(cls)
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
