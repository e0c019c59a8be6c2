"""The folder of a run: taken by one run alone, begun once, gone on with as it was."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gp_prune._io import write_text
from gp_prune.errors import UserError
from gp_prune.runs.config import Settings
from gp_prune.runs.jobs import Decoder, R
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal

CONFIG = "config.toml"

PACKAGES = ("gp-prune", "torch", "deap", "torch-pruning", "sympy", "numpy", "scikit-learn")

S = TypeVar("S", bound=Settings)


def load_or_check_settings(kind: type[S], given: S | None, folder: Path, *, resume: bool) -> S:
    """The settings of the run, if the folder is fit for it.

    Args:
        kind: the class of the settings.
        given: what was asked for; None for the defaults, and with ``resume`` for what is stored.
        folder: the run folder.
        resume: go on with the run in the folder.

    Raises:
        UserError: the folder is in use, or is no run folder, or its settings are others.
    """
    if resume:
        if not (folder / CONFIG).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {CONFIG}")
        stored = kind.from_toml(folder / CONFIG)
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
    return given or kind()


def _early(path: Path) -> bool:
    """Whether a file is what a kill leaves of a run that had not begun.

    That is an empty journal, and a temporary file of the settings.
    """
    return CONFIG in path.name or (path.name == JOURNAL and not path.stat().st_size)


@contextmanager
def open_run_folder(folder: Path, read: Decoder[R]) -> Iterator[Journal[R]]:
    """The journal of a run folder that is made now, so that no other run takes it.

    Where nothing ran, no journal is left behind, and no folder that was made for it.

    Args:
        folder: the run folder.
        read: makes a result of what the journal holds of it.

    Raises:
        UserError: another run has the folder, its journal is damaged, or it cannot be written.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with Journal(folder, read) as journal:
            try:
                yield journal
            finally:
                if not (folder / CONFIG).exists() and journal.empty:
                    journal.discard()
    finally:
        _remove_empty(*made)


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
    """Write the settings of a new run and what else decides its results, or check the latter.

    Args:
        folder: the run folder.
        settings: the settings, as :func:`load_or_check_settings`.
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
    journal.write_header(identity, digested)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one sentence that the disk is full or the folder closed."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run folder {str(folder)!r} cannot be written: {error.strerror}; "
            "mend this, or give another --out"
        ) from error


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of python and of the packages that decide a result."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
