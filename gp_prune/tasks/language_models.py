"""Build the language models of the tasks: small causal transformers over bytes.

One is built as a Llama (Touvron et al. 2023): RMS norms, rotary positions, grouped-query attention
and a gated MLP, without biases. The other one is built as a GPT-2 (Radford et al. 2019): layer
norms, learned positions and an MLP with GELU, with biases. Layers that multiply by weights are all
``nn.Linear``, one for each projection, and have the names that such models usually have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256
"""One token for each value of a byte."""
SEQUENCE = 128
"""Bytes of a sequence."""
HEAD = "head"
"""The last layer, from the residual stream to one output for each value of a byte."""

_ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Size:
    """Sizes of a transformer.

    Attributes:
        width: width of the residual stream.
        depth: number of blocks.
        heads: query heads of an attention.
        groups: heads of keys and values, each of which serves ``heads / groups`` query heads.
        hidden: width between the layers of an MLP.
    """

    width: int
    depth: int
    heads: int
    groups: int
    hidden: int


class Attention(nn.Module):
    """Causal self-attention with rotary positions or without; queries share keys and values."""

    def __init__(self, size: Size, *, bias: bool) -> None:
        """Build the four projections."""
        super().__init__()
        self.heads, self.groups = size.heads, size.groups
        self.head_width = size.width // size.heads
        narrow = size.groups * self.head_width
        self.q_proj = nn.Linear(size.width, size.width, bias=bias)
        self.k_proj = nn.Linear(size.width, narrow, bias=bias)
        self.v_proj = nn.Linear(size.width, narrow, bias=bias)
        self.o_proj = nn.Linear(size.width, size.width, bias=bias)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """(n, t, width) to (n, t, width); ``rotation`` (2, t, head width) has cosines and sines."""
        n, t, _ = x.shape
        query, key, value = (
            layer(x).reshape(n, t, -1, self.head_width).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotation is not None:
            query, key = _rotate(query, rotation), _rotate(key, rotation)
        if self.groups < self.heads:
            repeats = self.heads // self.groups
            key, value = (part.repeat_interleave(repeats, 1) for part in (key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(n, t, -1))
        return output


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each pair of entries d and d + half of the heads (n, heads, t, d) by its angle."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    rotated: Tensor = x * cosine + torch.cat([-second, first], dim=-1) * sine
    return rotated


class GatedMLP(nn.Module):
    """The MLP of a Llama: ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, size: Size) -> None:
        """Build the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(size.width, size.hidden, bias=False)
        self.up_proj = nn.Linear(size.width, size.hidden, bias=False)
        self.down_proj = nn.Linear(size.hidden, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, width) to (n, t, width)."""
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class MLP(nn.Module):
    """The MLP of a GPT-2: ``down(gelu(up(x)))``."""

    def __init__(self, size: Size) -> None:
        """Build the two projections."""
        super().__init__()
        self.up_proj = nn.Linear(size.width, size.hidden)
        self.down_proj = nn.Linear(size.hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, width) to (n, t, width)."""
        output: Tensor = self.down_proj(functional.gelu(self.up_proj(x)))
        return output


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream, to which it is added."""

    def __init__(self, size: Size, *, llama: bool) -> None:
        """Build a block of a Llama or of a GPT-2."""
        super().__init__()
        norm = nn.RMSNorm if llama else nn.LayerNorm
        self.attention_norm = norm(size.width)
        self.attention = Attention(size, bias=not llama)
        self.mlp_norm = norm(size.width)
        self.mlp: nn.Module = GatedMLP(size) if llama else MLP(size)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        """(n, t, width) to (n, t, width)."""
        x = x + self.attention(self.attention_norm(x), rotation)
        output: Tensor = x + self.mlp(self.mlp_norm(x))
        return output


class LanguageModel(nn.Module):
    """A causal transformer that predicts the next token at every position.

    Args:
        size: its sizes.
        llama: whether it is built as a Llama, else as a GPT-2.
        vocabulary: number of tokens.
        length: most tokens of a sequence.
    """

    rotation: Tensor | None

    def __init__(
        self, size: Size, *, llama: bool, vocabulary: int = VOCABULARY, length: int = SEQUENCE
    ) -> None:
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(vocabulary, size.width)
        self.positions = None if llama else nn.Embedding(length, size.width)
        self.layers = nn.ModuleList(Block(size, llama=llama) for _ in range(size.depth))
        self.norm = nn.RMSNorm(size.width) if llama else nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, vocabulary, bias=False)
        rotation = _rotation(length, size.width // size.heads) if llama else None
        self.register_buffer("rotation", rotation, persistent=False)
        self._initialise(size)

    def _initialise(self, size: Size) -> None:
        """Draw the first weights: normal, those that write to the residual stream smaller."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
            elif isinstance(module, nn.Linear):
                writes = name.endswith(("o_proj", "down_proj"))
                scale = (2 * size.depth) ** -0.5 if writes else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t) whole numbers to (n, t, vocabulary), the logits of the token that follows each."""
        count = tokens.shape[1]
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[:count]
        rotation = None if self.rotation is None else self.rotation[:, :count]
        for block in self.layers:
            x = block(x, rotation)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _rotation(length: int, width: int) -> Tensor:
    """Return cosines and sines (2, length, width) of the rotary positions (Su et al. 2021)."""
    speeds = _ROTARY_BASE ** -(torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length), speeds).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def _llama(size: Size) -> Callable[[], LanguageModel]:
    return lambda: LanguageModel(size, llama=True)


def _gpt(size: Size) -> Callable[[], LanguageModel]:
    return lambda: LanguageModel(size, llama=False)


LANGUAGE_MODELS: dict[str, Callable[[], LanguageModel]] = {
    "llama": _llama(Size(width=64, depth=3, heads=4, groups=2, hidden=176)),
    "gpt": _gpt(Size(width=64, depth=3, heads=4, groups=4, hidden=256)),
    "llama_wide": _llama(Size(width=96, depth=2, heads=6, groups=2, hidden=256)),
    "llama_deep": _llama(Size(width=64, depth=4, heads=4, groups=1, hidden=176)),
    "gpt_wide": _gpt(Size(width=96, depth=2, heads=6, groups=6, hidden=384)),
}
"""Every language model that a task name can start with."""
