"""Keep a fine-tuning on disk, to resume it as if it had never stopped; nothing is pickled.

A folder holds ``fine-tuning.json`` (settings, course, the digest of the other file) and one
safetensors file that is named by its digest. It is written before the JSON file that names it and
the one before it is removed last, each in one step, so a kill leaves a whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gp_prune.base.artifacts import ArtifactNames, read_artifact, write_artifact
from gp_prune.base.files import MOST_JSON, DamagedFileError, read_file
from gp_prune.errors import UserError, unusable_folder
from gp_prune.training.settings import FineTuning, History


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer once, also the buffers that a state dict leaves out."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def copy_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model)}


def put_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of that name, in place."""
    with torch.no_grad():
        for name, tensor in named_tensors(model):
            tensor.copy_(tensors[name])


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with ``prefix``, named without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def make_optimiser(parameters: list[nn.Parameter], settings: FineTuning) -> torch.optim.Optimizer:
    """Return the optimiser of ``settings``, at its highest learning rate."""
    rate, decay = settings.rate, settings.weight_decay
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    momentum, nesterov = settings.momentum, settings.nesterov
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov)


def count_bytes(model: nn.Module, per_number: int) -> int:
    """Return the bytes that a file about a network may have, with room for what is said beside.

    Args:
        model: the network.
        per_number: bytes for each number in it.
    """
    return MOST_JSON + per_number * sum(tensor.numel() for _, tensor in named_tensors(model))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser: momenta and number of steps."""
    return {
        f"{index}.{key}": value
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def put_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give a new optimiser the state that :func:`optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


STATE = "fine-tuning.json"
_NAMES = ArtifactNames(STATE, "fine-tuning-{:.16}.safetensors", "tensors")
_TENSORS = "fine-tuning-*.safetensors"
_KIND = "fine-tuning checkpoint"
_SCHEMA = 1
_PARTS = ("now.", "best.", "average.", "optimiser.")
_OPTIMISER = frozenset({"momentum_buffer", "step", "exp_avg", "exp_avg_sq"})
_BYTES = 48
"""Bytes for each number of a network: six states of eight bytes."""


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged; fine-tuning starts from the beginning."""


class Resumable(Protocol):
    """What a checkpoint is put into.

    Attributes:
        model: the network.
        parameters: those that are trained.
        settings: how they are trained.
    """

    model: nn.Module
    parameters: list[nn.Parameter]
    settings: FineTuning


class Snapshot(NamedTuple):
    """A fine-tuning after an epoch.

    Attributes:
        history: its course so far.
        tensors: all that it needs to resume, on the CPU.
    """

    history: History
    tensors: dict[str, Tensor]


def write(folder: Path, identity: Mapping[str, Any], snapshot: Snapshot) -> None:
    """Store a snapshot; the one before it is replaced.

    Args:
        folder: where to; created if it is missing. Other files in it are left alone.
        identity: what the fine-tuning is decided by, as JSON objects.
        snapshot: its state.

    Raises:
        UserError: the folder cannot be written; the snapshot before it is still there.
    """
    facts = {
        "schema_version": _SCHEMA,
        "kind": _KIND,
        "identity": dict(identity),
        "history": snapshot.history.to_json(),
    }
    try:
        write_artifact(folder, _NAMES, facts, snapshot.tensors)
        _remove_unnamed(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove_unnamed(folder)
        raise _unusable(folder, error) from error


def read(folder: Path, identity: Mapping[str, Any], run: Resumable) -> Snapshot | None:
    """Return the snapshot in ``folder``; None if there is none, or none that is whole.

    Args:
        folder: where it is.
        identity: what the fine-tuning is decided by, as JSON objects.
        run: what is resumed, with which the tensors are compared.

    Raises:
        UserError: it is of another fine-tuning, of another version, or may not be read.

    Warns:
        CheckpointWarning: it is damaged.
    """

    def parse(facts: dict[str, Any]) -> History:
        kind, schema, stored = facts["kind"], facts["schema_version"], dict(facts["identity"])
        if kind != _KIND or schema != _SCHEMA:
            raise UserError(
                f"{str(folder / STATE)!r} is a {kind!r} of version {schema}, not a {_KIND} of "
                f"version {_SCHEMA}; name another folder"
            )
        _compare(folder, stored, identity)
        try:
            return History.from_json(facts["history"])
        except UserError as error:
            raise DamagedFileError(folder / STATE, f"is not what was written: {error}") from error

    try:
        artifact = read_artifact(folder, _NAMES, parse, count_bytes(run.model, _BYTES))
        fault = artifact and _find_fault(artifact[1], run)
        if fault:
            raise DamagedFileError(folder / STATE, fault)
    except DamagedFileError as damage:
        warnings.warn(
            f"the checkpoint {str(damage.path)!r} is damaged; fine-tuning starts from the "
            "beginning",
            CheckpointWarning,
            stacklevel=3,
        )
        return None
    except OSError as error:
        raise _unusable(folder, error) from error
    return artifact and Snapshot(*artifact)


def _find_fault(tensors: dict[str, Tensor], run: Resumable) -> str:
    """Return what does not fit the network and its optimiser; empty where all does."""
    parts = {part: with_prefix(tensors, part) for part in _PARTS}
    if sum(map(len, parts.values())) < len(tensors):
        return "has tensors that are of no part of a fine-tuning"
    wanted = dict(named_tensors(run.model))
    needed = ("now.", "average.") if run.settings.averaging else ("now.",)
    for part in ("now.", "best.", "average."):
        found = parts[part]
        if found.keys() != wanted.keys() and (part in needed or found):
            return f"has other tensors under {part!r} than the network"
        for name, tensor in found.items():
            if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
                return f"has a tensor {part + name!r} of another shape or type"
    for name, tensor in parts["optimiser."].items():
        index, _, key = name.partition(".")
        known = key in _OPTIMISER and index.isdecimal() and int(index) < len(run.parameters)
        shape = run.parameters[int(index)].shape if known and key != "step" else ()
        if not known or tensor.shape != shape or not tensor.is_floating_point():
            return f"has a tensor 'optimiser.{name}' that its optimiser cannot have"
    return ""


def check_checkpoint(folder: Path) -> None:
    """Check that a folder is new, empty, or holds a fine-tuning and nothing else.

    Raises:
        UserError: it holds another file, which :func:`write` would leave alone.
    """
    path = folder.expanduser()
    try:
        names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except OSError as error:
        raise _unusable(folder, error) from error
    # Hidden ones are what a kill left of a file that was being written.
    odd = [n for n in names if n != STATE and not fnmatch(n, _TENSORS) and n[0] != "."]
    if odd or (names and STATE not in names):
        raise UserError(
            f"the checkpoint folder {str(folder)!r} holds {(odd or names)[0]!r}, which is not of a "
            "fine-tuning; name a new folder"
        )


def _compare(folder: Path, stored: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError unless a checkpoint is of this fine-tuning."""
    wanted = json.loads(json.dumps(dict(wanted)))
    for name in sorted({*stored, *wanted}):
        there, here = _comparable(stored.get(name)), _comparable(wanted.get(name))
        if there == here:
            continue
        what = f"other {name}"
        if isinstance(there, dict) and isinstance(here, dict):
            odd = next(key for key in sorted({*there, *here}) if there.get(key) != here.get(key))
            what = f"{name}: {odd} is {here.get(odd)}, there it was {there.get(odd)}"
        raise UserError(
            f"the checkpoint in {str(folder)!r} is of another fine-tuning ({what}); use the same "
            "network, data and settings, or another folder"
        )


def _comparable(value: Any) -> Any:
    """Return an entry of an identity without the module of a function of this package.

    The modules have other names in other versions, which must not make a checkpoint unusable.
    """
    if isinstance(value, str) and value.startswith("gp_prune."):
        return value.rsplit(".", 1)[-1]
    return value


def _remove_unnamed(folder: Path) -> None:
    """Remove the files of tensors that the state does not name."""
    state = folder / STATE
    named = read_file(state, MOST_JSON).decode() if state.exists() else ""
    for path in folder.glob(_TENSORS):
        if path.name not in named:
            path.unlink(missing_ok=True)


def _unusable(folder: Path, error: OSError) -> UserError:
    return unusable_folder("the checkpoint folder", folder, error, "name another folder")
