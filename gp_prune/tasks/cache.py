"""Trained networks on disk, addressed by everything that decides their weights.

An entry is a folder with one artifact (see :func:`gp_prune.base.artifacts.write_artifact`), so
processes that train the same task at the same time both leave a whole entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gp_prune.base.artifacts import ArtifactNames, read_artifact, write_artifact
from gp_prune.base.files import DamagedFileError
from gp_prune.errors import UserError, unusable_folder

_NAMES = ArtifactNames("meta.json", "weights-{:.16}.safetensors", "weights")


class CacheWarning(UserWarning):
    """A cache entry was damaged and is written again."""


class Entry(NamedTuple):
    """A trained network as the cache holds it.

    Attributes:
        weights: state dict of the network, on the CPU.
        dense_error: validation error of the network.
    """

    weights: dict[str, Tensor]
    dense_error: float


def read(folder: Path, identity: Mapping[str, Any]) -> Entry | None:
    """Return the entry in ``folder``, or None if there is none.

    Args:
        folder: folder of the entry.
        identity: what the entry must have been made from.

    Raises:
        DamagedFileError: a file is torn, changed or made from something else.
        UserError: the folder may not be read.
    """

    def parse(facts: dict[str, Any]) -> float:
        if facts["identity"] != dict(identity):
            raise DamagedFileError(folder / _NAMES.facts, "describes another network")
        return float(facts["dense_error"])

    try:
        entry = read_artifact(folder, _NAMES, parse)
    except OSError as error:
        raise _unusable(folder, error) from error
    return entry and Entry(entry[1], entry[0])


def write(folder: Path, identity: Mapping[str, Any], entry: Entry) -> None:
    """Store an entry; an earlier one in ``folder`` is replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    facts = {"identity": dict(identity), "dense_error": entry.dense_error}
    try:
        write_artifact(folder, _NAMES, facts, entry.weights)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> UserError:
    return unusable_folder(
        "the task cache", folder, error, "choose a writable folder with --cache-dir (cache_dir)"
    )
