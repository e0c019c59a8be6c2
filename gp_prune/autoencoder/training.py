"""Train a pair: Adam on two flat vectors, the gradient by hand, masks held in every step.

Through autograd a step takes 1.6 to 2.2 times as long, most of it in bookkeeping.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.autoencoder.networks import Half, Layer, Pair, decode, encode
from gp_prune.errors import UserError
from gp_prune.training.shares import report_share

BETAS = (0.5, 0.999)
"""Of Adam, as in the paper."""

_EVALUATION_BATCH = 250


class Reconstruction(Protocol):
    """A loss of outputs y = sigmoid(a) against targets x in [0, 1], a mean over all entries."""

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits a."""

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of outputs y; autograd goes through it."""

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient by the logits."""


class L1:
    """Mean absolute error: mean |y - x|, the paper's loss."""

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return self.of_outputs(logits.sigmoid(), target)

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of outputs after the sigmoid."""
        return functional.l1_loss(outputs, target)

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and sign(y - x) y (1 - y) over the number of entries."""
        outputs = logits.sigmoid()
        error = outputs - target
        slope = torch.addcmul(outputs, outputs, outputs, value=-1)
        return error.abs().mean(), error.sign().mul_(slope).div_(target.numel())


class BinaryCrossEntropy:
    """Mean cross-entropy in nats: mean of -x log y - (1 - x) log(1 - y)."""

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar; finite for every finite logit."""
        return functional.binary_cross_entropy_with_logits(logits, target)

    def of_outputs(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of outputs after the sigmoid; logarithms are at least -100."""
        return functional.binary_cross_entropy(outputs, target)

    def value_and_gradient(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, and y - x over the number of entries."""
        return self.value(logits, target), logits.sigmoid().sub_(target).div_(target.numel())


LOSSES: dict[str, Reconstruction] = {"l1": L1(), "bce": BinaryCrossEntropy()}
"""Every loss by its name."""


class TrainingOptions(NamedTuple):
    """Options of an epoch of training.

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


def train_epoch(pair: Pair, inputs: Tensor, order: Tensor, options: TrainingOptions) -> float:
    """Make one pass over the samples, in place; what was pruned stays 0 in every step.

    Each half keeps its state of Adam, also when it meets another partner.

    Args:
        pair: what is trained.
        inputs: (n, features) samples.
        order: (n,) int64 indices of the samples, in the order in which they are taken.
        options: the loss, Adam and batches.

    Returns:
        The mean loss of the samples, each in the state of the network when its batch was taken.

    Raises:
        UserError: loss or weights are not finite any more.
    """
    gradients = [torch.zeros_like(half.weights) for half in pair]
    optimizer = _adam(pair, gradients, options.learning_rate)
    encoder, decoder = (
        list(zip(half.layers(), half.layers(gradient), strict=True))
        for half, gradient in zip(pair, gradients, strict=True)
    )
    pruned = [half for half in pair if half.pruned]
    shuffled = inputs[order]
    total = torch.zeros((), dtype=torch.float64, device=inputs.device)
    with torch.no_grad():
        for number, batch in enumerate(torch.split(shuffled, options.batch_size), 1):
            total += _backward(encoder, decoder, batch, options) * len(batch)
            optimizer.step()
            for half in pruned:
                half.apply_mask()
            report_share(min(1.0, number * options.batch_size / len(inputs)))
    mean = float(total) / len(inputs)
    if not (math.isfinite(mean) and all(bool(half.weights.isfinite().all()) for half in pair)):
        raise UserError(
            f"the loss is not finite any more at learning rate {options.learning_rate:g}; lower it"
        )
    for half in pair:
        half.steps += math.ceil(len(inputs) / options.batch_size)
    return mean


def _adam(pair: Pair, gradients: list[Tensor], rate: float) -> torch.optim.Adam:
    """Return Adam with the state of the halves, which it changes in place."""
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
    options: TrainingOptions,
) -> Tensor:
    """Write the gradients of one batch; return its loss.

    Args:
        encoder: weights and gradients of each layer.
        decoder: weights and gradients of each layer.
        batch: (n, features) samples.
        options: the loss, and whether the code goes through a ReLU.
    """
    layers = encoder + decoder
    rectified = [True] * len(layers)
    rectified[len(encoder) - 1] = options.code_relu
    seen = [batch]
    for (layer, _), relu in zip(layers[:-1], rectified, strict=False):
        outputs = torch.addmm(layer.bias, seen[-1], layer.weight.t())
        seen.append(outputs.relu_() if relu else outputs)
    last = layers[-1][0]
    logits = torch.addmm(last.bias, seen[-1], last.weight.t())
    value, error = options.loss.value_and_gradient(logits, batch)
    for number in range(len(layers) - 1, -1, -1):
        layer, gradient = layers[number]
        torch.mm(error.t(), seen[number], out=gradient.weight)
        torch.sum(error, 0, out=gradient.bias)
        if number:
            error = error @ layer.weight
            if rectified[number - 1]:
                error.mul_(seen[number] > 0)
    return value


def evaluate(pair: Pair, inputs: Tensor, loss: Reconstruction, code_relu: bool) -> float:
    """Return the loss of a pair over all samples (n, features)."""
    return cross_losses([pair.encoder], [pair.decoder], inputs, loss, code_relu)[0][0]


def cross_losses(
    encoders: list[Half],
    decoders: list[Half],
    inputs: Tensor,
    loss: Reconstruction,
    code_relu: bool,
) -> list[list[float]]:
    """Return the loss of every encoder (first index) with every decoder (second)."""
    parts = torch.split(inputs, _EVALUATION_BATCH)  # that stay in the processor's cache
    table = []
    for encoder in encoders:
        codes = [encode(encoder, part, code_relu) for part in parts]
        row = []
        for decoder in decoders:
            values = [
                loss.value(decode(decoder, code), part).double() * len(part)
                for code, part in zip(codes, parts, strict=True)
            ]
            row.append(float(torch.stack(values).sum()) / len(inputs))
        table.append(row)
    return table
