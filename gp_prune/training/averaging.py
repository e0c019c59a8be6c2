"""Average the weights of a network over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gp_prune.training.checkpoint import copy_tensors, named_tensors, put_tensors
from gp_prune.training.gradual import Zeros


class WeightAverage:
    """The exponential moving average of a network over the steps of a training.

    It follows parameters and buffers, such as the statistics of batch norms; buffers that hold no
    real or complex numbers are those of the network. Networks that are averaged on the way of a
    training are often better than its last one (Polyak and Juditsky 1992; Izmailov et al. 2018).

    Args:
        model: the network, with which the average begins.
        decay: share of the average that stays in a step.

    Attributes:
        tensors: name -> the average of a parameter or buffer.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.tensors = copy_tensors(model)

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Let the average be these tensors."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def step(self, zeros: Zeros) -> None:
        """Take in the network after a step.

        Args:
            zeros: what must stay zero, in the average, too.
        """
        masks = {id(parameter): zero for parameter, zero in zeros}
        for name, tensor in named_tensors(self._model):
            average = self.tensors[name]
            if not (tensor.is_floating_point() or tensor.is_complex()):
                average.copy_(tensor)
                continue
            average.lerp_(tensor, 1 - self._decay)
            if id(tensor) in masks:
                average.masked_fill_(masks[id(tensor)], 0.0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network have the average meanwhile."""
        now = copy_tensors(self._model)
        put_tensors(self._model, self.tensors)
        try:
            yield
        finally:
            put_tensors(self._model, now)
