"""What attention layers have in common from which whole heads can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn


class HeadAttention(nn.Module):
    """An attention layer whose projections are linear layers of their own.

    The queries, keys and values of head ``h`` are entries ``h * head_dim`` and following of what
    each block of a source puts out, and of what the sink reads.

    Attributes:
        SOURCES: names of the linear layers that make queries, keys and values, each with the
            number of blocks (of queries, of keys, of values) that it puts out behind each other.
        SINK: name of the linear layer that reads what the heads have gathered.
        num_heads: number of heads that are there.
        head_dim: number of entries of one head.
        whole: why the heads cannot go; empty when they can.
    """

    SOURCES: ClassVar[dict[str, int]] = {}
    SINK: ClassVar[str] = ""
    num_heads: int
    head_dim: int
    whole: str = ""

    def head_parameters(self) -> int:
        """Number of parameters of one head that are outside the linear layers."""
        return 0

    def remove_heads(self, gone: Sequence[int]) -> None:
        """Forget heads, in place; what the linear layers hold of them is not touched here.

        Args:
            gone: heads, as they are numbered now.
        """
        self.num_heads -= len(set(gone))

    def _left(self, gone: Sequence[int]) -> list[int]:
        return [head for head in range(self.num_heads) if head not in set(gone)]


def unflattened(values: Tensor, dim: int, *sizes: int) -> Tensor:
    """One axis split into several; one of ``sizes`` may be -1."""
    dim %= values.dim()
    return values.reshape(*values.shape[:dim], *sizes, *values.shape[dim + 1 :])


def by_head(values: Tensor, count: int) -> Tensor:
    """(n, positions, heads * entries) -> (n, heads, positions, entries)."""
    return unflattened(values, -1, count, -1).transpose(1, 2)


def joined_heads(values: Tensor) -> Tensor:
    """(n, heads, positions, entries) -> (n, positions, heads * entries)."""
    return values.transpose(1, 2).flatten(2)


def own_parameter(values: Tensor, requires_grad: bool) -> nn.Parameter:
    """A parameter with these values, in a memory of its own."""
    return nn.Parameter(values.detach().clone(), requires_grad)
