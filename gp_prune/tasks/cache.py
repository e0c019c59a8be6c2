"""A cache of trained networks on disk, addressed by everything that decides their weights.

An entry is a folder with ``meta.json`` and one safetensors file that is named by its own digest.
The weights are written before the meta file that names them, each in one step, so processes that
train the same task at the same time both leave a whole entry. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gp_prune._io import write_bytes, write_json
from gp_prune.errors import UserError

_META = "meta.json"


class CacheWarning(UserWarning):
    """A cache entry was damaged and is made again."""


class DamagedEntryError(Exception):
    """An entry is there but is not what was written; the message names the file and the fault."""


class Entry(NamedTuple):
    """A trained network as the cache holds it.

    Attributes:
        weights: state dict of the network, on the CPU.
        dense_error: validation error of the network.
    """

    weights: dict[str, Tensor]
    dense_error: float


def key(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object that says all that decides the weights."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: Path, identity: Mapping[str, Any]) -> Entry | None:
    """The entry in ``folder``, or None if there is none.

    Args:
        folder: folder of the entry.
        identity: what the entry must have been made from.

    Raises:
        DamagedEntryError: a file is torn, changed or made from something else.
        UserError: the folder may not be read.
    """
    meta_path = folder / _META
    try:
        text = meta_path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        meta = json.loads(text)
        name, digest = meta["weights"], meta["weights_sha256"]
        dense_error = float(meta["dense_error"])
        same = meta["identity"] == dict(identity) and name == _weights_name(digest)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedEntryError(f"{meta_path} is not a valid cache entry ({error})") from error
    if not same:
        raise DamagedEntryError(f"{meta_path} describes another network")
    return Entry(_read_weights(folder / name, digest), dense_error)


def write(folder: Path, identity: Mapping[str, Any], entry: Entry) -> None:
    """Store an entry; what stood in ``folder`` before is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    content = safetensors.torch.save({name: t.contiguous() for name, t in entry.weights.items()})
    digest = hashlib.sha256(content).hexdigest()
    name = _weights_name(digest)
    meta = {
        "identity": dict(identity),
        "weights": name,
        "weights_sha256": digest,
        "dense_error": entry.dense_error,
    }
    try:
        write_bytes(folder / name, content)
        write_json(folder / _META, meta)
    except OSError as error:
        raise _unusable(folder, error) from error


def _weights_name(digest: str) -> str:
    return f"weights-{digest[:16]}.safetensors"


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose SHA-256 must be ``digest``."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedEntryError(f"{path} is missing") from error
    except OSError as error:
        raise _unusable(path.parent, error) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedEntryError(f"{path} is not what was written (its SHA-256 differs)")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise DamagedEntryError(f"{path} is not a safetensors file ({error})") from error


def _unusable(folder: Path, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    return UserError(
        f"the task cache {folder} cannot be used ({reason}); choose a writable folder with "
        "--cache-dir (cache_dir)"
    )
