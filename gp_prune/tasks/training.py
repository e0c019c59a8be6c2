"""Training and short fine-tuning of the networks of tasks, with its own seeded randomness."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gp_prune.statistics import Loss
from gp_prune.tuning.context import kept_gradients, seeded, training_mode
from gp_prune.tuning.steps import schedule, shuffled


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
