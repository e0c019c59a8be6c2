"""Compute attention step by step, so that whole heads can be removed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class HeadAttention(nn.Module):
    """An attention layer whose projections are linear layers.

    The queries, keys and values of head ``h`` are entries ``h * head_dim`` and following of what
    each block of a source puts out, and of what the sink reads.

    Attributes:
        SOURCES: names of the linear layers that make queries, keys and values, each with the
            number of blocks (of queries, of keys, of values) that it puts out one after another.
        SINK: name of the linear layer that reads what the heads have gathered.
        num_heads: number of heads that are left.
        head_dim: number of entries of one head.
        whole: why the heads cannot go; empty when they can.
    """

    SOURCES: ClassVar[dict[str, int]] = {"qkv": 3}
    SINK: ClassVar[str] = "proj"
    num_heads: int
    head_dim: int
    whole: str = ""

    def extra_repr(self) -> str:
        """Return number and size of the heads."""
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"

    def head_parameters(self) -> int:
        """Return the number of parameters of one head that are outside the linear layers."""
        return 0

    def remove_heads(self, heads: Sequence[int]) -> None:
        """Forget heads, in place; what the linear layers hold of them is not touched here.

        Args:
            heads: their numbers now.
        """
        self.num_heads -= len(set(heads))

    def _others(self, heads: Sequence[int]) -> list[int]:
        return [head for head in range(self.num_heads) if head not in set(heads)]


def _by_head(values: Tensor, count: int) -> Tensor:
    """(n, positions, heads * entries) -> (n, heads, positions, entries)."""
    return torch.unflatten(values, -1, (count, -1)).transpose(1, 2)


def _join_heads(values: Tensor) -> Tensor:
    """(n, heads, positions, entries) -> (n, positions, heads * entries)."""
    return values.transpose(1, 2).flatten(2)


def _copy_parameter(values: Tensor, requires_grad: bool) -> nn.Parameter:
    return nn.Parameter(values.detach().clone(), requires_grad)


class OpenAttention(HeadAttention):
    """Computes what :class:`torch.nn.MultiheadAttention` computes, with four linear layers.

    It takes the same arguments and returns the same pair. ``q_proj``, ``k_proj``, ``v_proj`` and
    ``out_proj`` are called as modules on batch-first inputs, so hooks, masks and counters see
    them. A mask for every head (n * heads, positions, positions) is made for the heads that the
    layer once had; those that are left find their own part in it.
    """

    SOURCES: ClassVar[dict[str, int]] = {"q_proj": 1, "k_proj": 1, "v_proj": 1}
    SINK: ClassVar[str] = "out_proj"

    # torch's transformer layers look for these and compute step by step when they are missing.
    in_proj_weight: None = None
    in_proj_bias: None = None
    _qkv_same_embed_dim = False
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(self, closed: nn.MultiheadAttention) -> None:
        """Take over the numbers of ``closed``; only the output projection is shared with it."""
        super().__init__()
        self.embed_dim = closed.embed_dim
        self.num_heads, self.head_dim = closed.num_heads, closed.head_dim
        self.dropout, self.batch_first = closed.dropout, closed.batch_first
        self.add_zero_attn = closed.add_zero_attn
        self.all_heads = closed.num_heads
        self.left = list(range(closed.num_heads))
        packed, bias = closed.in_proj_weight, closed.in_proj_bias
        separate = (closed.q_proj_weight, closed.k_proj_weight, closed.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        for name, weight, part in zip(self.SOURCES, weights, biases, strict=True):
            trained = (weight if packed is None else packed).requires_grad
            layer = _linear(
                _copy_parameter(weight, trained),
                None if bias is None else _copy_parameter(part, bias.requires_grad),
            )
            setattr(self, name, layer)
        last: Any = closed.out_proj
        self.out_proj = _linear(last.weight, last.bias)
        for name in ("bias_k", "bias_v"):
            extra = getattr(closed, name)
            copied = None if extra is None else _copy_parameter(extra, extra.requires_grad)
            self.register_parameter(name, copied)
        self.train(closed.training)

    def head_parameters(self) -> int:
        """Return the number of entries of the learned extra key and value."""
        return 0 if self.bias_k is None else 2 * self.head_dim

    def remove_heads(self, heads: Sequence[int]) -> None:
        """Forget heads, with their entries in the learned extra key and value."""
        left = self._others(heads)
        for name in ("bias_k", "bias_v"):
            extra = getattr(self, name)
            if extra is not None:
                entries = torch.unflatten(extra, -1, (self.num_heads, -1))[:, :, left].flatten(2)
                setattr(self, name, _copy_parameter(entries, extra.requires_grad))
        self.left = [self.left[head] for head in left]
        super().remove_heads(heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what :meth:`torch.nn.MultiheadAttention.forward` does, with the same shapes."""
        if is_causal and attn_mask is None:
            raise RuntimeError("attention with is_causal=True needs attn_mask, the causal mask")
        batched = query.dim() == 3
        swapped = batched and not self.batch_first
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif swapped:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        causal = is_causal and key_padding_mask is None and not need_weights
        q, k, v = self._project(query, key, value)
        mask = self._join_masks(None if causal else attn_mask, key_padding_mask, q, k.shape[2])
        gathered, weights = self._gather(q, k, v, mask, causal, need_weights)
        out = self.out_proj(_join_heads(gathered))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return (out.transpose(0, 1) if swapped else out), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values (n, heads, positions, entries)."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if self.bias_k is not None and self.bias_v is not None:
            samples = k.shape[0]
            k = torch.cat([k, self.bias_k.expand(samples, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(samples, -1, -1)], 1)
        q, k, v = (_by_head(x, self.num_heads) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
        return q, k, v

    def _join_masks(
        self, attention: Tensor | None, padding: Tensor | None, q: Tensor, keys: int
    ) -> Tensor | None:
        """Return both masks as one to add (n or 1, heads or 1, positions or 1, keys)."""
        attention, padding = _additive(attention, q), _additive(padding, q)
        if attention is not None:
            if attention.dim() == 3:
                attention = torch.unflatten(attention, 0, (q.shape[0], self.all_heads))[
                    :, self.left
                ]
            else:
                attention = attention[None, None]
            attention = functional.pad(attention, (0, keys - attention.shape[-1]))
        if padding is None:
            return attention
        padding = functional.pad(padding, (0, keys - padding.shape[-1]))[:, None, None]
        return padding if attention is None else attention + padding

    def _gather(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, weigh: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not weigh:
            if mask is not None:  # one kernel of torch wants a row of the mask for every query
                mask = mask.expand(-1, -1, q.shape[2], -1)
            return functional.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = (q * math.sqrt(1 / self.head_dim)) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        if dropout > 0:
            weights = functional.dropout(weights, dropout)
        return weights @ v, weights


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a mask as numbers to add: minus infinity where a boolean mask is true."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """Return a linear layer that holds these very parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


class FusedAttention(HeadAttention):
    """Self-attention with one layer ``qkv`` for queries, keys and values, and one ``proj``.

    The layout of timm's and many other vision transformers: ``qkv`` puts out all queries, then all
    keys, then all values. It has the names of the original, so its weights fit.
    """

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

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend among the positions of ``x`` (n, positions, entries); return the same shape."""
        q, k, v = (_by_head(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        rate = getattr(self.attn_drop, "p", 0.0) if self.attn_drop.training else 0.0
        x = functional.scaled_dot_product_attention(
            self.q_norm(q), self.k_norm(k), v, attn_mask, float(rate), is_causal
        )
        out: Tensor = self.proj_drop(self.proj(self.norm(_join_heads(x))))
        return out


class WindowAttention(HeadAttention):
    """Attention within shifted windows of a map, as torchvision's Swin transformer has it.

    It has the names of the original, so its weights fit. Every head has a column in the table
    of the relative position bias, which goes with the head.
    """

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
        """Return number and size of the heads, and the windows."""
        return (
            f"{super().extra_repr()}, window_size={self.window_size}, shift_size={self.shift_size}"
        )

    def head_parameters(self) -> int:
        """Return the number of rows of the table of the relative position bias."""
        return int(self.relative_position_bias_table.shape[0])

    def remove_heads(self, heads: Sequence[int]) -> None:
        """Forget heads, with their columns of the relative position bias."""
        table = self.relative_position_bias_table
        left = _copy_parameter(table[:, self._others(heads)], table.requires_grad)
        self.relative_position_bias_table = left
        super().remove_heads(heads)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the windows of a map ``x`` (n, height, width, entries)."""
        height, width = x.shape[1:3]
        (tall, wide), shift = self.window_size, self.shift_size
        x = functional.pad(x, (0, 0, 0, -width % wide, 0, -height % tall))
        rows, columns = x.shape[1:3]
        # A map that is no larger than one window has nothing to be shifted into.
        down, right = (0 if tall >= rows else shift[0]), (0 if wide >= columns else shift[1])
        if down or right:
            x = x.roll((-down, -right), (1, 2))
        tiles = self._tile(x)
        x = self._attend(tiles.flatten(3, 4).flatten(0, 2), (rows, columns), (down, right))
        x = x.reshape(*tiles.shape[:3], tall, wide, -1).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)
        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :height, :width].contiguous()

    def _tile(self, x: Tensor) -> Tensor:
        """Return a map (n, height, width, entries) as (n, down, across, rows, columns, entries)."""
        tall, wide = self.window_size
        return torch.unflatten(torch.unflatten(x, 2, (-1, wide)), 1, (-1, tall)).transpose(2, 3)

    def _attend(self, x: Tensor, size: tuple[int, int], shift: tuple[int, int]) -> Tensor:
        """Attend within each window of ``x`` (n * windows, positions, entries)."""
        q, k, v = (_by_head(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias(x.shape[1])
        if any(shift):
            apart = self._separate(size, shift, x)
            scores = torch.unflatten(scores, 0, (-1, apart.shape[0])) + apart[:, None]
            scores = scores.flatten(0, 1)
        weights = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        return functional.dropout(self.proj(_join_heads(weights @ v)), self.dropout, self.training)

    def _position_bias(self, positions: int) -> Tensor:
        """Return what is added to the scores of each head (1, heads, positions, positions)."""
        table = self.relative_position_bias_table[self.relative_position_index]
        return table.reshape(positions, positions, -1).permute(2, 0, 1).unsqueeze(0)

    def _separate(self, size: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Tensor:
        """Return -100 between positions of a window that were not neighbours (windows, p, p)."""
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
        flat = self._tile(region[None, :, :, None]).flatten(3).flatten(0, 2)
        differs = flat[:, None] != flat[:, :, None]
        return torch.zeros_like(differs, dtype=like.dtype).masked_fill(differs, -100.0)
