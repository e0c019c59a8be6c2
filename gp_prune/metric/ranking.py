"""Define how the scores of a metric are ranked: scope, normaliser and joining of layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gp_prune._io import read_object
from gp_prune.errors import UserError

SCOPES = ("layer", "global", "row")
NORMALISERS = ("none", "sum", "mean", "max")
JOINS = ("sum", "mean", "max", "first")


@dataclass(frozen=True)
class Conventions:
    """State how scores are ranked, which a formula does not say.

    Attributes:
        scope: ``"layer"`` ranks within each layer (group of coupled layers) and cuts the same
            share everywhere; ``"global"`` ranks all channels (or weights) of the network together;
            ``"row"`` ranks the weights of each output channel and cuts the same share of each, as
            Wanda does (for metrics of single weights alone).
        normaliser: what the scores of a layer are divided by before a global ranking: their
            ``"sum"``, ``"mean"`` or ``"max"`` of absolute values, or ``"none"``.
        join: how the scores of the layers that produce the same coupled channels (a residual sum,
            a depthwise convolution) become one score per channel.

    Raises:
        UserError: a field has a value that is not on its list.
    """

    scope: str = "global"
    normaliser: str = "mean"
    join: str = "mean"

    def __post_init__(self) -> None:
        for field, allowed in (("scope", SCOPES), ("normaliser", NORMALISERS), ("join", JOINS)):
            value = getattr(self, field)
            if value not in allowed:
                raise UserError(f"{field} is {value!r}; it must be one of {', '.join(allowed)}")

    def check_granularity(self, granularity: str) -> None:
        """Raise UserError if scores of this granularity cannot be ranked within the scope.

        Args:
            granularity: ``"channel"`` or ``"weight"``.
        """
        if self.scope == "row" and granularity == "channel":
            raise UserError(
                "scope 'row' ranks the weights within an output channel, so no channels can be "
                "ranked in it; use scope 'layer' or 'global', or a metric of single weights"
            )

    def to_json(self) -> dict[str, str]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Conventions:
        """Read the object of :meth:`to_json`; UserError names a field that is wrong."""
        fields = dict.fromkeys(cls.__dataclass_fields__, object)
        return cls(**read_object(data, "the field 'conventions'", fields))


class DegenerateScores(UserError):
    """Report scores that rank nothing.

    Attributes:
        reason: ``"non-finite"``, ``"wrong-shape"`` or ``"constant"``.
        layer: the layer or channel group.
    """

    def __init__(self, reason: str, layer: str, detail: str) -> None:
        super().__init__(f"scores of layer {layer!r} are degenerate ({reason}): {detail}")
        self.reason = reason
        self.layer = layer
        self.detail = detail

    def __reduce__(self) -> tuple[type[DegenerateScores], tuple[str, str, str]]:
        """Pickle all three arguments; by default an exception is pickled by its message alone."""
        return DegenerateScores, (self.reason, self.layer, self.detail)
