"""Attention of vision transformers, from which whole heads can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.pruning.attention_modules import (
    HeadAttention,
    by_head,
    joined_heads,
    own_parameter,
    unflattened,
)


class FusedAttention(HeadAttention):
    """Self-attention with one layer ``qkv`` for queries, keys and values, and one ``proj``.

    The layout of timm's and many other vision transformers: ``qkv`` puts out all queries, then all
    keys, then all values. It has the names of the original, so its weights fit.
    """

    SOURCES: ClassVar[dict[str, int]] = {"qkv": 3}
    SINK: ClassVar[str] = "proj"
    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Module
    norm: nn.Module
    proj: nn.Linear
    proj_drop: nn.Module
    PARTS: ClassVar[tuple[str, ...]] = (
        "qkv", "q_norm", "k_norm", "attn_drop", "norm", "proj", "proj_drop",
    )  # fmt: skip

    def __init__(self, closed: Any) -> None:
        """Share the layers of ``closed``."""
        super().__init__()
        self.num_heads = int(closed.num_heads)
        self.head_dim = closed.qkv.out_features // 3 // self.num_heads
        for name in self.PARTS:
            part = getattr(closed, name, None)
            setattr(self, name, nn.Identity() if part is None else part)
        self.training = closed.training

    def extra_repr(self) -> str:
        """Number and size of the heads."""
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attention among the positions of ``x`` (n, positions, entries), in the same shape."""
        q, k, v = (by_head(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        rate = getattr(self.attn_drop, "p", 0.0) if self.attn_drop.training else 0.0
        x = functional.scaled_dot_product_attention(
            self.q_norm(q), self.k_norm(k), v, attn_mask, float(rate), is_causal
        )
        out: Tensor = self.proj_drop(self.proj(self.norm(joined_heads(x))))
        return out


class WindowAttention(HeadAttention):
    """Attention within shifted windows of a map, as torchvision's Swin transformer has it.

    It has the names of the original, so its weights fit. Every head has a column of its own in the
    table of the relative position bias, which goes with the head.
    """

    SOURCES: ClassVar[dict[str, int]] = {"qkv": 3}
    SINK: ClassVar[str] = "proj"
    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor

    def __init__(self, closed: Any) -> None:
        """Share the layers and the table of ``closed``."""
        super().__init__()
        self.num_heads = int(closed.num_heads)
        self.head_dim = closed.qkv.out_features // 3 // self.num_heads
        self.window_size = tuple(closed.window_size)
        self.shift_size = tuple(closed.shift_size)
        self.attention_dropout, self.dropout = closed.attention_dropout, closed.dropout
        self.qkv, self.proj = closed.qkv, closed.proj
        self.relative_position_bias_table = closed.relative_position_bias_table
        self.register_buffer("relative_position_index", closed.relative_position_index)
        self.training = closed.training

    def extra_repr(self) -> str:
        """Number and size of the heads, and the windows."""
        heads = f"num_heads={self.num_heads}, head_dim={self.head_dim}"
        return f"{heads}, window_size={self.window_size}, shift_size={self.shift_size}"

    def head_parameters(self) -> int:
        """The rows of the table of the relative position bias."""
        return int(self.relative_position_bias_table.shape[0])

    def remove_heads(self, gone: Sequence[int]) -> None:
        """Forget heads, with their columns of the relative position bias."""
        table = self.relative_position_bias_table
        left = table[:, self._left(gone)]
        self.relative_position_bias_table = own_parameter(left, table.requires_grad)
        super().remove_heads(gone)

    def forward(self, x: Tensor) -> Tensor:
        """Attention within the windows of a map ``x`` (n, height, width, entries), same shape."""
        height, width = x.shape[1:3]
        (tall, wide), shift = self.window_size, self.shift_size
        x = functional.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        rows, columns = x.shape[1:3]
        # A map that is no larger than one window has nothing to be shifted into.
        down, right = (0 if tall >= rows else shift[0]), (0 if wide >= columns else shift[1])
        if down or right:
            x = x.roll((-down, -right), (1, 2))
        tiles = self._tiles(x)
        x = self._attended(tiles.flatten(3, 4).flatten(0, 2), (rows, columns), (down, right))
        x = x.reshape(*tiles.shape[:3], tall, wide, -1).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :height, :width].contiguous()

    def _tiles(self, x: Tensor) -> Tensor:
        """A map (n, height, width, entries) as (n, down, across, rows, columns, entries)."""
        tall, wide = self.window_size
        return unflattened(unflattened(x, 2, -1, wide), 1, -1, tall).transpose(2, 3)

    def _attended(self, x: Tensor, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        """Attention within each window of ``x`` (n * windows, positions, entries)."""
        q, k, v = (by_head(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias(x.shape[1])
        if any(shift):
            apart = self._apart(size, shift, x)
            scores = unflattened(scores, 0, -1, apart.shape[0]) + apart[:, None]
            scores = scores.flatten(0, 1)
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return functional.dropout(self.proj(joined_heads(weights @ v)), self.dropout, self.training)

    def _position_bias(self, positions: int) -> Tensor:
        """What is added to the scores of each head (1, heads, positions, positions)."""
        table = self.relative_position_bias_table[self.relative_position_index]
        return table.reshape(positions, positions, -1).permute(2, 0, 1).unsqueeze(0)

    def _apart(self, size: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
        """-100 between positions of a window that were not neighbours (windows, p, p)."""
        parts = []
        for length, window, moved in zip(size, self.window_size, shift, strict=True):
            part = torch.zeros(length, device=like.device)
            # torchvision's slice [-0:] covers everything, so an axis that is not moved is one part
            if moved:
                part[length - window :] = 1
                part[length - moved :] = 2
            parts.append(part)
        down, across = parts
        region = down[:, None] * 3 + across
        flat = self._tiles(region[None, :, :, None]).flatten(3).flatten(0, 2)
        differs = flat[:, None] != flat[:, :, None]
        return torch.zeros_like(differs, dtype=like.dtype).masked_fill(differs, -100.0)
