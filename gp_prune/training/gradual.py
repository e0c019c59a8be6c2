"""Remove weights step by step while a network trains, on a cubic schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError, check_fields, number, whole
from gp_prune.pruning.modules import find_module

Zeros = list[tuple[nn.Parameter, Tensor]]
"""Parameters, each with a bool tensor of its shape: True where it must stay zero."""

_RULES = {
    "params": whole(1),
    "since": number(least=0, below=1),
    "until": number(above=0, most=1),
    "removals": whole(1),
    "regrowth": number(least=0, below=1),
}


@dataclass(frozen=True)
class GradualRemoval:
    """Settings of a gradual removal of weights during a training.

    The number of parameters that are not zero falls on the cubic schedule of Zhu and Gupta (To
    prune, or not to prune, 2017), fast at first and slowly at the end. The weights with the least
    saliency go first, over all layers: the square of the weight times its mean squared gradient,
    which is the saliency of Optimal Brain Damage (LeCun et al. 1989) with the diagonal of the
    empirical Fisher information. With each removal some more weights go, and as many that are zero
    come back, those with the largest mean gradient (Evci et al., Rigging the lottery, 2020). Mean
    gradient and mean squared gradient are the moments that the optimiser keeps.

    Attributes:
        params: parameters of the network that are not zero at the end, at most.
        layers: names of the layers whose weights may go; all other parameters stay.
        since: share of the training after which the first weights go; until then the optimiser
            measures gradients.
        until: share of the training after which no more weights go.
        removals: how often weights go, at equal distances; at most once in a step.
        regrowth: share of the weights that is exchanged with a removal, at the beginning; it falls
            to 0 as a cosine.

    Raises:
        UserError: a value is out of range, or there is no layer.
    """

    params: int
    layers: tuple[str, ...]
    since: float = 0.1
    until: float = 0.7
    removals: int = 15
    regrowth: float = 0.05

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, _RULES, " of a gradual removal")
        if self.since >= self.until:
            raise UserError(
                f"a gradual removal begins at {self.since} of the training and ends at "
                f"{self.until}; let it end later than it begins"
            )
        if not self.layers:
            raise UserError("a gradual removal has no layers; name those whose weights may go")

    def goal(self, start: int, progress: float) -> int:
        """Return how many parameters may be left at ``progress`` (0 to 1) of the training.

        Args:
            start: parameters that were not zero before the training.
            progress: share of the training that is done.
        """
        left = 1 - self.share(progress)
        return self.params + int(max(0, start - self.params) * left**3)

    def exchanged(self, progress: float) -> float:
        """Return the share of the weights that is exchanged at ``progress`` (0 to 1)."""
        return self.regrowth * 0.5 * (1 + math.cos(math.pi * self.share(progress)))

    def share(self, progress: float) -> float:
        """Return the share of the removal that is done at ``progress`` (0 to 1)."""
        return min(1.0, max(0.0, (progress - self.since) / (self.until - self.since)))


class Remover:
    """A gradual removal from one network.

    Args:
        removal: its settings.
        model: the network that is trained.
        optimiser: AdamW, which keeps the mean squared gradients.
        zeros: what stays zero from the beginning.

    Attributes:
        zeros: what must stay zero now; the masks change in place.
        done: whether the last weights have gone.

    Raises:
        UserError: the optimiser keeps no mean squared gradients, or the weights of a layer are not
            trained.
    """

    def __init__(
        self,
        removal: GradualRemoval,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        zeros: Zeros,
    ) -> None:
        if not isinstance(optimiser, torch.optim.AdamW):
            raise UserError(
                "a gradual removal needs the mean squared gradients that adamw keeps, but the "
                f"optimiser is {type(optimiser).__name__}; use the optimiser 'adamw'"
            )
        self._removal, self._model, self._optimiser = removal, model, optimiser
        self._weights = [_trained_weight(model, name) for name in removal.layers]
        known = {id(parameter): zero for parameter, zero in zeros}
        others = [pair for pair in zeros if id(pair[0]) not in map(id, self._weights)]
        self._masks = [
            known.get(id(weight), torch.zeros_like(weight, dtype=torch.bool)).clone()
            for weight in self._weights
        ]
        # The masks change in place, so this list is true at any time.
        self.zeros: Zeros = [*others, *zip(self._weights, self._masks, strict=True)]
        self._start = self._count()
        self._removals = 0
        self.done = False

    def step(self, progress: float) -> None:
        """Remove weights after a step of the training, if it is time.

        What must stay zero is zero when this is called, and is zero after it.

        Args:
            progress: share of the training that is done.
        """
        removal = self._removal
        due = int(removal.removals * removal.share(progress))
        if self.done or due <= self._removals:
            return
        self._removals, last = due, due == removal.removals
        left = self._count()
        surplus = max(0, left - removal.goal(self._start, progress))
        exchanged = int(removal.exchanged(progress) * (left - surplus))
        self._remove(surplus + exchanged)
        self._revive(exchanged)
        self.done = last

    def _count(self) -> int:
        """Count the parameters that are not zero."""
        return sum(int(parameter.count_nonzero()) for parameter in self._model.parameters())

    @torch.no_grad()
    def _remove(self, count: int) -> None:
        """Remove the ``count`` weights of least saliency; of each layer one stays."""
        chosen = _lowest(list(map(self._saliency, self._weights, self._masks)), count)
        for mask, weight, part in zip(self._masks, self._weights, chosen, strict=True):
            mask |= part
            weight.masked_fill_(part, 0.0)

    def _revive(self, count: int) -> None:
        """Let weights that are zero train again: the ``count`` with the largest mean gradient."""
        costs = [
            (-self._optimiser.state[weight]["exp_avg"].abs()).masked_fill(~zero, torch.inf)
            for weight, zero in zip(self._weights, self._masks, strict=True)
        ]
        for mask, part in zip(self._masks, _lowest(costs, count), strict=True):
            mask &= ~part

    def _saliency(self, weight: nn.Parameter, zero: Tensor) -> Tensor:
        """Return the saliency of every weight; infinite where it is zero, and for the greatest."""
        moment = self._optimiser.state[weight]["exp_avg_sq"]
        saliency: Tensor = weight.detach().square() * moment
        best = int(saliency.masked_fill(zero, -1.0).argmax())
        saliency = saliency.masked_fill(zero, torch.inf)
        saliency.view(-1)[best] = torch.inf
        return saliency


def _lowest(values: list[Tensor], count: int) -> list[Tensor]:
    """Mark the ``count`` lowest finite numbers of all tensors, or all where there are fewer."""
    flat = torch.cat([value.flatten() for value in values])
    count = min(count, int(flat.isfinite().sum()))
    marks = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    marks[flat.argsort(stable=True)[:count]] = True
    parts = torch.split(marks, [value.numel() for value in values])
    return [part.view_as(value) for part, value in zip(parts, values, strict=True)]


def _trained_weight(model: nn.Module, layer: str) -> nn.Parameter:
    """Return the weight of a layer.

    Raises:
        UserError: the layer has no weight that is trained.
    """
    weight = find_module(model, layer)._parameters.get("weight")
    if weight is None or not weight.requires_grad:
        raise UserError(
            f"layer {layer!r} has no weight that is trained, so none of it can go; leave it out of "
            "the gradual removal, or unfreeze it"
        )
    return weight
