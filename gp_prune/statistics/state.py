"""Leaving a model, and torch's random numbers, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU if it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def measuring(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Put a model in evaluation mode for a measurement and restore everything afterwards.

    Restored, also after an exception: the training flag of every module, ``requires_grad`` of
    every parameter, the plain tensors that ``torch.nn.utils.prune`` renews in each forward pass,
    and torch's random state. Within, torch's random numbers follow from ``seed``, so that a
    model that draws some gives the same measurement every time.

    The flags are set without calling ``train()``, which some models override to do more.
    """
    flags = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    plain = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    device = device_of(model)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for accelerator in cuda:
            with torch.cuda.device(accelerator):
                torch.cuda.manual_seed(seed)
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training
            for parameter, requires_grad in grads:
                parameter.requires_grad_(requires_grad)
            for module, name, value in plain:
                setattr(module, name, value)
