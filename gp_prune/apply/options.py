"""The options of pruning: one object for :func:`gp_prune.prune` and the command, checked once.

Nothing here imports torch, so that the command can refuse wrong options at once.
"""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from gp_prune.base.names import BUDGETS, KEEP, OLD_BUDGETS, UNRANKED_CHOICES
from gp_prune.base.sizes import parse_size
from gp_prune.errors import SEED, SHARE, Rule, UserError, brief, check_fields, number, one_of, whole
from gp_prune.language.primitive import Operand, PrimitiveSet
from gp_prune.language.record import NEEDS
from gp_prune.metric.file import ALLOCATIONS, OWN, RESIDUAL_WHOLE, Conventions, check_ranks
from gp_prune.metric.metric import Metric

if TYPE_CHECKING:
    from gp_prune.pruning.plan.weights import Pattern

MODES = ("compact", "mask")
LATENCY = "latency"
IGNORED = "ignored by name"
"""Why the channels of a layer that ``ignore`` names stay."""

_DATA_NEEDS = frozenset(NEEDS) - {"noise", "outgoing", "network", "synflow"}
_REMOVED = number(above=0, below=1)
_RULES = {
    "pruning_ratio": Rule(_REMOVED.accepts, f"the share to remove, {_REMOVED.words}"),
    **dict.fromkeys(BUDGETS[1:], Rule(SHARE.accepts, f"the share to keep, {SHARE.words}")),
    "steps": whole(1, 1000),
    "round_to": whole(1),
    "min_share": number(least=0, most=1),
    "mode": one_of(*MODES),
    "unranked": one_of(*UNRANKED_CHOICES),
    "samples": whole(1),
    "seed": SEED,
}
MIN_SHARE = 0.1
"""Share of its channels that every layer keeps at least where nothing is said."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PruneOptions:
    """What to remove from a network, and by which ranking.

    Attributes:
        metric: ranks the channels or weights.
        pruning_ratio: one of :data:`BUDGETS`, as all up to ``keep_latency``; see
            :func:`gp_prune.prune` for them and all others.
        keep_channels: share of the channels to keep.
        keep_macs: share of the MACs to keep.
        keep_params: share of the parameters to keep.
        keep_latency: share of the latency to keep.
        pattern: how many of consecutive weights stay, in place of a budget.
        steps: number of times that the network is scored and cut.
        interface: layers whose channels stay.
        ignore: names or patterns of further layers whose channels (or weights) stay.
        round_to: every group keeps a multiple of this number of channels.
        min_share: share of its channels that every layer keeps at least; None means
            :data:`MIN_SHARE`, or the share of the channels to keep where that is less.
        keep_share: names or patterns of layers -> the share of their channels to keep, whatever
            their scores.
        unranked: what happens to layers whose channels all have the same score.
        allow_ties: whether position may decide where most scores are equal.
        cut_residual: whether channels are cut across normalisations that span them.
        mode: one of :data:`MODES`; None means compact for channels and mask for weights.
        conventions: how the scores are used; None means those of the metric.
        allocation: how the budget is divided among the layers: one of
            :data:`gp_prune.metric.file.ALLOCATIONS`, or a metric whose global ranking does it;
            ``"own"`` becomes the metric that ``metric`` has its shares from, if there is one
            and ``conventions`` say nothing else.
        time_it: whether to measure the latency before and after.
        seed: seed of everything random.
        samples: how many of the calibration samples are used; None means all.
        sequential: whether each block is scored on the outputs of the pruned blocks before it.
        in_place: whether zeros are written into the weights of the network itself.
        max_memory: most memory for what is measured; None means the default.

    Raises:
        UserError: a value is out of range, or options contradict each other or the metric.
    """

    metric: Metric
    pruning_ratio: float | None = None
    keep_channels: float | None = None
    keep_macs: float | None = None
    keep_params: float | None = None
    keep_latency: float | None = None
    pattern: Pattern | None = None
    steps: int = 1
    interface: Sequence[str] = ()
    ignore: Sequence[str] = ()
    round_to: int = 1
    min_share: float | None = None
    keep_share: Mapping[str, float] = field(default_factory=dict)
    unranked: str = KEEP
    allow_ties: bool = False
    cut_residual: bool = False
    mode: str | None = None
    conventions: Conventions | None = None
    allocation: str | Metric = OWN
    time_it: bool = False
    seed: int = 0
    samples: int | None = None
    sequential: bool = False
    in_place: bool = False
    max_memory: int | str | None = None

    def __post_init__(self) -> None:
        """Check the fields, each alone and then together."""
        if self.allocation == OWN and self.conventions is None and self.metric.shares is not None:
            object.__setattr__(self, "allocation", self.metric.shares)
        for name, rule in _RULES.items():
            if getattr(self, name) is not None or getattr(type(self), name) is not None:
                check_fields(self, {name: rule}, of=f" (--{name.replace('_', '-')})")
        self.memory  # noqa: B018 - checked here
        self._check_budget()
        check_ranks(self.metric)
        self.ranking.check_granularity(self.metric.granularity)
        self._check_mode()
        of_channels = {
            "round_to": self.round_to > 1,
            "min_share": self.min_share,
            "keep_share": self.keep_share,
            "cut_residual": self.cut_residual,
        }
        option = next((name for name, given in of_channels.items() if given), None)
        if self.by_weight and option:
            raise UserError(
                f"metric {self.metric.name!r} ranks single weights, and {option} is about "
                f"channels; leave out {option} (--{option.replace('_', '-')}), or use a metric of "
                "channels"
            )
        self._check_keep_share()
        self._check_allocation()
        if self.sequential:
            if self.steps > 1:
                raise UserError(
                    "sequential (--sequential) goes through the blocks once, and steps is "
                    f"{self.steps}; leave one of the two out"
                )
            ranked = None if self.pattern else (self.ranking.scope, [self.kind])
            check_sequential(f"metric {self.metric.name!r}", self.metric.granularity, ranked)
        if self.in_place and (not self.by_weight or self.steps > 1):
            raise UserError(
                "in_place writes zeros into single weights, once; leave it out with a metric of "
                "channels and with steps"
            )
        for option in ("ignore", "interface"):
            names = getattr(self, option)
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                what = "layers to ignore" if option == "ignore" else "interface layers"
                raise UserError(f"the {what} are {names!r}; give a list of names")

    def _check_keep_share(self) -> None:
        if not isinstance(self.keep_share, Mapping):
            raise UserError(
                f"keep_share is {self.keep_share!r}; give a dictionary of layers and the shares of "
                "their channels to keep, such as {'layer4.*': 0.8}"
            )
        for name, share in self.keep_share.items():
            if not isinstance(name, str):
                raise UserError(
                    f"keep_share (--keep-share) has the layer {name!r}; give its name or a pattern "
                    "as text, such as 'layer4.*'"
                )
            if not SHARE.accepts(share):
                raise UserError(
                    f"the share to keep of {name!r} (--keep-share) is {share!r}; it must be "
                    f"{SHARE.words}"
                )

    def _check_allocation(self) -> None:
        allocation = self.allocation
        by_metric = isinstance(allocation, Metric)
        if not by_metric and allocation not in ALLOCATIONS:
            raise UserError(
                f"allocation (--allocation) is {brief(allocation)}; it must be one of "
                f"{', '.join(ALLOCATIONS)}, or a metric of channels"
            )
        if isinstance(allocation, Metric) and allocation.granularity == "weight":
            raise UserError(
                f"metric {allocation.name!r} (--allocation) ranks weights; use one of channels"
            )
        if self.by_weight and (by_metric or allocation == RESIDUAL_WHOLE):
            raise UserError(
                f"metric {self.metric.name!r} ranks single weights, and allocation "
                f"{self.allocation_name!r} (--allocation) divides channels; use own, global or "
                "uniform, or a metric of channels"
            )
        if self.pattern is not None and allocation != OWN:
            raise UserError(
                f"pattern {self.pattern} keeps the same share of every layer; leave out allocation "
                "(--allocation)"
            )

    def _check_budget(self) -> None:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        pattern = self.pattern
        if pattern is not None:
            if given:
                raise UserError(
                    f"pattern {pattern} says how many weights stay; leave out {' and '.join(given)}"
                )
            if not self.by_weight:
                raise UserError(
                    f"metric {self.metric.name!r} ranks channels, and pattern {pattern} is one of "
                    "single weights; use a metric of weights, such as magnitude"
                )
            if self.steps > 1:
                raise UserError(
                    f"pattern {pattern} is set in one step, not in {self.steps}; leave out steps"
                )
        elif len(given) != 1:
            *most, last = BUDGETS
            said = " and ".join(given) or "none"
            raise UserError(f"give exactly one of {', '.join(most)} and {last}, not {said}")
        elif self.by_weight and self.keep_channels is not None:
            raise UserError(
                f"metric {self.metric.name!r} ranks single weights, of which no share of channels "
                "can be kept; give keep_params or keep_macs (--keep-params, --keep-macs), the "
                "share to keep"
            )

    def _check_mode(self) -> None:
        if self.by_weight and self.compact:
            raise UserError(
                f"metric {self.metric.name!r} ranks single weights, which cannot be taken out of a "
                "network one by one; use mode 'mask', or a metric of channels"
            )
        if self.keep_latency is not None and not self.compact:
            raise UserError(
                "a masked network is no faster, so no share of the latency can be asked of it; "
                "use a metric of channels with mode 'compact', or keep_macs or keep_params"
            )

    @cached_property
    def memory(self) -> int | None:
        """Return the most bytes for what is measured; None means the default."""
        if self.max_memory is None:
            return None
        return parse_size(self.max_memory, "max_memory (--max-memory)")

    @property
    def by_weight(self) -> bool:
        """Return whether single weights are ranked."""
        return self.metric.granularity == "weight"

    @property
    def compact(self) -> bool:
        """Return whether channels are removed; otherwise they, or weights, are held at zero."""
        return not self.by_weight if self.mode is None else self.mode == "compact"

    @property
    def ranking(self) -> Conventions:
        """Return how the scores are used."""
        used = self.conventions or self.metric.conventions
        return used.under(self.allocation if isinstance(self.allocation, str) else "uniform")

    @property
    def allocation_name(self) -> str:
        """Return what divides the budget among the layers, for a person."""
        return self.allocation if isinstance(self.allocation, str) else self.allocation.name

    @property
    def measured(self) -> tuple[Metric, ...]:
        """Return the metrics that score the network: what ranks, then what divides the budget."""
        return (self.metric, *([] if isinstance(self.allocation, str) else [self.allocation]))

    @property
    def floor(self) -> float:
        """Return the share of its channels that every layer keeps at least.

        Where nothing is said a budget of channels below a tenth is a floor that a person asks for.
        """
        if self.min_share is not None:
            return self.min_share
        return min(MIN_SHARE, self._budget[1]) if self.kind == "channels" else MIN_SHARE

    @property
    def kind(self) -> str:
        """Return what the budget counts: channels, MACs, parameters or latency."""
        return self._budget[0]

    @property
    def shares(self) -> list[float]:
        """Return the share of the whole that is kept after each step.

        The shares fall geometrically, so that every step takes the same share of what is there.
        With equal amounts the last steps, where a network has the least to spare, would take the
        largest shares of it.
        """
        keep = self._budget[1]
        return [keep ** (number / self.steps) for number in range(1, self.steps + 1)]

    @property
    def can_start_again(self) -> bool:
        """Return whether little time is lost if pruning fails and is started again."""
        once = self.steps == 1 and self.kind != LATENCY
        return self.compact and once and not any(map(needs_data, self.measured))

    @cached_property
    def _budget(self) -> tuple[str, float]:
        """Return what is counted, and the share of it to keep."""
        if self.pattern is not None:
            return self.pattern.budget.kind, self.pattern.budget.keep
        if self.pruning_ratio is not None:
            return "params" if self.by_weight else "channels", 1 - self.pruning_ratio
        shares = {name: getattr(self, name) for name in BUDGETS[1:]}
        return next((name[5:], keep) for name, keep in shares.items() if keep is not None)


class OldBudgets(TypedDict, total=False):
    """The budgets by their old names (see :data:`OLD_BUDGETS`)."""

    ratio: float | None
    channels: float | None
    macs: float | None
    params: float | None
    latency: float | None


def rename_old_budgets(
    budgets: Mapping[str, float | None], **old_names: Unpack[OldBudgets]
) -> dict[str, float | None]:
    """Return the budgets of :func:`gp_prune.prune` together with those under their old names.

    Raises:
        TypeError: a name is neither old nor new.
        UserError: a budget is given by both names.
    """
    merged = dict(budgets)
    for old, share in old_names.items():
        if old not in OLD_BUDGETS:
            raise TypeError(f"prune() got an unexpected keyword argument {old!r}")
        new = OLD_BUDGETS[old]
        message = f"prune({old}=) is now {new}=; the old name works until 0.2"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        if share is not None and merged[new] is not None:
            raise UserError(f"{old} is the old name of {new}, which is given, too; leave out {old}")
        merged[new] = merged[new] if share is None else cast("float", share)
    return merged


def check_sequential(
    what: str, granularity: str, ranked: tuple[str, Collection[str]] | None
) -> None:
    """Raise UserError where weights cannot be chosen block after block.

    Args:
        what: what ranks, for the message.
        granularity: what it ranks, ``"channel"`` or ``"weight"``.
        ranked: the scope and what budgets count; None where patterns alone say what stays.
    """
    if granularity != "weight":
        raise UserError(
            f"{what} ranks {granularity}s, and sequential (--sequential) is for single weights; "
            "leave it out, or rank weights"
        )
    if ranked is None:
        return
    scope, kinds = ranked
    if scope not in ("row", "layer"):
        raise UserError(
            "sequential (--sequential) decides about a block before the next one is scored, and "
            f"scope {scope!r} ranks all of them together; use scope 'row' or 'layer' (--scope), or "
            "a pattern"
        )
    if set(kinds) != {"params"}:
        raise UserError(
            "sequential (--sequential) keeps the same share of the weights of every layer, and the "
            f"budget is one of {' and '.join(kinds)}; let it count the parameters"
        )


def match_layers(
    names: Sequence[str], layers: Collection[str], wanted: str = "layer to ignore"
) -> tuple[str, ...]:
    """Return the layers that names or patterns (``*``, ``?``, ``[...]``) mean.

    Args:
        names: what to look for.
        layers: the names of all layers with weights.
        wanted: what is looked for, for the message.

    Raises:
        UserError: one matches no layer.
    """
    matched: dict[str, None] = {}
    for name in names:
        matches = [layer for layer in layers if fnmatch.fnmatchcase(layer, name)]
        if not matches:
            inside = any(layer.startswith(f"{name}.") for layer in layers)
            close = [f"{name}.*"] if inside else difflib.get_close_matches(name, layers, 1)
            shown = ", ".join([*layers][:6]) or "none"
            more = f" and {len(layers) - 6} more" if len(layers) > 6 else ""
            hint = f"did you mean {close[0]!r}?" if close else f"the layers are {shown}{more}"
            raise UserError(f"no {wanted} is called {name!r}; {hint}")
        matched.update(dict.fromkeys(matches))
    return tuple(matched)


def as_allocation(given: str | Metric, primitives: PrimitiveSet | None = None) -> str | Metric:
    """Return a name of ALLOCATIONS, or the metric that divides a budget: of a pair the shares.

    Args:
        given: such a name, a metric, or what :meth:`Metric.load` takes.
        primitives: the vocabulary of a formula.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(given, Metric) and given in ALLOCATIONS:
        return given
    try:
        return (given if isinstance(given, Metric) else Metric.load(given, primitives)).parts[-1]
    except UserError as error:
        raise UserError(
            f"allocation (--allocation) is {brief(given)}, which is none of "
            f"{', '.join(ALLOCATIONS)}, and no metric: {error}"
        ) from None


def needs_data(metric: Metric) -> bool:
    """Return whether the metric measures anything on calibration data."""
    return bool(metric.needs & _DATA_NEEDS)


def missing_data(metric: Metric) -> UserError:
    """Return the error that says which operands of a metric need calibration data."""
    lacking = metric.needs & _DATA_NEEDS
    operands = {
        node.name: None
        for node in metric.expression.nodes()
        if isinstance(node.head, Operand) and node.head.needs & lacking
    }
    what = " and ".join(NEEDS[need] for need in NEEDS if need in lacking)
    return UserError(
        f"metric {metric.name!r} needs {what} (for {', '.join(operands)}); give calibration "
        "data with --data (data=...)"
    )
