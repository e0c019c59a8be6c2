"""The folder of a run: its settings, its only owner, its header, and its resumption."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from gp_prune._io import (
    MOST_TEXT,
    check_type,
    code_digest,
    read_file,
    remove_temporary_files,
    write_text,
)
from gp_prune._sizes import normalise_size, parse_size
from gp_prune.errors import UserError
from gp_prune.runs.jobs import Decoder, R
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal
from gp_prune.statistics.coverage import (
    STATISTICS_VERSION,
)

CONFIG = "config.toml"

PACKAGES = ("gp-prune", "torch", "deap", "torch-pruning", "sympy", "numpy", "scikit-learn")

_CODE = "python_files"
"""The entry of a run's header that names the Python files that it runs, with their digests."""


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


S = TypeVar("S", bound=Settings)


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


def _check_code(settings: Settings, journal: Journal[R]) -> None:
    """Raise UserError where a Python file is not what the run was begun with; run none."""
    if journal.begun is None:
        return
    recorded = journal.begun.get(_CODE, [])
    if not isinstance(recorded, list) or len(recorded) != len(settings.python_files):
        raise UserError(
            f"the settings beside {str(journal.path)!r} run other files than the run was begun "
            "with; put back what they were or start a new run in another folder"
        )
    for file, before in zip(settings.python_files, recorded, strict=True):
        now = _describe_code(file)
        if now != before:
            raise UserError(
                f"{file!r} changed since the run was begun (it is {now}, and was {before}); put "
                "back what it was or start a new run in another folder"
            )


def _describe_code(file: str) -> str:
    """Return the name and the digest of a file, wherever it is."""
    return f"{Path(file).name} {code_digest(file)}"


def load_or_check_settings(
    settings: type[S],
    given: S | None,
    folder: Path,
    *,
    resume: bool,
    trust: Sequence[str | Path] = (),
    changes: Mapping[str, Any] | None = None,
) -> S:
    """Return the settings of a run, and check that the folder is fit for it.

    Args:
        settings: the class of the settings.
        given: what was asked for; None for the defaults, and with ``resume`` for what is stored.
        folder: the run folder.
        resume: continue the run in the folder.
        trust: Python files that stored settings may run; those of ``given`` need not be named.
        changes: with ``resume``, settings that replace the stored ones, by name.

    Raises:
        UserError: the folder is in use, or is no run folder, a setting would change that a resumed
            run keeps, or the settings would run a file that was not named.
    """
    if resume:
        if not (folder / CONFIG).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {CONFIG}")
        stored = settings.from_toml(folder / CONFIG)
        wanted = replace(cast(Any, stored if given is None else given), **(changes or {}))
        kept = [name for name in wanted.changed(stored) if name not in settings.ADJUSTABLE]
        if kept:
            raise UserError(
                f"a resumed run keeps its settings, but {', '.join(kept)} would change; leave them "
                "out or start a new run"
            )
        stored = wanted
        check_trust(
            stored.python_files,
            (*trust, *(given.python_files if given else ())),
            f"run {str(folder)!r}",
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
def open_run_folder(
    folder: Path, read: Decoder[R], settings: Settings | None = None
) -> Iterator[Journal[R]]:
    """Make the run folder, so that no other run takes it, and open its journal.

    Where nothing ran, neither a journal nor a new folder is left over. What a kill left half
    written is deleted.

    Args:
        folder: the run folder.
        read: makes a result of what the journal holds of it.
        settings: of the run; the files that they run must be those that it was begun with.

    Raises:
        UserError: another run has the folder, its journal is damaged, a file that is run has
            changed, something in the folder is a link, or it cannot be written.
    """
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with writing(folder, begun=False):
            folder.mkdir(parents=True, exist_ok=True)
            _refuse_links(folder)
        with Journal(folder, read) as journal:
            _check_statistics(folder, journal)
            with writing(folder, begun=False):
                for part, _, _ in os.walk(folder):
                    remove_temporary_files(Path(part))
            try:
                if settings is not None:
                    _check_code(settings, journal)
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
        f"run {str(folder)!r} was begun with version {journal.begun.get('statistics', 1)} of the "
        f"statistics that formulas read, and version {STATISTICS_VERSION} may give other scores, "
        "so it cannot be resumed; start a new run (evolve takes its evaluations over with --reuse)"
    )


def _refuse_links(folder: Path) -> None:
    """Raise UserError for a link in a run folder, through which a run would write elsewhere."""
    for path in folder.iterdir():
        if path.is_symlink():
            raise UserError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, and a run writes into its own "
                "folder alone; put back what it leads to, or remove it"
            )


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
    """Write the settings of a run and all that decides its results, or check the latter.

    Settings that a resumed run changes are written, too; the journal keeps those that it was begun
    with.

    Args:
        folder: the run folder.
        settings: what :func:`load_or_check_settings` returned.
        journal: the journal in the folder.
        identity: all that decides the results, as JSON.
        resume: the run was begun before.
        digested: name in ``identity`` -> what it is, see :meth:`Journal.write_header`.

    Raises:
        UserError: the run was begun with something else, or the folder cannot be written.
    """
    header = {**identity, "statistics": STATISTICS_VERSION}
    code = list(map(_describe_code, settings.python_files))
    header = {**header, _CODE: code} if code else header
    if not resume:
        with writing(folder, begun=False):
            write_text(folder / CONFIG, settings.to_toml())
    journal.write_header(header, digested, settings.ADJUSTABLE)
    if resume and type(settings).from_toml(folder / CONFIG) != settings:
        with writing(folder):
            write_text(folder / CONFIG, settings.to_toml())


@contextmanager
def writing(folder: Path, *, begun: bool = True) -> Iterator[None]:
    """Turn an error of the system into one sentence about the run folder.

    Args:
        folder: the run folder.
        begun: whether the journal holds what has been done, so that the run can go on.
    """
    try:
        yield
    except OSError as error:
        name = error.filename or folder
        remedy = "go on with --resume" if begun else "give another --out"
        raise UserError(
            f"run folder {str(folder)!r} cannot be written: {error.strerror}"
            f"{'' if Path(name) == folder else f' ({str(name)!r})'}; mend this"
            f"{', and ' if begun else ', or '}{remedy}"
        ) from error


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that decide a result.

    They are looked up once: what is installed during a run is not what the run computes with.
    """
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **installed}
