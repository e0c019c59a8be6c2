"""What training lowers: the loss of a batch, alone or joined with what the dense network says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Forward, Loss
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.running import to_device
from gp_prune.training.samples import as_data, in_order
from gp_prune.training.settings import FineTuning


def main_output(output: Any) -> Tensor:
    """The tensor by which a network is judged.

    That is the output itself, its ``logits`` (an attribute or an entry, also of what torchvision's
    networks with auxiliary heads give in training), or the first tensor of a tuple or list.

    Raises:
        UserError: there is no such tensor.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list):
        found = next((item for item in output if isinstance(item, Tensor)), None)
    if isinstance(found, Tensor):
        return found
    raise UserError(
        f"the network gives a {type(output).__name__} without 'logits', so there is no tensor to "
        "judge it by; give forward_fn(model, inputs), which returns one"
    )


def distance(output: Any, taught: Any, target: Any, temperature: float) -> Tensor:
    """How far an output is from that of the dense network, as a mean over the samples.

    Where the target is class numbers: ``temperature**2`` times the Kullback-Leibler divergence of
    the softened classes, in nats, summed over the classes (Hinton et al. 2015, "Distilling the
    Knowledge in a Neural Network"). For every other target: the mean squared difference.

    Args:
        output: (n, classes, ...) logits, or an output of any shape (see :func:`main_output`).
        taught: the output of the dense network, of the same shape.
        target: what the loss compares ``output`` with.
        temperature: what logits are divided by.

    Raises:
        UserError: an output holds no tensor, or their shapes differ.
    """
    found, aim = main_output(output), main_output(taught)
    if found.shape != aim.shape:
        raise UserError(
            f"the pruned network gives {tuple(found.shape)}, the dense one {tuple(aim.shape)}; "
            "distillation needs the same shape, give the network that was pruned"
        )
    if not _is_classes(target):
        return functional.mse_loss(found, aim)
    classes, aims = (functional.log_softmax(x / temperature, 1) for x in (found, aim))
    divergence = functional.kl_div(classes, aims, reduction="sum", log_target=True)
    return divergence * temperature * temperature / (found.numel() / found.shape[1])


def _is_classes(target: Any) -> bool:
    return isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())


@dataclass(frozen=True, eq=False)
class Objective:
    """What is lowered.

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
        """The objective on a batch, with its gradient.

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
        """The loss, without distillation, as a mean over all samples of ``data``.

        Raises:
            UserError: there is no sample.
        """
        total, count = 0.0, 0
        for batch in in_order(as_data(data), self.settings.batch_size):
            size = batch_size(batch.inputs)
            output = self.forward(model, to_device(batch.inputs, self.device))
            total += size * float(self.loss(output, to_device(batch.target, self.device)))
            count += size
        if not count:
            raise UserError("there is no validation sample; give some, or no validation data")
        return total / count
