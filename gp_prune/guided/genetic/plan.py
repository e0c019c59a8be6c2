"""What a plan removes: channels of groups and single weights of layers, in one canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gp_prune.errors import UserError
from gp_prune.pruning import Achieved, Architecture, Budget, ChannelPlan, PackedMask
from gp_prune.pruning.json_form import check_type, read_object
from gp_prune.pruning.plan import check_digest, check_header

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
