"""Write files whole or not at all, and read files of bounded size."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

_LOCKED_BYTE = 2**31 - 2
"""Windows locks bytes of a file; this one is far beyond the end of any."""

MOST_TEXT = 4 * 2**20
"""Bytes of the largest file that a person writes or reads: a metric, settings."""

MOST_JSON = 16 * 2**20
"""Bytes of the largest JSON file; what belongs to a large network may have more."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` as one step: temporary file, fsync, ``os.replace``.

    Raises:
        OSError: the content could not be written, with ``path`` as its file name; what was there
            before is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Not by tempfile, whose files nobody else may read: the umask decides about this one.
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force the names of a folder's files to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_TEMPORARY = re.compile(r"\..+\.(csv|html|json|jsonl|png|safetensors|svg|toml)\.[a-z0-9_]{8}")

SHARED_SECONDS = 600.0
"""Age at which a temporary file in a folder of several processes is what a kill has left."""


def remove_temporary_files(folder: Path, *, seconds: float = 0.0) -> None:
    """Delete what a kill left of files that were being written in a folder; leave links alone.

    Args:
        folder: the folder; nothing happens where there is none.
        seconds: least age of what is deleted, for a folder that another process may write to.
    """
    before = time.time() - seconds
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime <= before:
                    os.unlink(entry.path)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` by ``content`` in UTF-8, as one step."""
    write_bytes(path, content.encode())


class DamagedFileError(Exception):
    """A file is missing or is not what was written; the message names the file and the fault.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path} {fault}")
        self.path = path


def read_file(path: str | Path, most: int) -> bytes:
    """Read a regular file of bounded size.

    Pipes and devices may give bytes without end, or none for ever.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes; ``strerror`` says so.
        ValueError: the path is none, as one with a zero byte.
    """
    check_regular(path)
    flags = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
    # What was a file a moment ago may be a pipe by now, which must not be waited for.
    handle = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        _check_kind(status, path)
        content = file.read(min(status.st_size, most) + 1)
        if status.st_size < len(content) <= most:  # files of the system, which state no size
            content += file.read(min(most, MOST_JSON))
            most = min(most, len(content) - len(file.read(1)))
    if len(content) > most:
        size = f"{most / 2**20:,.0f} MB"
        raise OSError(errno.EFBIG, f"it has more than the {size} that it may have", str(path))
    return content


def check_regular(path: str | Path) -> None:
    """Raise OSError unless there is a regular file, which ``strerror`` says."""
    _check_kind(os.stat(path), path)


def _check_kind(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        what = "it is a pipe or a device, not a regular file"
        raise OSError(errno.EINVAL, what, str(path))


def read_checked(path: Path, digest: str, most: int) -> bytes:
    """Read a file of at most ``most`` bytes whose SHA-256 must begin with ``digest``.

    Raises:
        DamagedFileError: the file is missing, or its digest is another.
        OSError: the file cannot be read, is no regular file, or is larger.
    """
    try:
        content = read_file(path, most)
    except FileNotFoundError as error:
        raise DamagedFileError(path, "is missing") from error
    if not digest or not hashlib.sha256(content).hexdigest().startswith(digest):
        raise DamagedFileError(path, "is not what was written (its SHA-256 differs)")
    return content


def code_digest(file: str | Path) -> str:
    """Return the SHA-256 of a Python file, or that it cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(read_file(file, MOST_TEXT)).hexdigest()}"
    except OSError as error:
        return f"not readable: {error.strerror}"


def resolve_path(text: str, names: Collection[str] = ()) -> str:
    """Return the absolute path of an existing file or folder; a name or other text as it is.

    Runs keep absolute paths, so that they can be resumed from another folder.
    """
    try:
        is_path = bool(text) and text not in names and Path(text).exists()
    except (OSError, ValueError):  # a formula may be longer than a path
        is_path = False
    return str(Path(text).resolve()) if is_path else text


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed or its process ends; return whether no other has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # The same byte for all, and none of a line: Windows refuses to read locked ones.
            os.lseek(file.fileno(), _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
