"""Hold a channel plan: which channels go, what was asked for and what is achieved."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gp_prune.base.json_fields import (
    canonical_digest,
    check_digest,
    check_header,
    check_type,
    read_object,
)
from gp_prune.errors import UserError, brief
from gp_prune.pruning.graph.architecture import Architecture

BUDGET_KINDS = ("channels", "macs", "params")
BUDGET_UNITS = {"channels": "channels", "macs": "MACs", "params": "parameters"}
"""Kind of a budget -> what it counts, for a person."""
BUDGET_TOLERANCE = 0.05
"""Largest difference between asked and achieved shares that still counts as met."""

_SCHEMA = 1
_KIND = "channel plan"


def describe_budget(kind: str, keep: float) -> str:
    """Return a budget in words, such as ``50 % of the MACs`` or ``pattern 2:4``.

    Args:
        kind: one of :data:`BUDGET_KINDS`, or a pattern N:M.
        keep: the share to keep.
    """
    unit = BUDGET_UNITS.get(kind)
    return f"{100 * keep:.3g} % of the {unit}" if unit else f"pattern {kind}"


def short_budget(kind: str, keep: float) -> str:
    """Return a budget as the heading of a column, such as ``MACs 50%`` or ``pattern 2:4``."""
    unit = BUDGET_UNITS.get(kind)
    return f"{unit} {100 * keep:.3g}%" if unit else f"pattern {kind}"


@dataclass(frozen=True)
class Budget:
    """How much of a network is to be kept.

    Attributes:
        kind: what is counted: ``"channels"`` (of the groups that may be cut), ``"macs"`` or
            ``"params"`` (of the whole network).
        keep: the share to keep, in (0, 1].

    Raises:
        UserError: an unknown kind, or a share outside (0, 1].
    """

    kind: str
    keep: float

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.kind not in BUDGET_KINDS:
            known = ", ".join(BUDGET_KINDS)
            raise UserError(f"budget kind is {self.kind!r}; it must be one of {known}")
        number = isinstance(self.keep, int | float) and not isinstance(self.keep, bool)
        if not number or not 0 < self.keep <= 1:
            raise UserError(
                f"the share of {self.kind} to keep is {self.keep!r}; "
                "it must be greater than 0 and at most 1"
            )


@dataclass(frozen=True)
class Achieved:
    """Shares kept: of the channels that may be cut, and of all MACs and all parameters."""

    channels: float
    macs: float
    params: float

    @classmethod
    def of(cls, architecture: Architecture, kept: NDArray[np.int64]) -> Achieved:
        """Return the shares when free group ``g`` keeps ``kept[g]`` channels (groups,)."""
        total = int(architecture.sizes.sum())
        macs, params = architecture.costs(kept)
        dense_macs, dense_params = architecture.dense_costs
        return cls(
            channels=int(kept.sum()) / total if total else 1.0,
            macs=macs / dense_macs if dense_macs else 1.0,
            params=params / dense_params if dense_params else 1.0,
        )


@dataclass(frozen=True)
class ChannelPlan:
    """Which channels of which group go.

    Attributes:
        removed: group name -> ascending channels; groups that lose nothing are left out.
        asked: the budget.
        achieved: the shares that are really kept.
        ties: share of the ranked channels whose score equals another's in the same ranking; their
            order was decided by position.
        whole: group name -> why it keeps all its channels though some of it might have gone: the
            rounding of widths does not allow it.
        undecided: share of the ranked channels whose score equals that of a channel of the other
            fate, so that position alone decided which of them go; not written to files.

    Raises:
        UserError: channels are not ascending whole numbers.
    """

    removed: dict[str, tuple[int, ...]]
    asked: Budget
    achieved: Achieved
    ties: float = 0.0
    whole: dict[str, str] = field(default_factory=dict)
    undecided: float = field(default=0.0, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the channels."""
        for name, channels in self.removed.items():
            what = f"a removed channel of group {brief(name)}"
            for channel in channels:
                check_type(channel, int, what)
            ascending = list(channels) == sorted(set(channels)) and min(channels, default=0) >= 0
            if not ascending or not channels:
                raise UserError(
                    f"removed channels of group {name!r} must be ascending numbers from 0, "
                    "at least one and each once"
                )

    @property
    def shortfall(self) -> float:
        """Return the distance between the asked and the achieved share."""
        achieved: float = getattr(self.achieved, self.asked.kind)
        return abs(achieved - self.asked.keep)

    def met(self, tolerance: float = BUDGET_TOLERANCE) -> bool:
        """Return whether the achieved share lies within ``tolerance`` of the asked one."""
        return self.shortfall <= tolerance

    def kept(self, architecture: Architecture) -> dict[str, int]:
        """Return the number of channels that each group of ``architecture`` keeps."""
        return {
            group.name: group.size - len(self.removed.get(group.name, ()))
            for group in architecture.groups
        }

    def check(self, architecture: Architecture) -> None:
        """Raise UserError unless the plan can be applied to networks of ``architecture``."""
        for name, channels in self.removed.items():
            group = architecture.by_name.get(name)
            if group is None:
                raise UserError(
                    f"the plan cuts a channel group {name!r} that the network does not have; "
                    "use the network that the plan was made for"
                )
            if group.fixed:
                raise UserError(f"the plan cuts group {name!r}, which is fixed: {group.fixed}")
            if channels[-1] >= group.size or len(channels) >= group.size:
                raise UserError(
                    f"the plan removes {len(channels)} channels up to number {channels[-1]} of "
                    f"group {name!r}, which has {group.size}; at least one must stay"
                )

    def digest(self) -> str:
        """Return the SHA-256 of what is removed: equal for plans that give the same network."""
        return canonical_digest({"removed": {name: list(c) for name, c in self.removed.items()}})

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "schema_version": _SCHEMA,
            "kind": _KIND,
            "removed": {name: list(channels) for name, channels in sorted(self.removed.items())},
            "asked": asdict(self.asked),
            "achieved": asdict(self.achieved),
            "ties": self.ties,
            "whole": dict(sorted(self.whole.items())),
            "digest": self.digest(),
        }

    @classmethod
    def from_json(cls, data: Any) -> ChannelPlan:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is unknown, missing, of the wrong type or out of range, or the
                digest does not fit the content.
        """
        if isinstance(data, dict):  # files from before widths could be rounded
            data = {"whole": {}, **data}
        fields = read_plan(data, _KIND, _SCHEMA, {"removed": dict})
        for name, channels in fields["removed"].items():
            check_type(channels, list, f"the removed channels of group {name!r}")
        achieved = read_object(
            fields["achieved"], "achieved", dict.fromkeys(("channels", "macs", "params"), float)
        )
        check_shares({**achieved, "ties": fields["ties"]})
        plan = cls(
            removed={name: tuple(channels) for name, channels in fields["removed"].items()},
            asked=fields["asked"],
            achieved=Achieved(**achieved),
            ties=fields["ties"],
            whole=fields["whole"],
        )
        check_digest(plan.digest(), fields["digest"], _KIND)
        return plan


def read_plan(data: Any, kind: str, schema: int, content: dict[str, type]) -> dict[str, Any]:
    """Return the fields of a plan, of channels or weights, with its budget.

    Args:
        data: what was read.
        kind: of the plan, ``"channel plan"`` or ``"weight plan"``.
        schema: version of the file that is read.
        content: name -> type of the fields that say what goes or stays.

    Raises:
        UserError: a field is unknown, missing or of the wrong type.
    """
    fields = read_object(data, kind, {
        "schema_version": int, "kind": str, **content, "asked": dict, "achieved": dict,
        "ties": float, "whole": dict, "digest": str,
    })  # fmt: skip
    check_header(fields, kind, schema)
    for name, reason in fields["whole"].items():
        check_type(reason, str, f"the reason why {name!r} is whole")
    asked = read_object(fields["asked"], "asked", {"kind": str, "keep": float})
    return {**fields, "asked": Budget(**asked)}


def check_shares(shares: dict[str, float]) -> None:
    """Raise UserError unless every value is a number in [0, 1]."""
    for name, value in shares.items():
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise UserError(f"share {name!r} is {value}; it must lie between 0 and 1")
