"""What pruning a model gave: the network, the plan, and what it cost before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from gp_prune.application.rows import LayerRow
from gp_prune.conventions import Conventions
from gp_prune.pruning import Architecture, Budget, ChannelPlan, Cost, WeightPlan
from gp_prune.pruning.plan import BUDGET_TOLERANCE

REPORT_SCHEMA = 1


class Shares(NamedTuple):
    """Shares kept.

    Attributes:
        channels: of the channels that may be cut; None where single weights are pruned.
        weights: of the weights that are ranked; None where channels are pruned.
        macs: of all MACs.
        params: of all parameters.
    """

    channels: float | None
    weights: float | None
    macs: float
    params: float


@dataclass(frozen=True, eq=False)
class PrunedModel:
    """A pruned copy of a network and how it came about.

    Attributes:
        model: the pruned network; the original is not changed.
        plan: what was removed.
        mode: ``"compact"`` (channels are gone) or ``"mask"`` (held at zero: not faster).
        before: cost of the original.
        after: cost of the pruned network. With mode ``"mask"`` MACs and parameters are those of a
            network without what is masked; ``nonzero`` is counted in the masked network itself.
        rows: the same per layer.
        seconds: how long it took.
        metric: name of the metric.
        metric_digest: digest of what the metric means.
        conventions: how the scores were used.
        interface: layers that were kept whole by name.
        input_shapes: shape of each example input.
        architecture: the traced network, from which the pruned one can be made again.
    """

    model: nn.Module
    plan: ChannelPlan | WeightPlan
    mode: str
    before: Cost
    after: Cost
    rows: tuple[LayerRow, ...]
    seconds: float
    metric: str
    metric_digest: str
    conventions: Conventions
    interface: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    architecture: Architecture

    @property
    def asked(self) -> Budget:
        """The budget."""
        return self.plan.asked

    @property
    def counted(self) -> str:
        """What the budget counts: a field of :class:`Shares`."""
        by_weight = isinstance(self.plan, WeightPlan) and self.asked.kind == "params"
        return "weights" if by_weight else self.asked.kind

    @property
    def achieved(self) -> Shares:
        """The shares that are really kept."""
        macs = self.after.macs / self.before.macs if self.before.macs else 1.0
        params = self.after.params / self.before.params
        if isinstance(self.plan, ChannelPlan):
            return Shares(self.plan.achieved.channels, None, macs, params)
        return Shares(None, self.plan.achieved.params, macs, params)

    @property
    def achieved_share(self) -> float:
        """The share kept of what the budget counts."""
        share: float = getattr(self.achieved, self.counted)
        return share

    @property
    def met(self) -> bool:
        """Whether the achieved share is within a tenth of the asked one, and 5 % of the network."""
        allowed = min(BUDGET_TOLERANCE, self.asked.keep / 10)
        return abs(self.achieved_share - self.asked.keep) <= allowed

    def report(self, *, model: str = "") -> dict[str, Any]:
        """Everything but the network and the plan, as a JSON object.

        Args:
            model: how the network is called.
        """
        return {
            "schema_version": REPORT_SCHEMA,
            "kind": "pruning report",
            "metric": self.metric,
            "metric_digest": self.metric_digest,
            "conventions": self.conventions.to_json(),
            "model": model,
            "mode": self.mode,
            "faster": self.mode == "compact",
            "interface": list(self.interface),
            "asked": {"kind": self.counted, "keep": self.asked.keep},
            "achieved": self.achieved._asdict(),
            "met": self.met,
            "ties": self.plan.ties,
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "layers": [row._asdict() for row in self.rows],
            "plan_digest": self.plan.digest(),
            "seconds": round(self.seconds, 3),
        }
