"""Describe what the genes of a network remove, and what the network keeps.

A gene removes from one part of the network: the channels of one group, or the weights of one
layer. What a plan leaves unused is removed, too: a channel that no weight reads any more, and one
that no weight produces. So plans that differ only in unused parts are the same plan.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.base.json_fields import check_digest, check_header, check_type, read_object
from gp_prune.errors import UserError
from gp_prune.pruning import (
    Achieved,
    Architecture,
    Budget,
    ChannelGroup,
    ChannelPlan,
    LayerCost,
    PackedMask,
)
from gp_prune.pruning.graph.architecture import DEPTHWISE_SIDE, IN, NORM_SIDE, OUT
from gp_prune.pruning.modules import Conv, find_module, is_transposed, weight_of

Marks = NDArray[np.bool_]

Masks = tuple[Marks, ...]
"""One (size,) array for every gene, True where a unit stays."""

CHANNELS, WEIGHTS = "channels", "weights"

_SCHEMA = 1
_KIND = "genetic plan"
_TRACKED_SIDES = {OUT, IN, NORM_SIDE, DEPTHWISE_SIDE}


@dataclass(frozen=True)
class GeneticPlan:
    """Channels to remove and weights to keep, in terms of the dense network.

    Attributes:
        removed: (group name, ascending channels) of every group that loses some.
        kept: (layer, mask of the shape of its weight) of every layer whose single weights are
            pruned; entries of removed channels are not kept.
    """

    removed: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kept: tuple[tuple[str, PackedMask], ...] = ()

    @classmethod
    def from_marks(cls, removed: Mapping[str, Marks], alive: Mapping[str, Marks]) -> GeneticPlan:
        """Build a plan.

        Args:
            removed: group -> (channels,) True where a channel is removed.
            alive: layer -> mask of the shape of its weight, True where a weight stays.
        """
        channels = ((name, np.flatnonzero(marks).tolist()) for name, marks in removed.items())
        return cls(
            tuple((name, tuple(numbers)) for name, numbers in channels if numbers),
            tuple((name, PackedMask.pack(marks)) for name, marks in alive.items()),
        )

    def digest(self) -> str:
        """Return the SHA-256 of the content: equal exactly for equal plans."""
        content: list[object] = [[[name], list(channels)] for name, channels in self.removed]
        for name, mask in self.kept:
            content.append([name, list(mask.shape), hashlib.sha256(mask.bits).hexdigest()])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def marks(self) -> dict[str, Marks]:
        """Return layer -> mask of the shape of its weight, True where a weight stays."""
        return {name: mask.unpack() for name, mask in self.kept}

    def widths(self, architecture: Architecture) -> NDArray[np.int64]:
        """Return the number of channels (groups,) that every group that may be cut keeps."""
        return architecture.widths(dict(self.removed))

    def channel_plan(self, architecture: Architecture) -> ChannelPlan:
        """Return the removed channels as a channel plan, with the shares that it keeps."""
        achieved = Achieved.of(architecture, self.widths(architecture))
        return ChannelPlan(dict(self.removed), Budget("macs", achieved.macs or 1.0), achieved)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "schema_version": _SCHEMA,
            "kind": _KIND,
            "removed": {name: list(channels) for name, channels in self.removed},
            "kept": {name: mask.to_json() for name, mask in self.kept},
            "digest": self.digest(),
        }

    @classmethod
    def from_json(cls, data: Any) -> GeneticPlan:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is unknown, missing or of the wrong type, or the digest does not fit.
        """
        fields = read_object(data, _KIND, {
            "schema_version": int, "kind": str, "removed": dict, "kept": dict, "digest": str,
        })  # fmt: skip
        check_header(fields, _KIND, _SCHEMA)
        for name, channels in fields["removed"].items():
            check_type(channels, list, f"the removed channels of group {name!r}")
            for channel in channels:
                check_type(channel, int, f"a removed channel of group {name!r}")
            if channels != sorted(set(channels)) or not channels:
                raise UserError(
                    f"the removed channels of group {name!r} in a {_KIND} must be ascending, each "
                    "once; take the file that was written"
                )
        plan = cls(
            tuple((name, tuple(channels)) for name, channels in fields["removed"].items()),
            tuple((n, PackedMask.from_json(mask, n)) for n, mask in fields["kept"].items()),
        )
        check_digest(plan.digest(), fields["digest"], _KIND)
        return plan


@dataclass(frozen=True)
class Gene:
    """The part of a network that one gene removes from.

    Attributes:
        name: of the channel group or of the layer.
        kind: ``"channels"`` or ``"weights"``.
        size: number of channels or weights.
    """

    name: str
    kind: str
    size: int


@dataclass(frozen=True)
class KeptShares:
    """What a plan keeps of the dense network, each between 0 and 1.

    Attributes:
        macs: of the MACs that count (see :attr:`GeneticSettings.macs`); a weight that is zero
            costs nothing.
        params: of the parameters, those that are zero not counted.
    """

    macs: float
    params: float


class GeneLayout:
    """The genes of a network, and the plans that their masks make.

    Args:
        model: the dense network; it is only read.
        architecture: its traced structure.
        granularity: ``"auto"``, ``"channel"`` or ``"weight"``.
        counted: which MACs count: ``"auto"``, ``"conv"`` or ``"all"``.
        sparse: whether the number of parameters counts; otherwise single weights of layers whose
            MACs do not count have no genes.

    Raises:
        UserError: there is nothing to remove, or no convolution whose MACs could count.
    """

    def __init__(
        self,
        model: nn.Module,
        architecture: Architecture,
        granularity: str,
        counted: str = "auto",
        *,
        sparse: bool = True,
    ) -> None:
        self.architecture = architecture
        modules = {name: find_module(model, name) for name in architecture.prunable_layers}
        convolutions = {name for name, module in modules.items() if isinstance(module, Conv)}
        self.counted = "conv" if counted != "all" and convolutions else "all"
        groups = [
            group for group in architecture.free
            if granularity == "channel"
            or (granularity == "auto" and convolutions & set(group.producers))
        ]  # fmt: skip
        by_weight = {"auto": [n for n in modules if n not in convolutions], "weight": list(modules)}
        self.shapes = {
            name: tuple(weight_of(model, name).shape)
            for name in by_weight.get(granularity, [])
            if sparse or self.counted == "all" or name in convolutions
        }
        self.genes = tuple(
            [Gene(group.name, CHANNELS, group.size) for group in groups]
            + [Gene(name, WEIGHTS, math.prod(shape)) for name, shape in self.shapes.items()]
        )
        if not self.genes:
            raise UserError(
                f"the network has nothing to prune with granularity {granularity!r}; use "
                "granularity 'channel' or 'weight'"
            )
        if counted == "conv" and not convolutions:
            raise UserError("the network has no convolution whose MACs could count; use macs 'all'")
        self._convolutions = convolutions
        self._plain = {
            name for name in self.shapes
            if not is_transposed(modules[name]) and getattr(modules[name], "groups", 1) == 1
        }  # fmt: skip
        self._tracked = [group for group in architecture.free if self._is_tracked(group)]

    def _is_tracked(self, group: ChannelGroup) -> bool:
        """Whether it can be said which channels of a group are of no use."""
        touched = {slot.module for slot in group.slots if slot.side in (IN, OUT)}
        return (
            {slot.side for slot in group.slots} <= _TRACKED_SIDES
            and not group.crosses_normalisation
            and not touched & self.shapes.keys() - self._plain
        )

    def full(self) -> Masks:
        """Return the masks that remove nothing."""
        return tuple(np.ones(gene.size, dtype=bool) for gene in self.genes)

    def plan(self, masks: Sequence[Marks]) -> GeneticPlan:
        """Return the plan of masks in canonical form, without what is of no use.

        Args:
            masks: one (size,) array for every gene, True where a unit stays.
        """
        removed = {g.name: np.zeros(g.size, dtype=bool) for g in self.architecture.free}
        alive = {}
        for gene, mask in zip(self.genes, masks, strict=True):
            if gene.kind == CHANNELS:
                removed[gene.name] = ~mask
            else:
                alive[gene.name] = mask.reshape(self.shapes[gene.name]).copy()
        # Where no channel of a group is of use, the first one that the genes have left stays.
        first = {name: int(np.flatnonzero(~marks)[0]) for name, marks in removed.items()}
        changed = True
        while changed:
            self._clear_weights(removed, alive)
            changed = self._remove_unused(removed, alive, first)
        return GeneticPlan.from_marks(removed, alive)

    def masks_of_zeros(self, masks: Masks, state: Mapping[str, Tensor]) -> Masks:
        """Return masks that keep the same channels, and the weights that are not zero.

        Args:
            masks: one (size,) array for every gene, True where a unit stays.
            state: the weights of the network, in the shapes of the dense one.
        """
        return tuple(
            mask if gene.kind == CHANNELS else state[f"{gene.name}.weight"].numpy().ravel() != 0
            for gene, mask in zip(self.genes, masks, strict=True)
        )

    def _clear_weights(self, removed: dict[str, Marks], alive: dict[str, Marks]) -> None:
        """Clear the weights of removed channels, in place."""
        for group in self.architecture.free:
            if not removed[group.name].any():
                continue
            # One mark more than there are channels: index -1 (no channel) reads the last one.
            marks = np.append(removed[group.name], False)
            for slot in group.slots:
                if slot.module in self._plain and slot.side in (IN, OUT):
                    hit = marks[slot.index]
                    if slot.side == OUT:
                        alive[slot.module][hit] = False
                    else:
                        alive[slot.module][:, hit] = False

    def _remove_unused(
        self, removed: dict[str, Marks], alive: dict[str, Marks], first: Mapping[str, int]
    ) -> bool:
        """Remove channels that no weight produces or reads, in place; say if there were any."""
        changed = False
        for group in self._tracked:
            used = self._used(group, OUT, alive) & self._used(group, IN, alive)
            now = removed[group.name] | ~used
            if now.all():
                now[first[group.name]] = False
            if (now != removed[group.name]).any():
                removed[group.name] = now
                changed = True
        return changed

    def _used(self, group: ChannelGroup, side: str, alive: dict[str, Marks]) -> Marks:
        """Mark (channels,) that have a weight on a side; all where that cannot be said."""
        sides = (OUT, DEPTHWISE_SIDE) if side == OUT else (IN,)
        slots = [slot for slot in group.slots if slot.side in sides]
        if not slots or any(s.module not in self._plain or s.side != side for s in slots):
            return np.ones(group.size, dtype=bool)
        used = np.zeros(group.size, dtype=bool)
        for slot in slots:
            weights = alive[slot.module]
            flat = weights.reshape(*weights.shape[:2], -1)
            has = flat.any(axis=(1, 2) if side == OUT else (0, 2))
            used[slot.index[has & (slot.index >= 0)]] = True
        return used

    def shares(self, plan: GeneticPlan) -> KeptShares:
        """Return the shares of MACs and parameters that a plan keeps, exactly."""
        dense_macs, dense_params = self._dense_costs
        macs = self.macs(plan, self.counted)
        share = macs / dense_macs if dense_macs else 1.0
        return KeptShares(share, self._params(plan) / dense_params)

    @cached_property
    def _dense_costs(self) -> tuple[int, int]:
        dense = self.plan(self.full())
        return self.macs(dense, self.counted), self._params(dense)

    def macs(self, plan: GeneticPlan, counted: str) -> int:
        """Return the MACs per sample that a plan keeps.

        Args:
            plan: the plan.
            counted: ``"conv"`` for those of the convolutions, or ``"all"``.
        """
        macs = self._tables[counted].costs(plan.widths(self.architecture))[0]
        alive = {name: int(marks.sum()) for name, marks in plan.marks().items()}
        exact = sum(
            layer.positions * alive[layer.name]
            for layer in self.architecture.layers
            if layer.name in alive and (counted == "all" or layer.name in self._convolutions)
        )
        return macs + exact // self.architecture.samples

    def count_params(self, share: float) -> int:
        """Return how many parameters a share of the dense network's is, rounded down."""
        return int(share * self._dense_costs[1])

    def _params(self, plan: GeneticPlan) -> int:
        """Count the parameters that are not zero."""
        kept = plan.widths(self.architecture)
        # The table counts only the biases of the layers with masks.
        weights = self._tables["masked"].costs(kept)[1]
        alive = sum(int(marks.sum()) for marks in plan.marks().values())
        return self.architecture.costs(kept)[1] - weights + alive

    @cached_property
    def _tables(self) -> dict[str, Architecture]:
        """Cost tables: of the layers without masks, and of the weights of those with masks."""
        layers = self.architecture.layers
        whole = [layer for layer in layers if layer.name not in self.shapes]
        masked = [replace(layer, bias=False) for layer in layers if layer.name in self.shapes]

        def table(layers: Sequence[LayerCost], macs: int = 0) -> Architecture:
            return replace(
                self.architecture, layers=tuple(layers), constant_macs=macs, constant_params=0
            )

        return {
            "all": table(whole, self.architecture.constant_macs),
            "conv": table([layer for layer in whole if layer.name in self._convolutions]),
            "masked": table(masked),
        }
