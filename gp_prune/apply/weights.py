"""Reading weights from files, and the state of a network as tensors that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from gp_prune.errors import UserError


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Put the state dict in a file into ``model``; every entry must fit.

    Args:
        model: the network, changed in place.
        path: a ``.safetensors`` file, or a file of ``torch.save`` that holds plain tensors alone.

    Raises:
        UserError: the file cannot be read, holds something else, or is of another network.
    """
    put_state(model, _read(Path(path)), f"weights file {str(path)!r}")


def put_state(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """``load_state_dict`` that names the first entry that does not fit.

    Raises:
        UserError: an entry is missing, unknown or of another shape.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in state:
            raise UserError(f"{what} lacks {name!r}; give the weights of this very network")
        if state[name].shape != value.shape:
            raise UserError(
                f"{what} has {name!r} of shape {tuple(state[name].shape)}, the network of shape "
                f"{tuple(value.shape)}; give the weights of this network"
            )
    for name in sorted(set(state) - set(own)):
        raise UserError(
            f"{what} has {name!r}, which the network has not; give the weights of this network"
        )
    own.update(state)  # in place, so that the versions of the modules' formats stay with it
    model.load_state_dict(own)


def plain_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of a network as contiguous CPU tensors, and which entries are the same tensor.

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
                f"the state {name!r} of the network is a {type(value).__name__}; only tensors can "
                "be saved"
            )
        place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        # A copy, because entries that share memory only in part cannot stand in one file.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, aliases


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name."""
    try:
        content = (
            safetensors.torch.load(path.read_bytes())
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"weights file {str(path)!r} cannot be read: {reason}") from error
    except Exception as error:  # each reader has its own kinds for a damaged file
        raise UserError(
            f"weights file {str(path)!r} is damaged or holds more than tensors; save "
            "model.state_dict() as safetensors"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"weights file {str(path)!r} is no state dict; save model.state_dict() by itself"
        )
    return content
