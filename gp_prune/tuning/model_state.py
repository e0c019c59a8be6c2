"""All numbers of a network and of its optimiser, to keep and to put back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gp_prune.tuning.settings import FineTuning


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer once, also the buffers that a state dict leaves out."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def copied_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each of them."""
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model)}


def put_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy them into the network, in place."""
    with torch.no_grad():
        for name, tensor in named_tensors(model):
            tensor.copy_(tensors[name])


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name starts so, without the prefix."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def make_optimiser(parameters: list[nn.Parameter], settings: FineTuning) -> torch.optim.Optimizer:
    """The optimiser that ``settings`` name, at its highest learning rate."""
    decay = settings.weight_decay
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=decay)
    return torch.optim.SGD(
        parameters,
        lr=settings.rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=decay,
    )


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers: momenta, and how many steps it has made."""
    return {
        f"{index}.{key}": value
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def put_optimiser_tensors(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Let a new optimiser remember what :func:`optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
