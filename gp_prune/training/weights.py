"""Read weights from files that anybody may have made, and put them into a network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.base.artifacts import parse_tensors
from gp_prune.base.files import check_regular, read_file
from gp_prune.errors import UserError
from gp_prune.pruning.modules import masked_parameters
from gp_prune.training.checkpoint import count_bytes

BYTES = 16
"""Bytes for each number of a network: of the largest type, and as many for a mask."""

REAL = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
"""Types of real numbers with which networks compute."""

_CHECKPOINT = 3
"""How many times the bytes of a network a checkpoint with optimiser and averages may have."""
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Entries of a checkpoint under which the state dict is looked for."""
_DEEPEST = 4
"""Entries within entries that are looked into; a hostile file may hold itself."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and modules around a network put before the names."""
_COUNTER = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | Path) -> str:
    """Put the state dict in a file into ``model``; every entry must fit.

    A checkpoint may hold the state dict in an entry, and its names may have a prefix; as in torch,
    the counters of batch norms may be absent.

    Args:
        model: the network, changed in place.
        path: a ``.safetensors`` file, or a file of ``torch.save`` that holds plain tensors alone.

    Returns:
        What was found in the file and left out of the names, for a person to read; often empty.

    Raises:
        UserError: the file cannot be read, holds something else, or is of another network.
    """
    state, entry = _read_state(Path(path), count_bytes(model, BYTES))
    current = model.state_dict()
    state, prefix = _strip_prefix(state, set(current))
    for name, value in current.items():
        if name.rpartition(".")[2] == _COUNTER:
            state.setdefault(name, value)
    put_state(model, state, f"weights file {str(path)!r}")
    said = [f"entry {entry!r}" if entry else "", f"without the prefix {prefix!r}" if prefix else ""]
    return " ".join(part for part in said if part)


def _strip_prefix(state: dict[str, Tensor], names: set[str]) -> tuple[dict[str, Tensor], str]:
    """Return a state dict without the prefixes that keep its names from being those wanted."""
    left_out = ""
    while names.isdisjoint(state):
        prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        left_out += prefix
    if not set(state) <= names and any(_PREFIXES[1] in name for name in state):
        plain = {name.replace(_PREFIXES[1], ""): value for name, value in state.items()}
        if not names.isdisjoint(plain):
            return plain, left_out or _PREFIXES[1]
    return state, left_out


def put_state(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict; UserError names the first entry that does not fit.

    Args:
        model: the network, changed in place.
        state: the entries; real ones may be of another real type than the network's.
        what: where they come from, for the message.

    Raises:
        UserError: an entry is missing, unknown, of another shape or kind of number, is not finite,
            or is a mask of other values than 0 and 1.
    """
    current = model.state_dict()
    masks = {
        f"{module}.{name}_mask" if module else f"{name}_mask"
        for module, _, name in masked_parameters(model)
    }
    for name, value in current.items():
        if name not in state:
            raise UserError(f"{what} lacks {name!r}; give the weights of this very network")
        if isinstance(value, Tensor):
            _check_entry(state[name], value, f"{what} has {name!r}", is_mask=name in masks)
    for name in sorted(set(state) - set(current)):
        raise UserError(
            f"{what} has {name!r}, which the network has not; give the weights of this network"
        )
    current.update(state)  # in place, so that the versions of the modules' formats stay with it
    model.load_state_dict(current)


def _check_entry(found: Tensor, wanted: Tensor, has: str, *, is_mask: bool) -> None:
    """Raise UserError unless a tensor can take the place of one of the network."""
    if found.shape != wanted.shape:
        raise UserError(
            f"{has} of shape {tuple(found.shape)}, the network of shape {tuple(wanted.shape)}; "
            "give the weights of this network"
        )
    if found.layout != torch.strided or found.is_quantized or found.is_meta:
        raise UserError(f"{has} as a tensor of a special layout; save plain tensors")
    if found.dtype != wanted.dtype and not {found.dtype, wanted.dtype} <= REAL:
        raise UserError(
            f"{has} of type {found.dtype}, the network of type {wanted.dtype}; give the weights "
            "of this network"
        )
    if is_mask and not bool(((found == 0) | (found == 1)).all()):
        raise UserError(f"{has}, a mask, with values other than 0 and 1; prune the network again")
    if found.is_floating_point() or found.is_complex():
        # A network may hold infinities by design, such as the mask of causal attention.
        wrong = ~found.isfinite() & wanted.to(found.device).isfinite()
        if bool(wrong.any()):
            count = int(wrong.sum())
            raise UserError(
                f"{has} with {count} of {found.numel()} values NaN or infinite; give the weights "
                "of a network that was trained without"
            )


def _read_state(path: Path, most: int) -> tuple[dict[str, Tensor], str]:
    """Return the tensors in a file of bounded size, by name, and the entry that held them."""
    file = f"weights file {str(path)!r}"
    try:
        if path.suffix == ".safetensors":
            content: Any = parse_tensors(read_file(path, most))
        else:
            _check_size(path, _CHECKPOINT * most)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{file} cannot be read: {reason}") from error
    except Exception as error:  # each reader has its own kinds for a damaged file
        raise UserError(
            f"{file} is damaged or holds more than tensors; save model.state_dict() as safetensors"
        ) from error
    entries: list[str] = []
    while isinstance(content, dict) and not _is_state(content) and len(entries) < _DEEPEST:
        key = next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if key is None:
            break
        entries.append(key)
        content = content[key]
    if not isinstance(content, dict) or not _is_state(content):
        raise UserError(
            f"{file} holds no state dict, neither by itself nor as {', '.join(_WRAPPERS)}; save "
            "model.state_dict()"
        )
    return dict(content), ".".join(entries)


def _is_state(content: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _check_size(path: Path, most: int) -> None:
    """Raise OSError unless a file of torch.save is regular and, unpacked, of bounded size."""
    check_regular(path)
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > most:
        bound = f"{most / 2**20:,.0f} MB"
        raise OSError(0, f"it has more than the {bound} that the weights of this network may take")
