"""Measure a network: by the loss that training lowers, and by the error that it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Forward, Inputs, Loss
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import (
    call_model,
    device_of,
    evaluation_mode,
    tensors_of,
    to_device,
)
from gp_prune.training.samples import as_data, in_order
from gp_prune.training.settings import FineTuning

_TOKENS_AT_ONCE = 2048
"""Tokens in a batch, at most: the outputs of a language model have hundreds of numbers for each."""
_LOGITS_AT_ONCE = 2**24
"""Numbers in the output for a batch, at most, where it is known that there are more for each."""


def main_output(output: Any) -> Tensor:
    """Return the tensor by which a network is judged.

    That is the output itself, its ``logits`` (an attribute or an entry, also of what torchvision's
    networks with auxiliary heads give in training), or the first tensor of a tuple or list.

    Raises:
        UserError: there is no such tensor.
    """
    tensor = output
    if isinstance(output, Mapping):
        tensor = output.get("logits")
    elif hasattr(output, "logits"):
        tensor = output.logits
    elif isinstance(output, tuple | list):
        tensor = next((item for item in output if isinstance(item, Tensor)), None)
    if isinstance(tensor, Tensor):
        return tensor
    raise UserError(
        f"the network gives a value of type {type(output).__name__} without 'logits', so there "
        "is no tensor to judge it by; give forward_fn(model, inputs), which returns one"
    )


def distance(output: Any, taught: Any, target: Any, temperature: float) -> Tensor:
    """Return the distance of an output from that of the dense network, a mean over samples.

    Where the target is class numbers: ``temperature**2`` times the Kullback-Leibler divergence of
    the softened classes, in nats, summed over the classes (Hinton et al. 2015, "Distilling the
    Knowledge in a Neural Network"). For every other target: the mean squared difference.

    Args:
        output: (n, classes, ...) logits, (n, positions, tokens) logits of a language model, or an
            output of any shape (see :func:`main_output`).
        taught: the output of the dense network, of the same shape.
        target: what the loss compares ``output`` with.
        temperature: what logits are divided by.

    Raises:
        UserError: an output holds no tensor, or their shapes differ.
    """
    logits, aim = main_output(output), main_output(taught)
    if logits.shape != aim.shape:
        raise UserError(
            f"the pruned network gives {tuple(logits.shape)}, the dense one {tuple(aim.shape)}; "
            "distillation needs the same shape, give the network that was pruned"
        )
    if not _is_classes(target):
        return functional.mse_loss(logits, aim)
    axis = _class_axis(logits, target)
    classes, aims = (functional.log_softmax(x / temperature, axis) for x in (logits, aim))
    divergence = functional.kl_div(classes, aims, reduction="sum", log_target=True)
    return divergence * temperature * temperature / (logits.numel() / logits.shape[axis])


def _class_axis(logits: Tensor, target: Tensor) -> int:
    """Return the axis of the classes: the last one for a target (n, positions) of tokens, else 1.

    Where a network has as many tokens as positions, the shapes do not tell, and it is 1.
    """
    n, *rest = logits.shape
    of_tokens = target.shape == logits.shape[:-1] and target.shape != (n, *rest[1:])
    return -1 if of_tokens else 1


def _is_classes(target: Any) -> bool:
    return isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())


@dataclass(frozen=True, eq=False)
class Objective:
    """What fine-tuning lowers: a loss, with a share of distillation.

    Attributes:
        loss: ``loss(output, target)``, a mean over the batch.
        settings: the share and the temperature of distillation.
        teacher: the dense network; None where its share is 0.
        forward: runs a network on inputs.
        device: where the networks are.
    """

    loss: Loss
    settings: FineTuning
    teacher: nn.Module | None
    forward: Forward
    device: torch.device

    def of_batch(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the objective on a batch, with its gradient.

        Raises:
            UserError: the batch has no target, or the loss does not give one number.
        """
        if batch.target is None:
            raise UserError(
                "the training data has inputs alone; give batches with a target, (inputs, target)"
            )
        inputs, target = to_device(batch.inputs, self.device), to_device(batch.target, self.device)
        output = self.forward(model, inputs)
        share = self.settings.distill
        loss = self.loss(output, target) if share < 1 else 0.0
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.forward(self.teacher, inputs)
            apart = distance(output, taught, target, self.settings.temperature)
            loss = share * apart + (1 - share) * loss
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the loss gives {what}; it must give one number, the mean of a batch")
        return loss

    def mean_loss(self, model: nn.Module, data: Any) -> float:
        """Return the loss, without distillation, as a mean over all samples of ``data``.

        Raises:
            UserError: there is no sample, or no target.
        """

        def measure(output: Any, batch: Batch) -> tuple[float, int]:
            size = batch_size(batch.inputs)
            if batch.target is None:
                raise UserError(
                    "the validation data has inputs alone; give batches with a target, "
                    "(inputs, target), or an error of your own"
                )
            return size * float(self.loss(output, to_device(batch.target, self.device))), size

        batches = in_order(as_data(data), self.settings.batch_size)
        return evaluate(model, batches, measure, forward_fn=self.forward).error


class Evaluation(NamedTuple):
    """The error of a network.

    Attributes:
        error: what was measured, as a mean; less is better.
        samples: on how many samples.
    """

    error: float
    samples: int


Measure = Callable[[Any, Batch], tuple[float, int]]
"""``measure(output, batch)``: the sum of an error over a batch, and what divides it."""


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    measure: Measure,
    *,
    forward_fn: Forward | None = None,
) -> Evaluation:
    """Return the mean of a measure over batches.

    The network runs in evaluation mode without gradients; its flags and torch's random state are
    left as they were.

    Args:
        model: the network.
        batches: the samples; batches without samples are skipped.
        measure: such as :func:`wrong_classes` and :func:`squared_errors`.
        forward_fn: runs the network where ``model(inputs)`` is not the way.

    Raises:
        UserError: there is no sample, or the measure cannot compare output and batch.
    """
    total, samples, count = 0.0, 0, 0
    device, run = device_of(model), forward_fn or call_model
    with evaluation_mode(model, seed=0), torch.no_grad():
        for batch in batches:
            size = batch_size(batch.inputs)
            if size:
                summed, entries = measure(run(model, to_device(batch.inputs, device)), batch)
                total, samples, count = total + summed, samples + size, count + entries
    if not samples:
        raise UserError("there is no sample to judge the network on; give labelled data")
    return Evaluation(total / count, samples)


def wrong_classes(output: Any, batch: Batch) -> tuple[float, int]:
    """Return the number of wrong classes in a batch, and of samples.

    Raises:
        UserError: the batch has no labels, or the output is not (n, classes).
    """
    output, size = main_output(output), batch_size(batch.inputs)
    labels = batch.target if batch.labels is None else batch.labels
    if not isinstance(labels, Tensor) or labels.shape != (size,) or labels.is_floating_point():
        raise UserError(
            "the data has no class labels, one integer per sample, to count errors by; give labels"
        )
    if output.dim() != 2 or len(output) != size:
        raise UserError(
            f"the output of the network has shape {tuple(output.shape)}, where errors are counted "
            f"in an output ({size} samples, classes); use a network that classifies"
        )
    return float(output.argmax(1).ne(labels.to(output.device)).sum()), size


def sequences_at_once(inputs: Inputs, most: int, model: nn.Module) -> int:
    """Return the sequences of a batch of tokens: at most ``most``, and few where they are long.

    Args:
        inputs: (n, positions) tokens.
        most: sequences that a batch may have.
        model: the network; one of transformers says how many logits it gives for a token.
    """
    logits = getattr(getattr(model, "config", None), "vocab_size", None)
    tokens = _TOKENS_AT_ONCE
    if isinstance(logits, int) and logits > 0:
        tokens = min(tokens, _LOGITS_AT_ONCE // logits)
    return max(1, min(most, tokens // tensors_of(inputs)[0].shape[1]))


def token_losses(output: Any, batch: Batch) -> tuple[float, int]:
    """Return the sum of the cross-entropies of a batch in nats, and the number of tokens.

    Raises:
        UserError: the output is not (n, positions, tokens) with a target (n, positions).
    """
    tensor, target = main_output(output), batch.target
    check_tokens(tensor, target)
    logits, wanted = tensor.flatten(0, 1).float(), target.flatten().to(tensor.device)
    return float(functional.cross_entropy(logits, wanted, reduction="sum")), target.numel()


def token_loss(output: Any, target: Any) -> Tensor:
    """Return the mean cross-entropy of a batch in nats per token, see :func:`token_losses`."""
    tensor = main_output(output)
    check_tokens(tensor, target)
    return functional.cross_entropy(tensor.flatten(0, 1), target.flatten())


def check_tokens(output: Tensor, target: Any) -> None:
    """Raise UserError unless an output has logits for the tokens of a target."""
    shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
    if output.dim() != 3 or shape != output.shape[:2]:
        raise UserError(
            f"the output of the network has shape {tuple(output.shape)}, the target {shape}; a "
            "language model gives logits (samples, positions, tokens) for a target (samples, "
            "positions) of tokens"
        )


def squared_errors(output: Any, batch: Batch) -> tuple[float, int]:
    """Return the sum of the squared errors of a batch, and the number of entries.

    Raises:
        UserError: the target has not the shape of the output.
    """
    output, target = main_output(output), batch.target
    if not isinstance(target, Tensor) or target.shape != output.shape:
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise UserError(
            f"the output of the network has shape {tuple(output.shape)}, the target {shape}; the "
            "mean squared error needs targets of the output's shape"
        )
    difference = output - target.to(output.device)
    return float(difference.square().sum(dtype=torch.float64)), target.numel()
