"""torch's multi-head attention, made of plain linear layers."""

from __future__ import annotations

import math
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
        packed = closed.in_proj_weight
        if packed is None:
            q, k, v = closed.q_proj_weight, closed.k_proj_weight, closed.v_proj_weight
        else:
            q, k, v = packed.chunk(3)
        bias = closed.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        for name, weight, part in zip(self.SOURCES, (q, k, v), biases, strict=True):
            source = weight if packed is None else packed
            own = None if part is None else own_parameter(part, bias.requires_grad)
            setattr(self, name, _linear(own_parameter(weight, source.requires_grad), own))
        last: Any = closed.out_proj
        self.out_proj = _linear(last.weight, last.bias)
        for name in ("bias_k", "bias_v"):
            extra = getattr(closed, name)
            kept = None if extra is None else own_parameter(extra, extra.requires_grad)
            self.register_parameter(name, kept)
        self.train(closed.training)

    def extra_repr(self) -> str:
        """Number and size of the heads."""
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"

    def head_parameters(self) -> int:
        """The entries of the learned extra key and value."""
        return 0 if self.bias_k is None else 2 * self.head_dim

    def remove_heads(self, gone: Sequence[int]) -> None:
        """Forget heads, with their entries in the learned extra key and value."""
        left = self._left(gone)
        for name in ("bias_k", "bias_v"):
            extra = getattr(self, name)
            if extra is not None:
                entries = unflattened(extra, -1, self.num_heads, -1)[:, :, left].flatten(2)
                setattr(self, name, own_parameter(entries, extra.requires_grad))
        self.left = [self.left[head] for head in left]
        super().remove_heads(gone)

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
        """As :meth:`torch.nn.MultiheadAttention.forward`, with the same shapes."""
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
        q, k, v = self._projected(query, key, value)
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q, k.shape[2])
        gathered, weights = self._gathered(q, k, v, mask, causal, need_weights)
        out = self.out_proj(joined_heads(gathered))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return (out.transpose(0, 1) if swapped else out), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (n, heads, positions, entries)."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if self.bias_k is not None and self.bias_v is not None:
            samples = k.shape[0]
            k = torch.cat([k, self.bias_k.expand(samples, -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(samples, -1, -1)], 1)
        q, k, v = (by_head(x, self.num_heads) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
        return q, k, v

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, q: Tensor, keys: int
    ) -> Tensor | None:
        """Both masks as one to add (n or 1, heads or 1, positions or 1, keys)."""
        attention, padding = _additive(attention, q), _additive(padding, q)
        if attention is not None:
            if attention.dim() == 3:
                attention = unflattened(attention, 0, q.shape[0], self.all_heads)[:, self.left]
            else:
                attention = attention[None, None]
            attention = functional.pad(attention, (0, keys - attention.shape[-1]))
        if padding is None:
            return attention
        padding = functional.pad(padding, (0, keys - padding.shape[-1]))[:, None, None]
        return padding if attention is None else attention + padding

    def _gathered(
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
    """A mask as numbers to add: minus infinity where a boolean mask is true."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A linear layer that holds these very parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer
