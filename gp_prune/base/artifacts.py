"""Write tensors with their digest, alone or beside facts in JSON; nothing is pickled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gp_prune.base.files import (
    MOST_JSON,
    SHARED_SECONDS,
    DamagedFileError,
    read_checked,
    read_file,
    remove_temporary_files,
    write_bytes,
)
from gp_prune.base.json_fields import parse_json, write_json
from gp_prune.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

MOST_TENSORS = 64 * 2**30
"""Bytes of the largest file of tensors where it is not known what they belong to."""


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
