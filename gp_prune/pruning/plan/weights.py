"""Hold a weight plan: which single weights stay, one bit each."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.base.json_fields import canonical_digest, check_digest, check_type, read_object
from gp_prune.errors import UserError
from gp_prune.pruning.modules import Conv, Prunable, find_holders, weight_of
from gp_prune.pruning.plan.channels import Budget, check_shares, read_plan


@dataclass(frozen=True)
class Pattern:
    """Of every ``m`` consecutive weights along the input dimension, ``n`` stay (written ``n:m``).

    Hardware that multiplies sparse matrices (2:4) wants the zeros spread evenly along the
    dimension over which a product sums up. For a linear layer a block is m consecutive input
    features of one output feature. A convolution sums over input channels and taps; it runs as a
    matrix product with the input channel as the fastest index, so a block is m consecutive input
    channels of one output channel and one tap. Grouped layers have their blocks within a group,
    and transposed convolutions along their input channels, too.

    Source: Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378, 2021.

    Attributes:
        n: weights of a block that stay, at least 1.
        m: size of a block, greater than ``n``.

    Raises:
        UserError: n and m are not whole numbers with 1 <= n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("n", "m"):
            check_type(getattr(self, name), int, f"{name} of a pattern n:m")
        if self.n > self.m > 0:
            raise UserError(
                f"pattern '{self.n}:{self.m}' would keep {self.n} of only {self.m} weights; it "
                f"must keep at least one and remove at least one, did you mean '{self.m}:{self.n}'?"
            )
        if not 1 <= self.n < self.m:
            raise UserError(
                f"pattern '{self.n}:{self.m}' keeps {self.n} of every {self.m} weights; it must "
                "keep at least one and remove at least one, like 2:4"
            )

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern from its text, such as ``2:4``.

        Raises:
            UserError: the text is not two numbers n:m with 1 <= n < m.
        """
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*:\s*([0-9]{1,6})\s*", text)
        if match is None:
            raise UserError(
                f"pattern {text!r} is not valid; write how many of how many consecutive weights "
                "stay, like 2:4"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def kind(self) -> str:
        """Return the text, which stands where a budget says what it counts."""
        return str(self)

    @property
    def keep(self) -> float:
        """Return the share of the weights of a block that stays."""
        return self.n / self.m

    @property
    def budget(self) -> Budget:
        """Return the share of weights that a layer keeps in which all blocks have the pattern."""
        return Budget("params", self.keep)

    def obstacle(self, module: nn.Module) -> str:
        """Return why a layer cannot have the pattern and stays whole; empty where it can have it.

        Args:
            module: a convolution, transposed convolution or linear layer.
        """
        groups, inputs = 1, getattr(module, "in_features", 0)
        if isinstance(module, Conv):
            groups, inputs = module.groups, module.in_channels
        width = inputs // groups
        what = "its input width" if groups == 1 else "the input width of its groups"
        if width < self.m:
            return f"{what} is {width}, less than a block of {self.m}"
        if width % self.m:
            return f"{what} is {width}, not a multiple of {self.m}"
        return ""

    def to_json(self) -> dict[str, int]:
        """Return the numbers as a JSON object."""
        return {"n": self.n, "m": self.m}

    @classmethod
    def from_json(cls, data: Any) -> Pattern:
        """Read what :meth:`to_json` wrote; UserError names what is wrong with it."""
        return cls(**read_object(data, "pattern", {"n": int, "m": int}))


Target = Budget | Pattern
"""How much of a network is to be kept: a share of what is counted, or a pattern."""

_SCHEMA = 2
_KIND = "weight plan"
_MOST_DIMENSIONS = 8
_MOST_WEIGHTS = 2**31
"""Weights of a plan that is read without the network that it belongs to."""


@dataclass(frozen=True)
class PackedMask:
    """Which weights of a layer stay, one bit each.

    Attributes:
        shape: shape of the layer's own weight tensor.
        bits: ``numpy.packbits`` of the mask in C order, 1 = stays.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def pack(cls, kept: NDArray[np.bool_]) -> PackedMask:
        """Pack a mask of the weight's shape."""
        return cls(tuple(kept.shape), np.packbits(kept.ravel()).tobytes())

    def unpack(self) -> NDArray[np.bool_]:
        """Return the mask in the weight's shape."""
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=math.prod(self.shape))
        return flat.astype(bool).reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Return the shape, and bits as base64 of zlib."""
        text = base64.b64encode(zlib.compress(self.bits, 9)).decode()
        return {"shape": list(self.shape), "bits": text}

    @classmethod
    def from_json(cls, data: Any, layer: str, shape: tuple[int, ...] | None = None) -> PackedMask:
        """Read what :meth:`to_json` wrote.

        Args:
            data: what was read.
            layer: name of the layer, for the message.
            shape: of the layer's weight, with which the mask is compared before it is unpacked;
                by default any of at most 2^31 weights.

        Raises:
            UserError: the mask is damaged, or has another shape.
        """
        what = f"mask of layer {layer!r}"
        fields = read_object(data, what, {"shape": list, "bits": str})
        if len(fields["shape"]) > _MOST_DIMENSIONS:
            raise UserError(f"the {what} has more than {_MOST_DIMENSIONS} dimensions")
        for size in fields["shape"]:
            check_type(size, int, f"a size of the {what}")
            if size < 1:
                raise UserError(f"a size of the {what} is {size}; it must be at least 1")
        if shape is not None and tuple(fields["shape"]) != shape:
            raise UserError(_other_shape(layer, shape, tuple(fields["shape"])))
        count = math.prod(fields["shape"])
        if shape is None and count > _MOST_WEIGHTS:
            raise UserError(
                f"the {what} has {count:,} weights; a plan that is read without its network may "
                f"have {_MOST_WEIGHTS:,}"
            )
        length = (count + 7) // 8
        try:
            packed = base64.b64decode(fields["bits"], validate=True)
            # Never unpack more than the shape needs, whatever the file holds.
            bits = zlib.decompressobj().decompress(packed, length + 1)
        except (ValueError, zlib.error) as error:  # binascii.Error too, and text beyond ASCII
            raise UserError(f"the {what} is damaged: {error}") from None
        if len(bits) != length:
            raise UserError(f"the {what} is damaged: its bits do not fill its shape")
        return cls(tuple(fields["shape"]), bits)


@dataclass(frozen=True)
class AchievedWeights:
    """Shares kept: of the layers' weights, and of the MACs when zeros cost nothing.

    ``macs`` is None when the weights were chosen without an architecture.
    """

    params: float
    macs: float | None


@dataclass(frozen=True)
class WeightPlan:
    """Which single weights stay.

    Attributes:
        kept: layer name -> mask.
        asked: the budget, of kind ``"params"`` or ``"macs"``; that of the pattern if there is one.
        achieved: the shares that are really kept, of all layers, the whole ones included.
        ties: share of the ranked weights whose score equals another's in the same ranking.
        pattern: the N:M pattern of every layer in ``kept``; None where weights are free.
        whole: layer name -> why it cannot have the pattern and keeps all its weights.
        undecided: share of the ranked weights, those that are zero left out, whose score equals
            that of a weight of the other fate, so that position alone decided; not written to
            files, and 0 where at most half of the scores are tied.

    Raises:
        UserError: the budget is not that of the pattern, or a layer is both whole and masked.
    """

    kept: dict[str, PackedMask]
    asked: Budget
    achieved: AchievedWeights
    ties: float = 0.0
    pattern: Pattern | None = None
    whole: dict[str, str] = field(default_factory=dict)
    undecided: float = field(default=0.0, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the fields belong together."""
        if self.pattern is not None and self.asked != self.pattern.budget:
            raise UserError(
                f"a weight plan of pattern {self.pattern} asks for {self.asked.keep} of the "
                f"{self.asked.kind}; it must ask for {self.pattern.budget.keep} of the params"
            )
        for name in self.whole:
            if name in self.kept:
                raise UserError(f"layer {name!r} of the weight plan is both whole and masked")

    def masks(self, model: nn.Module) -> dict[tuple[str, str], Tensor]:
        """Return (layer, ``"weight"``) -> bool tensor of the weight's shape, on its device.

        Layers that share a weight all have its mask.

        Raises:
            UserError: the model lacks a layer, or its weight has another shape.
        """
        masks: dict[tuple[str, str], Tensor] = {}
        holders = find_holders(model)
        for name, packed in self.kept.items():
            weight = weight_of(model, name)
            if tuple(weight.shape) != packed.shape:
                raise UserError(_other_shape(name, tuple(weight.shape), packed.shape))
            mask = torch.from_numpy(packed.unpack()).to(weight.device)
            for holder, module in holders[id(weight)]:
                if isinstance(module, Prunable):
                    masks[holder, "weight"] = mask
        return masks

    def digest(self) -> str:
        """Return the SHA-256 of the masks: equal exactly for plans that keep the same weights."""
        return canonical_digest({
            name: [list(mask.shape), hashlib.sha256(mask.bits).hexdigest()]
            for name, mask in self.kept.items()
        })  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "schema_version": _SCHEMA,
            "kind": _KIND,
            "kept": {name: mask.to_json() for name, mask in sorted(self.kept.items())},
            "asked": asdict(self.asked),
            "achieved": asdict(self.achieved),
            "ties": self.ties,
            "pattern": None if self.pattern is None else self.pattern.to_json(),
            "whole": dict(sorted(self.whole.items())),
            "digest": self.digest(),
        }

    @classmethod
    def from_json(cls, data: Any, model: nn.Module | None = None) -> WeightPlan:
        """Read what :meth:`to_json` wrote.

        Args:
            data: what was read.
            model: the network that the plan was made for. A small file can hold the masks of a
                huge network; with it, they are compared before they are unpacked.

        Raises:
            UserError: a field is unknown, missing, of the wrong type or out of range, the digest
                does not fit the content, or the masks do not fit the network.
        """
        fields = read_plan(data, _KIND, _SCHEMA, {"kept": dict, "pattern": object})
        read_object(fields["achieved"], "achieved", {"params": float, "macs": object})
        achieved = AchievedWeights(**fields["achieved"])
        if achieved.macs is not None:
            check_type(achieved.macs, float, "field 'macs' of achieved")
        check_shares({
            "params": achieved.params, "macs": achieved.macs or 0.0, "ties": fields["ties"]
        })  # fmt: skip
        pattern = fields["pattern"]
        plan = cls(
            kept={
                name: PackedMask.from_json(
                    mask, name, None if model is None else tuple(weight_of(model, name).shape)
                )
                for name, mask in fields["kept"].items()
            },
            asked=fields["asked"],
            achieved=achieved,
            ties=fields["ties"],
            pattern=None if pattern is None else Pattern.from_json(pattern),
            whole=fields["whole"],
        )
        check_digest(plan.digest(), fields["digest"], _KIND)
        return plan


def _other_shape(layer: str, shape: tuple[int, ...], found: tuple[int, ...]) -> str:
    return (
        f"the weight of layer {layer!r} has shape {shape}, its mask {found}; use the network that "
        "the plan was made for"
    )
