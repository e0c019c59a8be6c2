"""Pairs as files of the run folder, named by their content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from gp_prune.errors import UserError
from gp_prune.files import write_bytes
from gp_prune.guided.autoencode.networks import SIDES, Half, Pair

FOLDER = "states"
_PARTS = ("weights", "mask", "first", "second")
_LENGTH = 32


def write_pair(folder: Path, pair: Pair) -> str:
    """Write a pair as one step; gives the digest by which it is read.

    Args:
        folder: the folder of the states.
        pair: what is written, with masks and the state of Adam.
    """
    tensors = {
        f"{side}.{part}": getattr(half, part).detach().cpu()
        for side, half in zip(SIDES, pair, strict=True)
        for part in _PARTS
    }
    for side in SIDES:
        tensors[f"{side}.mask"] = tensors[f"{side}.mask"].bool()
    facts = {
        side: {"widths": list(half.widths), "steps": half.steps, "events": half.events}
        for side, half in zip(SIDES, pair, strict=True)
    }
    # One entry alone: safetensors writes several in an order that changes from run to run.
    content = save(tensors, {"pair": json.dumps(facts, sort_keys=True)})
    digest = hashlib.sha256(content).hexdigest()[:_LENGTH]
    write_bytes(place(folder, digest), content)
    return digest


def read_pair(folder: Path, digest: str, device: str) -> Pair:
    """Read a pair.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = place(folder, digest)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:_LENGTH] != digest:
            raise ValueError("its content is not what was written")
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["pair"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"state {str(path)!r} cannot be read: {reason}; restore it or start a new run"
        ) from None
    halves = []
    for side in SIDES:
        weights, mask, first, second = (
            tensors[f"{side}.{part}"].to(device, torch.float32) for part in _PARTS
        )
        known = facts[side]
        halves.append(
            Half(
                tuple(known["widths"]), weights, mask, first, second,
                known["steps"], known["events"],
            )
        )  # fmt: skip
    return Pair(*halves)


def sweep(folder: Path) -> None:
    """Delete what a kill left of files that were being written.

    Args:
        folder: a folder that no other run writes to.
    """
    for path in folder.glob(".*.????????"):
        if path.is_file():
            path.unlink(missing_ok=True)


def place(folder: Path, digest: str) -> Path:
    """The file of a pair."""
    return folder / f"{digest}.safetensors"
