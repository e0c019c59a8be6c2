"""The folder of a run: its settings, its only owner, its header, and its resumption."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from gp_prune.base.files import code_digest, remove_temporary_files, write_text
from gp_prune.errors import UserError
from gp_prune.runs.jobs import Decoder, R
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal
from gp_prune.runs.settings import Settings, check_trust
from gp_prune.statistics.coverage import (
    STATISTICS_VERSION,
)

CONFIG = "config.toml"

PACKAGES = ("gp-prune", "torch", "deap", "torch-pruning", "sympy", "numpy", "scikit-learn")

_CODE = "python_files"
"""The entry of a run's header that names the Python files that it runs, with their digests."""


S = TypeVar("S", bound=Settings)


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
