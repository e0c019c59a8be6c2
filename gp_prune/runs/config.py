"""The settings of a run as a frozen dataclass, and their TOML form."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, cast, get_args, get_origin, get_type_hints

from gp_prune.errors import UserError

MOST_SEED = 2**63 - 1
"""The largest seed: torch takes none that is much larger."""


class Settings:
    """Base of a frozen dataclass of settings; all that decides the result of a run.

    Every field has a default, and is of type str, int, float, bool, or a tuple of any number of
    entries of one of these: ``tuple[float, ...]``. The dataclass checks the values themselves.
    """

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(cast(Any, self)).items()
        }

    def to_toml(self) -> str:
        """The settings as TOML, which :meth:`from_toml` reads back."""
        settings = asdict(cast(Any, self))
        return "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Settings from a TOML file; those it leaves out have their defaults.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        return cls(**cls.read(path))

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The settings that a TOML file gives, checked for name and type.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"settings file {str(path)!r} cannot be read: {error.strerror}"
            ) from None
        except ValueError as error:
            raise UserError(f"settings file {str(path)!r} is not valid TOML: {error}") from None
        types = get_type_hints(cls)
        known = [field.name for field in fields(cast(Any, cls))]
        settings: dict[str, Any] = {}
        for name, value in data.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise UserError(f"unknown setting {name!r} in {str(path)!r}{hint}")
            settings[name] = _checked(name, value, types[name], path)
        return settings

    def changed(self, other: Self) -> list[str]:
        """The names of the settings that another set has otherwise."""
        return [
            field.name
            for field in fields(cast(Any, self))
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def _checked(name: str, value: Any, kind: Any, path: Path) -> Any:
    if get_origin(kind) is tuple:
        entry = _accepted(get_args(kind)[0])
        if isinstance(value, list) and all(isinstance(each, entry) for each in value):
            return tuple(value)
        raise UserError(f"setting {name!r} in {str(path)!r} is {value!r}; it must be a list")
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, _accepted(kind)):
        raise UserError(
            f"setting {name!r} in {str(path)!r} is {value!r}; it must be of type {kind.__name__}"
        )
    return value


def _accepted(kind: Any) -> tuple[type, ...]:
    """A whole number is a number, too."""
    return (int, float) if kind is float else (kind,)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a basic TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
