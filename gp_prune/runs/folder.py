"""The folder of a run: its settings, its only owner, its header, and its resumption."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import platform
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from gp_prune._io import MOST_TEXT, check_type, read_file, write_json, write_text
from gp_prune._sizes import normalise_size, parse_size, remark_on_size
from gp_prune.errors import UserError
from gp_prune.runs.jobs import Decoder, R
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal
from gp_prune.statistics.coverage import (
    STATISTICS_VERSION,
    CoverageWarning,
    LayerCoverage,
    coverage_json,
    describe_limit,
)

CONFIG = "config.toml"
STATISTICS = "statistics.json"
"""How much of the calibration data each measurement of the run saw."""

PACKAGES = ("gp-prune", "torch", "deap", "torch-pruning", "sympy", "numpy", "scikit-learn")


class Settings:
    """Base of a frozen dataclass of settings; all that decides the result of a run.

    Every field has a default, and is of type str, int, float, bool, or a tuple of any number of
    entries of one of these: ``tuple[float, ...]``. The dataclass checks the values with
    :func:`gp_prune.errors.check_fields`.

    Settings of runs that measure layers have a field ``max_memory``, a size with its unit.
    """

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
        return cls(**cls.read(path))

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Read the settings that a TOML file gives, and check their names and types.

        Raises:
            UserError: the file cannot be read, is not TOML, or holds an unknown or wrong setting.
        """
        file = repr(str(path))
        try:
            data = tomllib.loads(read_file(path, MOST_TEXT).decode())
        except OSError as error:
            raise UserError(f"settings file {file} cannot be read: {error.strerror}") from None
        except RecursionError:
            raise UserError(
                f"settings file {file} is nested too deeply; settings are not nested at all"
            ) from None
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


S = TypeVar("S", bound=Settings)


def load_or_check_settings(settings: type[S], given: S | None, folder: Path, *, resume: bool) -> S:
    """Return the settings of a run, and check that the folder is fit for it.

    Args:
        settings: the class of the settings.
        given: what was asked for; None for the defaults, and with ``resume`` for what is stored.
        folder: the run folder.
        resume: continue the run in the folder.

    Raises:
        UserError: the folder is in use, or is no run folder, or its settings are others.
    """
    if resume:
        if not (folder / CONFIG).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {CONFIG}")
        stored = settings.from_toml(folder / CONFIG)
        if given is not None and given != stored:
            raise UserError(
                f"a resumed run keeps its settings, but {', '.join(given.changed(stored))} would "
                "change; leave them out or start a new run"
            )
        return stored
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run folder {str(folder)!r} is a file; give another --out")
    if folder.is_dir() and ((folder / CONFIG).exists() or not all(map(_early, folder.iterdir()))):
        raise UserError(
            f"run folder {str(folder)!r} exists and is not empty; "
            "give another --out, or go on with --resume"
        )
    return given or settings()


def _early(path: Path) -> bool:
    """Tell whether a file is what a kill leaves before a run begins: no settings, no results."""
    return CONFIG in path.name or (path.name == JOURNAL and not path.stat().st_size)


@contextmanager
def open_run_folder(folder: Path, read: Decoder[R]) -> Iterator[Journal[R]]:
    """Make the run folder, so that no other run takes it, and open its journal.

    Where nothing ran, neither a journal nor a new folder is left over.

    Args:
        folder: the run folder.
        read: makes a result of what the journal holds of it.

    Raises:
        UserError: another run has the folder, its journal is damaged, or it cannot be written.
    """
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with Journal(folder, read) as journal:
            _check_statistics(folder, journal)
            try:
                yield journal
            finally:
                if not (folder / CONFIG).exists() and journal.empty:
                    journal.discard()
    finally:
        _remove_empty(*new)


def _check_statistics(folder: Path, journal: Journal[Any]) -> None:
    """Raise UserError where the run was begun with other statistics than formulas read now."""
    if journal.begun is None or journal.begun.get("statistics") == STATISTICS_VERSION:
        return
    raise UserError(
        f"run {str(folder)!r} was begun when formulas read 64 samples and positions of each layer, "
        "not all of them, so it cannot be resumed; start a new run (evolve takes its evaluations "
        "over with --reuse)"
    )


def write_statistics(
    folder: Path, settings: Settings, networks: Mapping[str, LayerCoverage]
) -> None:
    """Write how much of the data each measurement saw, and warn where a limit was met.

    Args:
        folder: the run folder.
        settings: of the run, with a field ``max_memory``.
        networks: name of a network -> how much was measured of its layers.

    Warns:
        CoverageWarning: something did not fit, or the limit is more than the machine has.
    """
    notes = [
        describe_limit(coverage, settings.memory, f" of {name}")
        for name, coverage in networks.items()
    ]
    warn_of_limits(settings, notes)
    content = {
        "version": STATISTICS_VERSION,
        "max_memory": settings.memory,
        "notes": [note for note in notes if note],
        "networks": {name: coverage_json(coverage) for name, coverage in networks.items()},
    }
    with writing(folder):
        write_json(folder / STATISTICS, content)


def warn_of_limits(settings: Settings, notes: Iterable[str]) -> None:
    """Warn of what did not fit the memory of a run, and of more memory than the machine has.

    Args:
        settings: of the run, with a field ``max_memory``.
        notes: sentences; those that are empty say nothing.
    """
    for note in dict.fromkeys([*notes, remark_on_size(settings.memory, "max_memory")]):
        if note:
            warnings.warn(note, CoverageWarning, stacklevel=3)


def _remove_empty(*folders: Path) -> None:
    """Remove folders, each within the next, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty, or somebody else's by now
            return


def write_run_header(
    folder: Path,
    settings: Settings,
    journal: Journal[R],
    identity: dict[str, Any],
    *,
    resume: bool,
    digested: Mapping[str, str] | None = None,
) -> None:
    """Write the settings of a new run and all that decides its results, or check the latter.

    Args:
        folder: the run folder.
        settings: what :func:`load_or_check_settings` returned.
        journal: the journal in the folder.
        identity: all that decides the results, as JSON.
        resume: the settings are there already.
        digested: name in ``identity`` -> what it is, see :meth:`Journal.write_header`.

    Raises:
        UserError: the run was begun with something else, or the folder cannot be written.
    """
    if not resume:
        with writing(folder):
            write_text(folder / CONFIG, settings.to_toml())
    journal.write_header({**identity, "statistics": STATISTICS_VERSION}, digested)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an error of the system into one sentence about the run folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run folder {str(folder)!r} cannot be written: {error.strerror}; "
            "mend this, or give another --out"
        ) from error


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **installed}
