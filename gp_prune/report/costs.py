"""What scoring with a metric costs: the work of its operators, and the passes over the data."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from gp_prune.expression import Expression
from gp_prune.layer import LOSS_NEEDS
from gp_prune.primitive import Operator

WITHOUT_DATA = frozenset({"noise", "outgoing", "synflow"})
"""Needs that are met without calibration data."""


def operator_cost(expression: Expression) -> float:
    """The sum of the operators' declared costs; 1 is an addition of tensors of the same size.

    A subtree that stands more than once is computed once.
    """
    return sum(
        node.head.cost for node in set(expression.nodes()) if isinstance(node.head, Operator)
    )


def passes(needs: AbstractSet[str]) -> str:
    """Which passes over the calibration data meet the needs, in words."""
    if "hessian" in needs:
        return "two passes, forward and backward"
    if needs & LOSS_NEEDS:
        return "one pass, forward and backward"
    if needs - WITHOUT_DATA:
        return "one pass, forward"
    return "no data, one pass over a sample of ones" if "synflow" in needs else "no data"
