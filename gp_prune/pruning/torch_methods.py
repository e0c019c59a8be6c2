"""Offer methods of :mod:`torch.nn.utils.prune` that rank scores as they are.

Torch's own methods rank the magnitudes of importance scores, so that a weight of score -10 stays
and one of score 3 goes, and take NaN without complaint.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning.plan.weights import Pattern
from gp_prune.pruning.select.scores import Scores, as_array, is_constant
from gp_prune.pruning.select.weights import mark_lowest, transposed_groups, view_by_output


class ImportanceScores(dict[tuple[nn.Module, str], Tensor]):
    """(module, parameter name) -> scores, for ``torch.nn.utils.prune.global_unstructured``.

    Torch ranks the values of a parameter that has no scores; these refuse it instead.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the scores of a parameter, whatever ``default`` is.

        Raises:
            UserError: the parameter has none.
        """
        if key not in self:
            module, name = key
            raise UserError(
                f"parameter {name!r} of {type(module).__name__} has no importance scores; score "
                "it, or leave it out of the parameters"
            )
        return self[key]


class _ScoreMethod(prune.BasePruningMethod):
    @classmethod
    def _attach(
        cls, module: nn.Module, name: str, importance_scores: Tensor, *settings: Any
    ) -> prune.BasePruningMethod:
        """Prune one parameter of a module, in place, by a method with these settings."""
        weight = getattr(module, name)
        if importance_scores.shape != weight.shape:
            raise UserError(
                f"parameter {name!r} of {type(module).__name__} has shape {tuple(weight.shape)}, "
                f"its importance scores {tuple(importance_scores.shape)}; give one score per weight"
            )
        present = getattr(module, f"{name}_mask", None)
        mask = torch.ones_like(weight) if present is None else present.detach()
        scores = importance_scores.detach().to(mask.device)
        # Tried out first: where torch's own method fails, it leaves an older mask without its hook.
        cls(*settings).compute_mask(scores, mask)  # type: ignore[no-untyped-call]
        # Without gradients the masked weight stays a leaf tensor, so the model can be copied.
        with torch.no_grad():
            return super().apply(  # type: ignore[no-any-return, no-untyped-call]
                module, name, *settings, importance_scores=scores
            )


class MetricUnstructured(_ScoreMethod):
    """Removes the weights with the lowest scores, in exact number.

    A negative score is less than a positive one. Of equal scores the earlier in the tensor goes
    first. Weights that an earlier method has pruned stay pruned and are not counted.

    Args:
        amount: how many of the remaining weights go (a whole number), or which share of them (a
            float in [0, 1]; rounded to the nearest whole number, a half to the even one, as all
            methods of torch do).

    Raises:
        UserError: the amount is neither.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        count = isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0
        if not count and not (isinstance(amount, float) and 0 <= amount <= 1):
            raise UserError(
                f"amount is {amount!r}; it must be a number of weights (a whole number from 0) or "
                "a share of them (a float from 0.0 to 1.0)"
            )
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return the mask without the lowest scores.

        Args:
            t: scores of any shape.
            default_mask: ones where a weight remains, of the same shape.

        Raises:
            UserError: scores are not finite or all equal, or the weights themselves were given,
                or fewer weights remain than ``amount``.
        """
        remaining = default_mask.flatten() != 0
        removed = torch.from_numpy(self._mark(_remaining_scores(t, default_mask)))
        mask = default_mask.clone(memory_format=torch.contiguous_format)
        mask.view(-1)[remaining] = (~removed).to(mask.device, mask.dtype)
        return mask

    def _mark(self, scores: Scores) -> Any:
        """Mark those of the remaining scores (any,) that go."""
        size = scores.size
        count = round(self.amount * size) if isinstance(self.amount, float) else self.amount
        if count > size:
            raise UserError(
                f"amount is {count}, but only {size} weights remain; give at most as many, or a "
                "share as a float"
            )
        if 0 < count < size:
            _refuse_constant(scores)
        return mark_lowest(scores[None], count)[0]

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, amount: float, *, importance_scores: Tensor
    ) -> prune.BasePruningMethod:
        """Prune one parameter, in place, on top of the masks that it has.

        Args:
            module: holds the parameter.
            name: of the parameter, such as ``"weight"``.
            amount: see the class.
            importance_scores: one score per weight, of the parameter's shape; higher = keep.

        Returns:
            The method that is now attached to the parameter.

        Raises:
            UserError: the scores have another shape, or see :meth:`compute_mask`.
        """
        return cls._attach(module, name, importance_scores, amount)


class MetricPattern(_ScoreMethod):
    """Of every m consecutive weights along the input dimension keeps the n with the highest scores.

    Weights that an earlier method has pruned stay pruned and count among those of their block that
    go. See :class:`~gp_prune.pruning.Pattern` for what a block is.

    Args:
        pattern: n and m.
        groups: for a transposed convolution its number of groups, otherwise 0.
    """

    PRUNING_TYPE = "global"  # torch's word for a method that is given the whole tensor

    def __init__(self, pattern: Pattern, groups: int = 0) -> None:
        self.pattern = pattern
        self.groups = groups

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return the mask with the pattern.

        Args:
            t: scores in the layout of the weight, whose input width is a multiple of m.
            default_mask: ones where a weight remains, of the same shape.

        Raises:
            UserError: scores are not finite or all equal, or the weights themselves were given.
        """
        _refuse_constant(_remaining_scores(t, default_mask))
        remaining = (default_mask != 0).cpu().numpy()
        scores = np.where(remaining, as_array(t, "importance_scores"), -np.inf)
        rows = view_by_output(scores, self.groups).swapaxes(2, 3)
        removed = mark_lowest(rows.reshape(-1, self.pattern.m), self.pattern.m - self.pattern.n)
        stays = np.empty(scores.shape, dtype=bool)
        view_by_output(stays, self.groups).swapaxes(2, 3)[...] = ~removed.reshape(rows.shape)
        return default_mask * torch.from_numpy(stays).to(default_mask.device, default_mask.dtype)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: nn.Module, name: str, pattern: Pattern, *, importance_scores: Tensor
    ) -> prune.BasePruningMethod:
        """Prune the weight of a layer, in place, on top of the masks that it has.

        Args:
            module: a convolution, transposed convolution or linear layer.
            name: ``"weight"``.
            pattern: n and m.
            importance_scores: one score per weight, of the weight's shape; higher = keep.

        Returns:
            The method that is now attached to the weight.

        Raises:
            UserError: the layer cannot have the pattern, the scores have another shape, or see
                :meth:`compute_mask`.
        """
        reason = pattern.obstacle(module) if name == "weight" else f"{name!r} has no input"
        if reason:
            raise UserError(
                f"{type(module).__name__} cannot have the pattern {pattern} ({reason}); leave it "
                "whole, or use another pattern"
            )
        return cls._attach(module, name, importance_scores, pattern, transposed_groups(module))


def _remaining_scores(scores: Tensor, mask: Tensor) -> Scores:
    """Return the scores (any,) of the weights that remain, in order."""
    if scores.requires_grad:
        raise UserError(
            "the weights themselves were given to be ranked, not the scores of a metric; pass "
            "importance_scores"
        )
    values = as_array(scores[mask != 0], "importance_scores")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise UserError(
            f"{bad} of {values.size} importance scores are NaN or infinite; use another metric or "
            "trained weights"
        )
    return values


def _refuse_constant(scores: Scores) -> None:
    if is_constant(scores):
        raise UserError(
            f"all {scores.size} importance scores are equal, so they rank nothing; use another "
            "metric or trained weights"
        )
