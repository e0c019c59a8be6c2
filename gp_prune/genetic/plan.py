"""What of a network the genes remove, and what is left when they do.

A gene is a layer's part of a plan: the channels of one group, or the weights of one layer. What a
plan leaves without use goes, too: a channel that no weight reads any more, and one that no weight
makes. So plans that differ in what is dead anyway are the same plan.
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
from torch import nn

from gp_prune._io import check_digest, check_header, read_object
from gp_prune.errors import UserError, check_type
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
_SCHEMA = 1
_KIND = "genetic plan"


@dataclass(frozen=True)
class Plan:
    """Channels that go and weights that stay, in terms of the dense network.

    Attributes:
        removed: (group name, ascending channels) of every group that loses some.
        kept: (layer, mask of the shape of its weight) of every layer whose single weights are
            pruned; entries of removed channels are not kept.
    """

    removed: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kept: tuple[tuple[str, PackedMask], ...] = ()

    def digest(self) -> str:
        """SHA-256 of the content: equal exactly for equal plans."""
        content: list[object] = [list(map(list, channels)) for channels in
                                 [[(name,), gone] for name, gone in self.removed]]  # fmt: skip
        for name, mask in self.kept:
            content.append([name, list(mask.shape), hashlib.sha256(mask.bits).hexdigest()])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def channels(self, architecture: Architecture) -> ChannelPlan:
        """The channels that go, as a plan of their own, with the shares that they leave."""
        removed = dict(self.removed)
        groups = architecture.free
        kept = np.array([g.size - len(removed.get(g.name, ())) for g in groups], dtype=np.int64)
        macs, params = architecture.costs(kept)
        dense_macs, dense_params = architecture.dense_costs
        share = macs / dense_macs if dense_macs else 1.0
        total = int(architecture.sizes.sum())
        achieved = Achieved(int(kept.sum()) / total if total else 1.0, share, params / dense_params)
        return ChannelPlan(removed, Budget("macs", share or 1.0), achieved)

    def marks(self) -> dict[str, Marks]:
        """Layer -> mask of the shape of its weight, True where a weight stays."""
        return {name: mask.unpack() for name, mask in self.kept}

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {
            "schema_version": _SCHEMA,
            "kind": _KIND,
            "removed": {name: list(channels) for name, channels in self.removed},
            "kept": {name: mask.to_json() for name, mask in self.kept},
            "digest": self.digest(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is unknown, missing or of the wrong type, or the digest does not fit.
        """
        fields = read_object(data, _KIND, {
            "schema_version": int, "kind": str, "removed": dict, "kept": dict, "digest": str,
        })  # fmt: skip
        check_header(fields, _KIND, _SCHEMA)
        removed = []
        for name, channels in fields["removed"].items():
            check_type(channels, list, f"the removed channels of group {name!r}")
            for channel in channels:
                check_type(channel, int, f"a removed channel of group {name!r}")
            if channels != sorted(set(channels)) or not channels:
                raise UserError(
                    f"the removed channels of group {name!r} in a {_KIND} must be ascending, each "
                    "once; take the file that was written"
                )
            removed.append((name, tuple(channels)))
        masks = fields["kept"].items()
        kept = tuple((name, PackedMask.from_json(mask, name)) for name, mask in masks)
        plan = cls(tuple(removed), kept)
        check_digest(plan.digest(), fields["digest"], _KIND)
        return plan


def packed(removed: Mapping[str, Marks], alive: Mapping[str, Marks]) -> Plan:
    """A plan from marks.

    Args:
        removed: group -> (channels,) True where a channel goes.
        alive: layer -> mask of the shape of its weight, True where a weight stays.
    """
    gone = ((name, np.flatnonzero(marks).tolist()) for name, marks in removed.items())
    return Plan(
        tuple((name, tuple(channels)) for name, channels in gone if channels),
        tuple((name, PackedMask.pack(marks)) for name, marks in alive.items()),
    )


CHANNELS = "channels"
WEIGHTS = "weights"
_FOLLOWED = {OUT, IN, NORM_SIDE, DEPTHWISE_SIDE}


@dataclass(frozen=True)
class Site:
    """What one gene removes from.

    Attributes:
        name: of the channel group or of the layer.
        kind: ``"channels"`` or ``"weights"``.
        size: number of channels or weights.
    """

    name: str
    kind: str
    size: int


Masks = tuple[Marks, ...]
"""One (size,) array for every site, True where a unit stays."""


@dataclass(frozen=True)
class Shares:
    """What a plan keeps of the dense network, each between 0 and 1.

    Attributes:
        macs: of the MACs that count (see :attr:`GeneticSettings.macs`); a weight that is zero
            costs nothing.
        params: of the parameters, those that are zero not counted.
    """

    macs: float
    params: float


class Layout:
    """The sites of a network, and the plans that their masks make.

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
        groups = _channel_groups(architecture, convolutions, granularity)
        self.counted = "conv" if counted != "all" and convolutions else "all"
        fine = {"auto": [n for n in modules if n not in convolutions], "weight": list(modules)}
        self.shapes = {
            name: tuple(weight_of(model, name).shape)
            for name in fine.get(granularity, [])
            if sparse or self.counted == "all" or name in convolutions
        }
        self.sites = tuple(
            [Site(group.name, CHANNELS, group.size) for group in groups]
            + [Site(name, WEIGHTS, math.prod(shape)) for name, shape in self.shapes.items()]
        )
        if not self.sites:
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
        self._followed = [group for group in architecture.free if self._follows(group)]

    def _follows(self, group: ChannelGroup) -> bool:
        """Whether it can be said which channels of a group are of no use."""
        sides = {slot.side for slot in group.slots}
        touched = {slot.module for slot in group.slots if slot.side in (IN, OUT)}
        odd = touched & self.shapes.keys() - self._plain
        return sides <= _FOLLOWED and not group.crosses_normalisation and not odd

    def full(self) -> Masks:
        """The masks that remove nothing."""
        return tuple(np.ones(site.size, dtype=bool) for site in self.sites)

    def plan(self, masks: Sequence[Marks]) -> Plan:
        """The plan of masks, in canonical form: without what is of no use.

        Args:
            masks: one (size,) array for every site, True where a unit stays.
        """
        gone = {g.name: np.zeros(g.size, dtype=bool) for g in self.architecture.free}
        alive = {}
        for site, mask in zip(self.sites, masks, strict=True):
            if site.kind == CHANNELS:
                gone[site.name] = ~mask
            else:
                alive[site.name] = mask.reshape(self.shapes[site.name]).copy()
        # Where no channel of a group is of use the first that a gene has left stays.
        first = {name: int(np.flatnonzero(~marks)[0]) for name, marks in gone.items()}
        self._clear(gone, alive)
        while self._bury(gone, alive, first):
            self._clear(gone, alive)
        return packed(gone, alive)

    def _clear(self, gone: dict[str, Marks], alive: dict[str, Marks]) -> None:
        """Let the weights of channels that go, go, in place."""
        for group in self.architecture.free:
            if not gone[group.name].any():
                continue
            # One mark more than there are channels: index -1 (no channel) reads the last one.
            marks = np.append(gone[group.name], False)
            for slot in group.slots:
                if slot.module in self._plain and slot.side in (IN, OUT):
                    hit = marks[slot.index]
                    if slot.side == OUT:
                        alive[slot.module][hit] = False
                    else:
                        alive[slot.module][:, hit] = False

    def _bury(
        self, gone: dict[str, Marks], alive: dict[str, Marks], first: Mapping[str, int]
    ) -> bool:
        """Let channels go that no weight makes or reads, in place; whether there were any."""
        changed = False
        for group in self._followed:
            used = self._used(group, OUT, alive) & self._used(group, IN, alive)
            now = gone[group.name] | ~used
            if now.all():
                now[first[group.name]] = False
            if (now != gone[group.name]).any():
                gone[group.name] = now
                changed = True
        return changed

    def _used(self, group: ChannelGroup, side: str, alive: dict[str, Marks]) -> Marks:
        """(channels,) which have a weight on a side; all where that cannot be said."""
        sides = (OUT, DEPTHWISE_SIDE) if side == OUT else (IN,)
        slots = [slot for slot in group.slots if slot.side in sides]
        if not slots or any(s.module not in self._plain or s.side != side for s in slots):
            return np.ones(group.size, dtype=bool)
        found = np.zeros(group.size, dtype=bool)
        for slot in slots:
            weights = alive[slot.module]
            flat = weights.reshape(*weights.shape[:2], -1)
            has = flat.any(axis=(1, 2) if side == OUT else (0, 2))
            found[slot.index[has & (slot.index >= 0)]] = True
        return found

    def shares(self, plan: Plan) -> Shares:
        """What a plan keeps, exactly."""
        macs, params = self._counts(plan)
        dense_macs, dense_params = self._dense
        return Shares(macs / dense_macs if dense_macs else 1.0, params / dense_params)

    def costs(self, plan: Plan, counted: str) -> int:
        """MACs per sample that a plan keeps, of the convolutions (``"conv"``) or of ``"all"``."""
        removed = dict(plan.removed)
        groups = self.architecture.free
        kept = np.array([g.size - len(removed.get(g.name, ())) for g in groups], dtype=np.int64)
        macs = self._table(counted).costs(kept)[0]
        alive = {name: int(marks.sum()) for name, marks in plan.marks().items()}
        exact = sum(
            layer.positions * alive[layer.name]
            for layer in self.architecture.layers
            if layer.name in alive and (counted == "all" or layer.name in self._convolutions)
        )
        return macs + exact // self.architecture.samples

    def _counts(self, plan: Plan) -> tuple[int, int]:
        removed = dict(plan.removed)
        groups = self.architecture.free
        kept = np.array([g.size - len(removed.get(g.name, ())) for g in groups], dtype=np.int64)
        params = self.architecture.costs(kept)[1]
        # Of the layers with masks only their biases are counted by the table.
        weights = self._masked.costs(kept)[1]
        alive = sum(int(marks.sum()) for marks in plan.marks().values())
        return self.costs(plan, self.counted), params - weights + alive

    @cached_property
    def _dense(self) -> tuple[int, int]:
        return self._counts(self.plan(self.full()))

    def _table(self, counted: str) -> Architecture:
        return self._conv_table if counted == "conv" else self._whole_table

    @cached_property
    def _conv_table(self) -> Architecture:
        wanted = self._convolutions - self.shapes.keys()
        return self._only([x for x in self.architecture.layers if x.name in wanted])

    @cached_property
    def _whole_table(self) -> Architecture:
        layers = [x for x in self.architecture.layers if x.name not in self.shapes]
        return replace(self._only(layers), constant_macs=self.architecture.constant_macs)

    @cached_property
    def _masked(self) -> Architecture:
        """The weights, without biases, of the layers that have masks."""
        layers = [x for x in self.architecture.layers if x.name in self.shapes]
        return self._only([replace(layer, bias=False) for layer in layers])

    def _only(self, layers: list[LayerCost]) -> Architecture:
        return replace(self.architecture, layers=tuple(layers), constant_macs=0, constant_params=0)


def _channel_groups(
    architecture: Architecture, convolutions: set[str], granularity: str
) -> list[ChannelGroup]:
    """The groups whose channels a gene removes."""
    if granularity == "weight":
        return []
    groups = architecture.free
    if granularity == "channel":
        return list(groups)
    return [group for group in groups if convolutions & set(group.producers)]
