"""Training and short fine-tuning of the networks of tasks, with their own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gp_prune.statistics import Loss
from gp_prune.statistics.running import random_state, training_mode
from gp_prune.training.context import kept_gradients
from gp_prune.training.settings import schedule


def random_batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield mini-batches of indices without end: each pass is a new seeded permutation.

    The samples that do not fill a last batch of a pass are left out of that pass, so that every
    batch has the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


@dataclass(frozen=True)
class Descent:
    """AdamW with a learning rate that rises linearly and falls as a cosine.

    Attributes:
        steps: number of mini-batches; 0 changes nothing.
        learning_rate: highest learning rate.
        batch_size: samples per mini-batch; of fewer samples all are taken.
        seed: decides the order of the samples.
        warm_up: share of the steps during which the learning rate rises.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).

    Raises:
        ValueError: ``steps`` is negative or ``batch_size`` is not positive.
    """

    steps: int
    learning_rate: float
    batch_size: int
    seed: int
    warm_up: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(
                f"steps is {self.steps} and batch_size {self.batch_size}; use >= 0 and >= 1"
            )

    def run(
        self,
        parameters: Sequence[Tensor],
        inputs: Tensor,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Go down the loss of the parameters.

        Args:
            parameters: what is changed, in place, on the device of ``inputs``.
            inputs: (n, ...) all training inputs.
            target: (n, ...) what belongs to them.
            loss: from the inputs and the target of a mini-batch to the loss that is minimised.
            after_step: called after each change.
        """
        optimiser = torch.optim.AdamW(parameters, weight_decay=self.weight_decay, fused=True)
        group = optimiser.param_groups[0]
        chunks = random_batches(len(inputs), self.batch_size, self.seed)
        for step in range(self.steps):
            chosen = next(chunks).to(inputs.device)
            group["lr"] = self.learning_rate * schedule(step / self.steps, self.warm_up)
            optimiser.zero_grad()
            loss(inputs[chosen], target[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            after_step()


def optimise(
    model: nn.Module, inputs: Tensor, target: Tensor, loss: Loss, descent: Descent
) -> None:
    """Train ``model`` in place.

    The model is in training mode meanwhile; training flags and stored gradients come back as they
    were, and torch's global random state, which starts from the seed of the descent for a dropout,
    is left alone.

    Args:
        model: the network, on the device of ``inputs``; frozen parameters stay frozen.
        inputs: (n, ...) all training inputs.
        target: (n, ...) what the loss compares the outputs with.
        loss: mean loss of a batch from its output and target.
        descent: how it is trained.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if descent.steps == 0 or not parameters:
        return
    with random_state(descent.seed), training_mode(model), kept_gradients(parameters):
        descent.run(parameters, inputs, target, lambda x, y: loss(model(x), y))
