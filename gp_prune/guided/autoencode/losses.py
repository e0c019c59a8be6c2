"""Reconstruction losses, with the gradient that training needs.

Outputs go through a sigmoid; gradients are by what goes into it, where both losses are simple.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

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
