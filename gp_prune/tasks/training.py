"""Training, fine-tuning and batch-norm recalibration, each with its own seeded randomness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gp_prune.statistics import Loss


def optimise(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    warm_up: float = 0.0,
    weight_decay: float = 0.0,
) -> None:
    """Train ``model`` in place with AdamW; the learning rate rises linearly, falls as a cosine.

    The model is in training mode meanwhile; training flags and stored gradients come back as they
    were, and torch's global random state is left alone.

    Args:
        model: the network, on the device of ``inputs``; frozen parameters stay frozen.
        inputs: (n, ...) all training inputs.
        target: (n, ...) what the loss compares the outputs with.
        loss: mean loss of a batch from its output and target.
        steps: number of mini-batches; 0 changes nothing.
        learning_rate: highest learning rate.
        batch_size: samples per mini-batch, at most n are taken.
        seed: decides the order of the samples (and the dropout, if the model has any).
        warm_up: share of the steps during which the learning rate rises.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).

    Raises:
        ValueError: ``steps`` is negative or ``batch_size`` is not positive.
    """
    if steps < 0 or batch_size < 1:
        raise ValueError(f"steps is {steps} and batch_size {batch_size}; use >= 0 and >= 1")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if steps == 0 or not parameters:
        return
    with seeded(seed, inputs.device), training_mode(model), kept_gradients(parameters):
        optimiser = torch.optim.AdamW(parameters, weight_decay=weight_decay, fused=True)
        group = optimiser.param_groups[0]
        chunks = shuffled(len(inputs), batch_size, seed)
        for step in range(steps):
            chosen = next(chunks).to(inputs.device)
            group["lr"] = learning_rate * schedule(step / steps, warm_up)
            optimiser.zero_grad()
            loss(model(inputs[chosen]), target[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def schedule(progress: float, warm_up: float) -> float:
    """Share of the highest learning rate at ``progress`` (0 to 1): linear rise, cosine fall."""
    if progress < warm_up:
        return (0.1 * (warm_up - progress) + progress) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def shuffled(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless mini-batches of indices: each pass over the data is a new seeded permutation.

    The samples that do not fill a last batch of a pass are left out of that pass, so that every
    batch has the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def recalibrate(model: nn.Module, inputs: Tensor, *, batch_size: int = 1024) -> None:
    """Measure the running statistics of every batch norm anew, in one pass over ``inputs``.

    The statistics become the plain averages of the batch means and (unbiased) batch variances.
    Pruning shifts what a batch norm sees, so its old statistics are wrong (Li et al. 2020,
    "EagleEye"). A model without batch norm is left as it is.

    Args:
        model: the network, changed in place; training flags and momenta come back as they were.
        inputs: (n, ...) samples to measure on.
        batch_size: most samples per batch; batches are made as equal as possible, because each
            counts the same.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with training_mode(model, False), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's way to say: cumulative average
                norm.training = True
            for batch in inputs.tensor_split(math.ceil(len(inputs) / batch_size)):
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread meanwhile: the last bits of a sum depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def training_mode(model: nn.Module, mode: bool = True) -> Iterator[None]:
    """``model.train(mode)`` for a while; every module's flag comes back as it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.train(mode)
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def kept_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Put the ``grad`` of every parameter back afterwards."""
    before = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global random state starts from ``seed`` for a while, then is what it was before."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # torch.manual_seed would reseed every device, also those that are not put back.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
