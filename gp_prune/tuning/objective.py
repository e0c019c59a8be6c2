"""What training lowers: the loss of a batch, alone or joined with what the dense network says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, Forward, Loss
from gp_prune.statistics.batches import batch_size, to_device
from gp_prune.tuning.distillation import distance
from gp_prune.tuning.samples import as_data, in_order
from gp_prune.tuning.settings import FineTuning


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
