"""Check that a network can be pruned and trained: a plain module with its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gp_prune.errors import UserError, first_line
from gp_prune.pruning.modules import unwrapping
from gp_prune.statistics.copying import copy_modules
from gp_prune.statistics.running import is_scripted, masked_values
from gp_prune.training.checkpoint import named_tensors


def check_model(
    model: Any, name: str = "the network", *, lazy: bool = False, copied: bool = True
) -> None:
    """Raise UserError unless a network is a module of torch that has its weights and can be copied.

    Args:
        model: what a person gives.
        name: what it is called in the message.
        lazy: whether modules that get their weights in the first call are allowed.
        copied: whether it is tried to copy the network.
    """
    if not isinstance(model, nn.Module):
        said = (
            f"the text {model!r}"
            if isinstance(model, str)
            else f"a value of type {type(model).__name__}"
        )
        if isinstance(model, type) and issubclass(model, nn.Module):
            said = f"the class {model.__name__}"
        raise UserError(
            f"the model is {said}; give a torch.nn.Module, such as torchvision.models.resnet18()"
        )
    if is_scripted(model):
        raise UserError(
            f"{name} is a TorchScript module, whose layers cannot be changed; give the "
            "torch.nn.Module that it was made from"
        )
    if next(model.parameters(), None) is None:
        raise UserError(f"{name} has no parameters, so there is nothing to prune")
    for path, tensor in named_tensors(model):
        if is_lazy(tensor):
            if lazy:
                return
            raise UserError(
                f"{name} has no weights yet: {path!r} of a lazy module gets its shape in the first "
                "call; call the model once with an example input"
            )
        if tensor.is_meta:
            raise UserError(
                f"{name} has no weights: {path!r} is on the meta device, with a shape and without "
                "values; make the model on a real device, or load weights into it "
                "(load_state_dict with assign=True)"
            )
    if copied:
        _check_copy(model, name)


def _check_copy(model: nn.Module, name: str) -> None:
    """Raise UserError unless ``copy.deepcopy`` copies a network; its tensors are left out."""
    masked = masked_values(model)  # which copy_model copies
    tensors = (*model.parameters(), *model.buffers(), *masked)
    try:
        copy_modules(model, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # whatever a part of the network raises when it is copied
        reason = first_line(error)
        reason = reason.split(". ")[0]
        for path, module in model.named_modules():
            if hasattr(module, "weight_g"):
                raise UserError(
                    f"{name} cannot be copied: the weight of {path!r} is computed from other "
                    f"parameters{unwrapping(module)}"
                ) from error
        where = next((f" (in {path!r})" for path, part in _parts(model) if not _copies(part)), "")
        raise UserError(
            f"{name} cannot be copied{where}: {type(error).__name__}: {reason}; keep what "
            "copy.deepcopy cannot copy out of the modules"
        ) from error


def _parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if not attribute.startswith("_"):
                yield f"{path}.{attribute}".lstrip("."), value


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
