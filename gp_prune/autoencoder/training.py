"""Training a pair: Adam on two flat vectors, the gradient by hand, masks held in every step.

Through autograd a step of the paper's network takes about twice as long, most of it in bookkeeping.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.autoencoder.networks import Half, Layer, Pair, decode, encode
from gp_prune.errors import UserError


class Reconstruction(Protocol):
    """A loss of outputs y = sigmoid(a) against targets x in [0, 1], a mean over all entries."""

    name: str

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The same of outputs behind the sigmoid; autograd goes through it."""

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient by the logits."""


class L1:
    """Mean absolute error: mean |y - x|, the paper's loss."""

    name = "l1"

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar."""
        return self.of_outputs(logits.sigmoid(), target)

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of outputs behind the sigmoid."""
        return functional.l1_loss(outputs, target)

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and sign(y - x) y (1 - y) over the number of entries."""
        outputs = logits.sigmoid()
        error = outputs - target
        slope = torch.addcmul(outputs, outputs, outputs, value=-1)
        return error.abs().mean(), error.sign().mul_(slope).div_(target.numel())


class BinaryCrossEntropy:
    """Mean cross-entropy in nats: mean of -x log y - (1 - x) log(1 - y)."""

    name = "bce"

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss, a scalar; finite for every finite logit."""
        return functional.binary_cross_entropy_with_logits(logits, target)

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of outputs behind the sigmoid; logarithms are at least -100."""
        return functional.binary_cross_entropy(outputs, target)

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and y - x over the number of entries."""
        return self.value(logits, target), logits.sigmoid().sub_(target).div_(target.numel())


LOSSES: dict[str, Reconstruction] = {"l1": L1(), "bce": BinaryCrossEntropy()}
"""Every loss by its name."""


def named_loss(name: str) -> Reconstruction:
    """The loss of that name; UserError if there is none."""
    if name not in LOSSES:
        raise UserError(f"unknown loss {name!r}; choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


BETAS = (0.5, 0.999)
"""Of Adam, as in the paper."""

_EVALUATION_BATCH = 250


class Training(NamedTuple):
    """How an epoch is trained.

    Attributes:
        loss: the loss.
        learning_rate: of Adam.
        batch_size: samples per step; the last step of an epoch may have fewer.
        code_relu: whether the code goes through a ReLU.
    """

    loss: Reconstruction
    learning_rate: float
    batch_size: int
    code_relu: bool


def train_epoch(pair: Pair, inputs: Tensor, order: Tensor, how: Training) -> float:
    """One pass over the samples, in place; what was pruned stays 0 in every step.

    Each half brings its own state of Adam along, also when it meets another partner.

    Args:
        pair: what is trained.
        inputs: (n, features) samples.
        order: (n,) int64 order in which they are seen.
        how: loss, learning rate, batch size.

    Returns:
        The mean loss of the samples, each at the step that saw it.

    Raises:
        UserError: the loss is not finite any more.
    """
    gradients = [torch.zeros_like(half.weights) for half in pair]
    optimizer = _adam(pair, gradients, how.learning_rate)
    views = [
        list(zip(half.layers(), half.layers(gradient), strict=True))
        for half, gradient in zip(pair, gradients, strict=True)
    ]
    pruned = [half for half in pair if half.pruned]
    shuffled = inputs[order]
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    with torch.no_grad():
        for start in range(0, len(inputs), how.batch_size):
            batch = shuffled[start : start + how.batch_size]
            total += _backward(views[0], views[1], batch, how) * len(batch)
            optimizer.step()
            for half in pruned:
                half.apply_mask()
    mean = float(total) / len(inputs)
    _check_finite(mean, pair, how.learning_rate)
    for half in pair:
        half.steps += math.ceil(len(inputs) / how.batch_size)
    return mean


def _check_finite(loss: float, pair: Pair, rate: float) -> None:
    if not (math.isfinite(loss) and all(bool(half.weights.isfinite().all()) for half in pair)):
        raise UserError(f"the loss is not finite any more at learning rate {rate:g}; lower it")


def _adam(pair: Pair, gradients: list[Tensor], rate: float) -> torch.optim.Adam:
    """Adam with the state of the halves, which it changes in place."""
    parameters = []
    for half, gradient in zip(pair, gradients, strict=True):
        parameter = nn.Parameter(half.weights)
        parameter.grad = gradient
        parameters.append(parameter)
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=BETAS, fused=True)
    for half, parameter in zip(pair, parameters, strict=True):
        optimizer.state[parameter] = {
            "step": torch.tensor(float(half.steps), device=half.weights.device),
            "exp_avg": half.first,
            "exp_avg_sq": half.second,
        }
    return optimizer


def _backward(
    encoder: list[tuple[Layer, Layer]],
    decoder: list[tuple[Layer, Layer]],
    batch: Tensor,
    how: Training,
) -> Tensor:
    """Write the gradients of one batch; gives its loss.

    Args:
        encoder: weights and gradients of each layer.
        decoder: weights and gradients of each layer.
        batch: (n, features) samples.
        how: the loss, and whether the code goes through a ReLU.
    """
    layers = encoder + decoder
    rectified = [True] * len(layers)
    rectified[len(encoder) - 1] = how.code_relu
    seen = [batch]
    for (layer, _), relu in zip(layers[:-1], rectified, strict=False):
        made = torch.addmm(layer.bias, seen[-1], layer.weight.t())
        seen.append(made.relu_() if relu else made)
    last = layers[-1][0]
    logits = torch.addmm(last.bias, seen[-1], last.weight.t())
    value, error = how.loss.value_and_gradient(logits, batch)
    for place in range(len(layers) - 1, -1, -1):
        layer, gradient = layers[place]
        torch.mm(error.t(), seen[place], out=gradient.weight)
        torch.sum(error, 0, out=gradient.bias)
        if place:
            error = error @ layer.weight
            if rectified[place - 1]:
                error.mul_(seen[place] > 0)
    return value


def evaluate(pair: Pair, inputs: Tensor, loss: Reconstruction, code_relu: bool) -> float:
    """The loss of a pair over all samples (n, features)."""
    return _mean(loss, [(encode(pair.encoder, part, code_relu), part) for part in _parts(inputs)],
                 pair.decoder)  # fmt: skip


def cross_losses(
    encoders: list[Half],
    decoders: list[Half],
    inputs: Tensor,
    loss: Reconstruction,
    code_relu: bool,
) -> list[list[float]]:
    """The loss of every encoder (first index) with every decoder (second)."""
    table = []
    for encoder in encoders:
        codes = [(encode(encoder, part, code_relu), part) for part in _parts(inputs)]
        table.append([_mean(loss, codes, decoder) for decoder in decoders])
    return table


def _parts(inputs: Tensor) -> list[Tensor]:
    """Batches that stay in the processor's cache."""
    starts = range(0, len(inputs), _EVALUATION_BATCH)
    return [inputs[start : start + _EVALUATION_BATCH] for start in starts]


def _mean(loss: Reconstruction, codes: list[tuple[Tensor, Tensor]], decoder: Half) -> float:
    count = sum(len(part) for _, part in codes)
    values = [loss.value(decode(decoder, code), part).double() * len(part) for code, part in codes]
    return float(torch.stack(values).sum()) / count
