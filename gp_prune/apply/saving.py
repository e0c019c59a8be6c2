"""Pruned networks on disk: a plan to replay and the weights that remain; nothing is pickled.

A folder holds ``plan.json`` (what to remove, and the digests of the other files),
``architecture.json`` (where the channels are), ``weights.safetensors`` and ``report.json``.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.apply.lineage import Cut, remember_cut
from gp_prune.apply.options import MODES
from gp_prune.apply.result import PrunedModel
from gp_prune.base.artifacts import read_tensors, write_tensors
from gp_prune.base.files import (
    SHARED_SECONDS,
    DamagedFileError,
    check_regular,
    read_checked,
    read_file,
    write_bytes,
)
from gp_prune.base.json_fields import check_type, parse_json, read_object, write_json
from gp_prune.errors import UserError, brief, unusable_folder
from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan, compact, mask
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.architecture import OUT
from gp_prune.pruning.modules import Prunable, masked_parameters, renew_masked
from gp_prune.pruning.surgery import side_width
from gp_prune.statistics.running import copy_model
from gp_prune.training.checkpoint import count_bytes, named_tensors
from gp_prune.training.network import check_model
from gp_prune.training.weights import BYTES, REAL, put_state

KIND = "pruned model"
PLAN, ARCHITECTURE, WEIGHTS, REPORT = (
    "plan.json", "architecture.json", "weights.safetensors", "report.json",
)  # fmt: skip
FILES = frozenset({PLAN, ARCHITECTURE, WEIGHTS, REPORT})
_SCHEMA = 1
_FIELDS = {
    "schema_version": int, "kind": str, "model": str, "metric": str, "metric_digest": str,
    "mode": str, "interface": list, "input_shapes": list, "plan": dict, "shared": dict,
    "architecture_sha256": str, "weights_sha256": str,
}  # fmt: skip


def save_pruned(pruned: PrunedModel, folder: str | Path, *, model: str = "") -> None:
    """Write a pruned network into ``folder``, as one step; an earlier output is replaced.

    Args:
        pruned: what :func:`gp_prune.prune` returned; its network may have been trained since. Of
            one that had been pruned before, both cuts are written as one of the first network.
        folder: new, empty, or written by this function before.
        model: how the original network is called, for whoever reads the files.

    Raises:
        UserError: the folder holds something else or cannot be written, or the network has a
            state that is not made of tensors.
    """
    if not isinstance(pruned, PrunedModel):
        raise UserError(
            f"save_pruned() was given a value of type {type(pruned).__name__}; give what "
            "gp_prune.prune() returned, then the folder"
        )
    target = check_folder(folder)
    tensors, shared = _plain_state(pruned.model)
    what_goes, architecture = pruned.from_first or (pruned.plan, pruned.architecture)
    layout = json.dumps(architecture.to_json(), separators=(",", ":")).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_drafts(target)
        draft = _new_draft(target)
        try:
            digest = write_tensors(draft, WEIGHTS, tensors)
            write_bytes(draft / ARCHITECTURE, layout)
            write_json(draft / REPORT, pruned.report(model=model))
            plan = {
                "schema_version": _SCHEMA,
                "kind": KIND,
                "model": model,
                "metric": pruned.metric,
                "metric_digest": pruned.metric_digest,
                "mode": pruned.mode,
                "interface": list(pruned.interface),
                "input_shapes": [list(shape) for shape in pruned.input_shapes],
                "plan": what_goes.to_json(),
                "shared": shared,
                "architecture_sha256": hashlib.sha256(layout).hexdigest(),
                "weights_sha256": digest,
            }
            write_json(draft / PLAN, plan)
            _replace(target, draft)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise _unusable(target, error) from error


def check_folder(folder: str | Path, *, replace: bool = True) -> Path:
    """Return the folder to write into, with links followed.

    Args:
        folder: what a person named.
        replace: whether an earlier output in it may go.

    Raises:
        UserError: it holds something that :func:`save_pruned` did not write, or an output that is
            not to be replaced, or is no folder.
    """
    target = Path(folder).expanduser().resolve()
    try:
        if not target.exists():
            return target
        if not target.is_dir():
            raise UserError(f"output {str(folder)!r} is a file; name a new folder")
        names = {entry.name for entry in target.iterdir()}
        if names and (names - FILES or PLAN not in names or not _is_ours(target / PLAN)):
            odd = min(names - FILES, default=PLAN)
            raise UserError(
                f"output folder {str(folder)!r} holds {odd!r}, which is not of a pruned network; "
                "name a new folder"
            )
        if names and not replace:
            raise UserError(
                f"output folder {str(folder)!r} holds an earlier pruned network; replace it with "
                "--force, or name a new folder"
            )
    except OSError as error:
        raise _unusable(target, error) from error
    return target


def load_pruned(folder: str | Path, model: nn.Module) -> nn.Module:
    """Return the pruned network in ``folder``, made from the original one by replay.

    Args:
        folder: what :func:`save_pruned` wrote.
        model: a network of the same build as the original, with any weights; it is not changed.

    Returns:
        A pruned copy with the saved weights, in the training mode of ``model``. Its outputs equal
        those of the saved network bit for bit.

    Raises:
        UserError: the folder is missing, incomplete or damaged, or is of another network.
    """
    path = Path(folder).expanduser()
    check_model(model)
    opened = open_attention(model)
    with _say_what_is_damaged(path):
        # A bit of a mask for each weight, as text; and no weight has more than one entry in a slot.
        fields = read_object(_json(path / PLAN, count_bytes(model, 1)), str(path / PLAN), _FIELDS)
        if fields["kind"] != KIND:
            raise UserError(f"{str(path)!r} holds a {fields['kind']!r}, not a {KIND}")
        if fields["schema_version"] != _SCHEMA:
            raise UserError(
                f"{str(path)!r} has schema version {fields['schema_version']}, this gp-prune reads "
                f"{_SCHEMA}; use the version that wrote it"
            )
        plan, mode = _plan(fields["plan"], opened), fields["mode"]
        if mode not in MODES or (mode == "compact" and isinstance(plan, WeightPlan)):
            raise UserError(
                f"{str(path / PLAN)!r} has mode {brief(mode)}, which its plan cannot have"
            )
        _check_lists(fields)
        # A digest that was cut short must not match by its first digits.
        layout, weights = (
            fields[f"{name}_sha256"].ljust(64) for name in ("architecture", "weights")
        )
        architecture = Architecture.from_json(
            _json(path / ARCHITECTURE, count_bytes(model, 8), layout)
        )
        state = read_tensors(path / WEIGHTS, weights, count_bytes(model, BYTES))
    for alias, name in fields["shared"].items():
        check_type(name, str, f"what {brief(alias)} is shared with in {PLAN}")
        if name not in state:
            raise UserError(
                f"{PLAN} says that {brief(alias)} is {brief(name)}, which {WEIGHTS} has not"
            )
        state[alias] = state[name]
    return _replay(opened, plan, architecture, mode, state, str(path))


def _check_lists(fields: dict[str, Any]) -> None:
    """Check the entries of the lists in a plan file."""
    for name in fields["interface"]:
        check_type(name, str, f"an entry of 'interface' in {PLAN}")
    for shape in fields["input_shapes"]:
        check_type(shape, list, f"an entry of 'input_shapes' in {PLAN}")
        for size in shape:
            check_type(size, int, f"a size of 'input_shapes' in {PLAN}")
            if size < 0:
                raise UserError(
                    f"a size of 'input_shapes' in {PLAN} is {size}; it must be 0 or more"
                )


def _replay(
    opened: nn.Module,
    plan: ChannelPlan | WeightPlan,
    architecture: Architecture,
    mode: str,
    state: dict[str, Tensor],
    origin: str,
) -> nn.Module:
    _check_widths(opened, architecture, origin)
    try:
        if mode == "compact":
            assert isinstance(plan, ChannelPlan)
            pruned = compact(opened, plan, architecture)
        else:
            pruned = copy_model(opened)
            mask(pruned, plan, architecture)
    except (RuntimeError, IndexError, AttributeError, TypeError) as error:
        # The architecture is whole in itself but ties together what this network does not.
        raise UserError(
            f"the cut in {origin!r} cannot be made in this network ({type(error).__name__}); give "
            "the network that was pruned"
        ) from error
    _check_masks(pruned, state, origin)
    _check_types(pruned, state, origin)
    _keep_types(pruned, state)
    put_state(pruned, state, f"the pruned network in {origin!r}")
    if mode == "compact" and isinstance(plan, ChannelPlan):
        remember_cut(pruned, Cut(architecture, plan.removed))
    renew_masked(pruned)  # a masked layer makes the weight that it computes with when it runs
    return pruned


def _check_widths(model: nn.Module, architecture: Architecture, origin: str) -> None:
    """Raise UserError unless the layers of a network have the outputs that were traced."""
    modules = dict(model.named_modules())
    for group in architecture.groups:
        for slot in group.slots:
            module = modules.get(slot.module)
            if slot.side != OUT or not isinstance(module, Prunable):
                continue
            width, traced = side_width(module, OUT), len(slot.channels)
            if width != traced:
                raise UserError(
                    f"the network in {origin!r} was pruned from one whose layer {slot.module!r} "
                    f"has {traced} outputs, and that of the network given has {width}; give the "
                    "network that it was pruned from, which may have been pruned before (what "
                    "load_pruned returns for the folder of that cut)"
                )


def _check_types(pruned: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Raise UserError unless the real numbers of each layer are of one type that computes."""
    first: dict[tuple[str, torch.dtype], tuple[str, torch.dtype]] = {}
    for name, value in pruned.state_dict().items():
        saved = state.get(name)
        if saved is None or not saved.is_floating_point() or not value.is_floating_point():
            continue  # put_state says so
        if saved.dtype not in REAL:
            raise UserError(
                f"the pruned network in {origin!r} has {name!r} of type {saved.dtype}, with which "
                "networks do not compute; prune the network again"
            )
        key = name.rpartition(".")[0], value.dtype
        other, dtype = first.setdefault(key, (name, saved.dtype))
        if dtype != saved.dtype:
            raise UserError(
                f"the pruned network in {origin!r} has {other!r} of type {dtype} and {name!r} of "
                f"type {saved.dtype} in one layer; prune the network again"
            )


def _keep_types(pruned: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the parameters and buffers of a network the real types that were saved."""
    real = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(real) == 1:
        pruned.to(real.pop())  # what is not saved, such as buffers that are computed, follows
        return
    for name, tensor in named_tensors(pruned):
        saved = state.get(name)
        if saved is not None and saved.is_floating_point() and tensor.is_floating_point():
            tensor.data = tensor.data.to(saved.dtype)


def _check_masks(pruned: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Raise UserError where a saved mask is not that of the plan."""
    for path, module, name in masked_parameters(pruned):
        key = f"{path}.{name}_mask" if path else f"{name}_mask"
        saved, planned = state.get(key), getattr(module, f"{name}_mask")
        if saved is None or saved.shape != planned.shape:
            continue  # put_state says so
        if not bool((saved == planned.to(saved)).all()):
            raise UserError(
                f"the mask {key!r} in {origin!r} is not that of its plan; prune the network again"
            )


def _plain_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state of a network as contiguous CPU tensors, and the entries that are the same.

    Returns:
        (entries by name, alias -> name of the entry that it is the same as).

    Raises:
        UserError: the network keeps a state that is not made of tensors.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"the state {name!r} of the network is of type {type(value).__name__}; only "
                "tensors can be saved"
            )
        memory = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and memory in first:
            aliases[name] = first[memory]
            continue
        first[memory] = name
        # A copy, because entries that share memory only in part cannot stand in one file.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases


def _new_draft(target: Path) -> Path:
    """Make a hidden folder beside ``target``; the umask says who may read it."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    draft.mkdir()
    return draft


def _remove_drafts(target: Path) -> None:
    """Delete what a kill left of earlier writes of ``target``.

    Where ``target`` is missing, a whole network among that may be the only one; it is kept.
    """
    before = time.time() - SHARED_SECONDS
    for draft in target.parent.glob(f".{glob.escape(target.name)}.????????"):
        if draft.is_symlink() or not draft.is_dir() or draft.stat().st_mtime > before:
            continue
        names = {path.name for path in draft.iterdir() if path.name[0] != "."}
        if names <= FILES and (target.exists() or PLAN not in names):
            shutil.rmtree(draft, ignore_errors=True)


def _replace(target: Path, draft: Path) -> None:
    """Put ``draft`` in the place of ``target``; if that fails the old folder is there again."""
    if not target.exists():
        os.replace(draft, target)
        return
    old = _new_draft(target)
    os.replace(target, old)
    try:
        os.replace(draft, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """Return whether a file says that it is the plan of a pruned network."""
    check_regular(path)
    with path.open("rb") as file:
        # It is among the first fields of a file that may be large.
        return f'"kind": "{KIND}"'.encode() in file.read(4096)


@contextmanager
def _say_what_is_damaged(folder: Path) -> Iterator[None]:
    """Turn the errors of reading into one sentence with a remedy."""
    try:
        yield
    except DamagedFileError as error:
        raise UserError(f"{error}; prune the network again") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{error.filename or str(folder)!r} cannot be read ({reason}); give a folder that "
            "'gp-prune apply --out' or save_pruned wrote"
        ) from error


def _json(path: Path, most: int, digest: str | None = None) -> Any:
    """Return the content of a JSON file of at most ``most`` bytes and, if given, a SHA-256."""
    content = read_file(path, most) if digest is None else read_checked(path, digest, most)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is not valid JSON, so it is damaged; prune the network again"
        ) from error


def _plan(data: dict[str, Any], model: nn.Module) -> ChannelPlan | WeightPlan:
    if data.get("kind") == "weight plan":
        return WeightPlan.from_json(data, model)
    return ChannelPlan.from_json(data)


def _unusable(folder: Path, error: OSError) -> UserError:
    return unusable_folder("the output folder", folder, error, "name another folder")
