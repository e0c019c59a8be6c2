"""Write files whole or not at all, tensors with their digest, and read JSON objects strictly.

Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from gp_prune.errors import UserError, brief

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_LOCKED_BYTE = 2**31 - 2
"""Windows locks bytes of a file; this one is far beyond the end of any."""

_TYPE_NAMES = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false",
    list: "a list", dict: "an object",
}  # fmt: skip

MOST_TEXT = 4 * 2**20
"""Bytes of the largest file that a person writes or reads: a metric, settings."""

MOST_JSON = 16 * 2**20
"""Bytes of the largest JSON file; what belongs to a large network may have more."""

MOST_TENSORS = 64 * 2**30
"""Bytes of the largest file of tensors where it is not known what they belong to."""

MOST_WHOLE = 2**63 - 1
"""The largest whole number in a file, as in an int64."""


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


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by ``data`` as indented JSON, as one step; refuse NaN and infinity."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, escape_json(text) + "\n")


def escape_json(text: str) -> str:
    r"""Return JSON in which characters that steer a terminal are written as ``\u009b``.

    JSON itself asks for that below the blank alone. The text means the same.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


class DamagedFileError(Exception):
    """A file is missing or is not what was written; the message names the file and the fault.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{path} {fault}")
        self.path = path


def write_tensors(
    folder: Path, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> str:
    """Write tensors as one safetensors file, as one step, and return its SHA-256.

    Args:
        folder: where to; created if it is missing.
        name: of the file; ``{:.16}`` in it stands for the first 16 digits of the SHA-256.
        tensors: what to write, on the CPU; no two may share memory.
        metadata: text for the header; give one entry at most, because the order of several
            changes from run to run.

    Raises:
        OSError: the file could not be written.
    """
    from safetensors.torch import save

    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(folder / name.format(digest), content)
    return digest


def read_tensors(path: Path, digest: str, most: int = MOST_TENSORS) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote.

    Args:
        path: the file.
        digest: its SHA-256, or the first digits of it.
        most: bytes that it may have.

    Raises:
        DamagedFileError: the file is missing, or its digest is another.
        OSError: the file cannot be read, is no regular file, or is larger.
    """
    content = read_checked(path, digest, most)
    try:
        return parse_tensors(content)
    except ValueError as error:
        raise DamagedFileError(path, f"is not a safetensors file ({error})") from error


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors in the content of a safetensors file.

    Raises:
        ValueError: it is none, or holds a tensor of a type that torch does not have.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except KeyError as error:
        raise ValueError(f"it has tensors of type {error}, which torch does not have") from error
    except (SafetensorError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


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


def parse_json(content: str | bytes) -> Any:
    """Return what JSON text holds; refuse NaN and infinities, which are not of JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


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


class ArtifactNames(NamedTuple):
    """What the two files of an artifact are called.

    Attributes:
        facts: the JSON file.
        tensors: the safetensors file, with ``{:.16}`` for the first 16 digits of its SHA-256.
        field: the entry of the JSON file that names the other file; its SHA-256 stands in
            ``<field>_sha256``.
    """

    facts: str
    tensors: str
    field: str


def write_artifact(
    folder: Path, names: ArtifactNames, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> str:
    """Write facts as JSON beside tensors, and return the name of the file of tensors.

    The file of tensors is written first and is named by its digest, so that a kill at any time
    leaves a whole artifact, the old one or the new one.

    Args:
        folder: where to; created if it is missing. Other files in it are left alone.
        names: what the files are called.
        facts: a JSON object.
        tensors: see :func:`write_tensors`.

    Raises:
        OSError: a file could not be written.
    """
    remove_temporary_files(folder, seconds=SHARED_SECONDS)
    digest = write_tensors(folder, names.tensors, tensors)
    name = names.tensors.format(digest)
    write_json(folder / names.facts, {**facts, names.field: name, f"{names.field}_sha256": digest})
    return name


def read_artifact(
    folder: Path,
    names: ArtifactNames,
    parse: Callable[[dict[str, Any]], T],
    most: int = MOST_TENSORS,
) -> tuple[T, dict[str, Tensor]] | None:
    """Read what :func:`write_artifact` wrote; None where there is nothing.

    Args:
        folder: where it is.
        names: what the files are called.
        parse: reads the facts, before the tensors are read. A UserError or DamagedFileError that
            it raises is passed on; any other error of missing or wrong entries is damage.
        most: bytes that the file of tensors may have.

    Raises:
        DamagedFileError: a file is missing, torn or changed.
        OSError: a file cannot be read.
    """
    path = folder / names.facts
    try:
        facts = parse_json(read_file(path, MOST_JSON))
        parsed = parse(facts)
        digest = facts[f"{names.field}_sha256"]
        if facts[names.field] != names.tensors.format(digest):
            raise DamagedFileError(path, "names another file of tensors")
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(path, f"is not what was written ({error})") from error
    return parsed, read_tensors(folder / facts[names.field], digest, most)


def check_type(value: Any, kind: type, what: str) -> None:
    """Check that a value read from JSON or TOML has a type.

    Args:
        value: what was read.
        kind: the type; ``float`` also takes a whole number, ``object`` anything, and true and
            false are of type ``bool`` alone.
        what: what the value is called in the message.

    Raises:
        UserError: it has another type, or is a whole number that no int64 can hold.
    """
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    wrong_bool = isinstance(value, bool) and kind not in (bool, object)
    if wrong_bool or not isinstance(value, accepted):
        raise UserError(f"{what} is {brief(value)}; it must be {_TYPE_NAMES[kind]}")
    if kind in (int, float) and isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise UserError(f"{what} is {brief(value)}; it must be between -2^63 and 2^63")


def read_object(data: Any, what: str, fields: Mapping[str, type]) -> dict[str, Any]:
    """Check a JSON object against its fields and return a copy of it.

    Args:
        data: what was read.
        what: what the object is called in an error message.
        fields: name -> type of every field; a ``float`` field also takes a whole number,
            an ``object`` field anything.

    Raises:
        UserError: ``data`` is no object, a field is unknown or missing, or has the wrong type.
    """
    if not isinstance(data, dict):
        raise UserError(f"{what} must be an object, not {type(data).__name__}")
    for name in data:
        if name not in fields:
            raise UserError(f"{what} has an unknown field {brief(name)}; remove it")
    for name, kind in fields.items():
        if name not in data:
            raise UserError(f"{what} has no field {name!r}; add it")
        check_type(data[name], kind, f"field {name!r} of {what}")
        if kind is float and not math.isfinite(data[name]):
            raise UserError(f"field {name!r} of {what} is {data[name]}; it must be finite")
    return {name: float(data[name]) if fields[name] is float else data[name] for name in fields}


def canonical_digest(data: Any) -> str:
    """Return the SHA-256 of the canonical JSON text: sorted keys, no blanks, ASCII."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_header(fields: dict[str, Any], kind: str, schema: int) -> None:
    """Raise UserError unless the file says that it is a ``kind`` of version ``schema``."""
    if fields["kind"] != kind:
        raise UserError(f"the file holds a {fields['kind']!r}; give a file with a {kind}")
    if fields["schema_version"] != schema:
        raise UserError(
            f"the {kind} has schema_version {fields['schema_version']}, this version reads "
            f"{schema}; install the gp-prune that wrote it"
        )


def check_digest(found: str, written: str, what: str) -> None:
    """Raise UserError unless the digest that a file carries fits its content."""
    if found != written:
        raise UserError(f"the {what} does not fit its digest; it was changed or damaged")


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
