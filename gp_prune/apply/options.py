"""What is asked of :func:`gp_prune.prune`, checked before anything is run."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack, cast

import torch
from torch import nn

from gp_prune.apply.batches import given_batches
from gp_prune.errors import UserError
from gp_prune.language.primitive import Operand
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import Metric
from gp_prune.metric.ranking import Conventions
from gp_prune.pruning import Architecture, Budget
from gp_prune.pruning.modules import Prunable
from gp_prune.pruning.plan.weights import Pattern
from gp_prune.statistics import Loss, Progress
from gp_prune.statistics.running import Forward, map_tensors

MODES = ("compact", "mask")
IGNORED = "ignored by name"
"""Why the channels of a layer that ``ignore`` names stay."""
LATENCY = "latency"
RATIO = "pruning_ratio"
"""The share to remove, of the channels or weights; the other budgets are shares to keep."""
NEW_NAMES = {
    "ratio": RATIO, "channels": "keep_channels", "macs": "keep_macs", "params": "keep_params",
    LATENCY: "keep_latency",
}  # fmt: skip
"""Names of budgets that work until 0.2 -> the names in their place."""
_DATA_NEEDS = frozenset(NEEDS) - {"noise", "outgoing", "synflow"}


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of :func:`gp_prune.prune` after they were checked.

    Attributes:
        metric: what ranks.
        mode: one of :data:`MODES`.
        kind: what the budget counts: ``"channels"``, ``"macs"``, ``"params"`` or ``"latency"``.
        keep: the share of it to keep.
        steps: number of times that the network is scored and cut.
        inputs: the example batch, on the network's device.
        data: calibration batches, which can be iterated as often as it takes.
        loss: mean loss over a batch, or None.
        conventions: how the scores are used.
        interface: layers whose channels stay.
        ignore: further layers whose channels (or weights) stay.
        round_to: every group keeps a multiple of so many channels.
        cut_residual: whether channels are cut across normalisations that span them.
        pattern: how many of so many consecutive weights stay, or None.
        forward_fn: runs the network on inputs, or None.
        seed: seed of everything random.
        tell: takes a line for a person.
        batch_progress: is told of every batch that was measured, or None.
    """

    metric: Metric
    mode: str
    kind: str
    keep: float
    steps: int
    inputs: Any
    data: Iterable[Any]
    loss: Loss | None
    conventions: Conventions
    interface: tuple[str, ...]
    ignore: tuple[str, ...]
    round_to: int
    cut_residual: bool
    pattern: Pattern | None
    forward_fn: Forward | None
    seed: int
    tell: Callable[[str], None]
    batch_progress: Progress | None

    @property
    def by_weight(self) -> bool:
        """Whether single weights are ranked."""
        return self.metric.granularity == "weight"


def say_nothing(line: str) -> None:
    """Swallow a line of progress."""


class OldBudgets(TypedDict, total=False):
    """The budgets by their old names (see :data:`NEW_NAMES`)."""

    ratio: float | None
    channels: float | None
    macs: float | None
    params: float | None
    latency: float | None


def with_old_names(
    budgets: Mapping[str, float | None], **old_names: Unpack[OldBudgets]
) -> dict[str, float | None]:
    """Return the budgets with those that the caller of the caller gives by an old name.

    Raises:
        TypeError: a name is neither old nor new.
        UserError: a budget is given by both names.
    """
    merged = dict(budgets)
    for old, share in old_names.items():
        if old not in NEW_NAMES:
            raise TypeError(f"prune() got an unexpected keyword argument {old!r}")
        new = NEW_NAMES[old]
        warnings.warn(
            f"prune({old}=) is now {new}=; the old name works until 0.2",
            DeprecationWarning,
            stacklevel=3,
        )
        if share is not None and merged[new] is not None:
            raise UserError(f"{old} is the old name of {new}, which is given, too; leave out {old}")
        merged[new] = cast("float | None", share) if share is not None else merged[new]
    return merged


def checked_budget(
    metric: Metric, given: dict[str, float | None], pattern: Pattern | None
) -> tuple[str, float]:
    """What the budget counts, and the share of it to keep.

    Args:
        metric: what ranks.
        given: name -> share, or None where that budget was not given; all shares are kept but
            that of the ratio, which is removed.
        pattern: stands for a budget of weights.

    Raises:
        UserError: none or several, out of range, or of a kind that the metric cannot meet.
    """
    named = {kind: keep for kind, keep in given.items() if keep is not None}
    ratio = named.get(RATIO)
    if pattern is not None:
        if metric.granularity != "weight":
            raise UserError(
                f"metric {metric.name!r} ranks channels, and pattern {pattern} is one of single "
                "weights; use a metric of weights, such as magnitude"
            )
        if named:
            raise UserError(
                f"pattern {pattern} says how many weights stay; leave out {' and '.join(named)}"
            )
        return pattern.budget.kind, pattern.budget.keep
    if len(named) != 1:
        *most, last = given
        said = " and ".join(named) or "none"
        raise UserError(f"give exactly one of {', '.join(most)} and {last}, not {said}")
    if ratio is not None:
        if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 < ratio < 1:
            raise UserError(
                f"{RATIO} is {ratio!r}, the share to remove; it must be greater than 0 and less "
                "than 1"
            )
        return "params" if metric.granularity == "weight" else "channels", 1 - ratio
    name, keep = named.popitem()
    kind = name.removeprefix("keep_")
    check_share(kind, keep)
    if metric.granularity == "weight" and kind == "channels":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, of which no share of channels can be "
            "kept; give keep_params or keep_macs (--keep-params, --keep-macs), the share to keep"
        )
    return kind, keep


def check_share(kind: str, keep: Any) -> None:
    """Raise UserError unless ``keep`` is a share of a kind that can be kept."""
    if kind != LATENCY:
        Budget(kind, keep)
    elif not isinstance(keep, int | float) or isinstance(keep, bool) or not 0 < keep <= 1:
        raise UserError(
            f"the share of latency to keep is {keep!r}; it must be greater than 0 and at most 1"
        )


def checked_mode(metric: Metric, mode: str | None, kind: str) -> str:
    """One of :data:`MODES`.

    Raises:
        UserError: an unknown mode, or one that the metric or the budget does not allow.
    """
    weights = metric.granularity == "weight"
    chosen = mode if mode is not None else "mask" if weights else "compact"
    if chosen not in MODES:
        raise UserError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    if weights and chosen == "compact":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, which cannot be taken out of a network "
            "one by one; use mode 'mask', or a metric of channels"
        )
    if kind == LATENCY and chosen == "mask":
        raise UserError(
            "a masked network is no faster, so no share of the latency can be asked of it; use a "
            "metric of channels with mode 'compact', or a budget of keep_macs or keep_params"
        )
    return chosen


def checked_steps(steps: int, pattern: Pattern | None) -> int:
    """The number of steps; UserError unless there can be so many."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserError(f"the number of steps is {steps!r}; it must be a whole number from 1")
    if steps > 1 and pattern is not None:
        raise UserError(f"pattern {pattern} is set in one step, not in {steps}; leave out steps")
    return steps


def checked_options(metric: Metric, round_to: Any, *, cut_residual: bool) -> int:
    """The multiple of channels that every group keeps.

    Raises:
        UserError: it is no whole number of at least 1, or the metric ranks single weights, where
            neither option means anything.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UserError(f"round_to is {round_to!r}; it must be a whole number of at least 1")
    if metric.granularity == "weight" and (round_to > 1 or cut_residual):
        option = "round_to" if round_to > 1 else "cut_residual"
        raise UserError(
            f"metric {metric.name!r} ranks single weights, and {option} is about channels; leave "
            "it out, or use a metric of channels"
        )
    return round_to


def needs_data(metric: Metric) -> bool:
    """Whether the metric measures anything on calibration data."""
    return bool(metric.needs & _DATA_NEEDS)


def checked_data(metric: Metric, data: Iterable[Any] | None, steps: int) -> Iterable[Any]:
    """The data, kept in memory where it must be gone through again and cannot.

    Raises:
        UserError: the metric measures something and there is nothing to measure.
    """
    lacking = metric.needs & _DATA_NEEDS
    if not lacking:
        return ()
    if data is None or (isinstance(data, list | tuple) and not data):
        operands = {
            node.name: None
            for node in metric.expression.nodes()
            if isinstance(node.head, Operand) and node.head.needs & lacking
        }
        what = " and ".join(NEEDS[need] for need in NEEDS if need in lacking)
        raise UserError(
            f"metric {metric.name!r} needs {what} (for {', '.join(operands)}); give calibration "
            "data with --data (data=...)"
        )
    batches = given_batches(data)
    return list(batches) if steps > 1 and isinstance(batches, Iterator) else batches


def example_batch(example_inputs: Any, device: torch.device) -> Any:
    """The example inputs on a device; a list of arguments becomes a tuple."""
    moved = map_tensors(lambda tensor: tensor.to(device), example_inputs)
    return tuple(moved) if isinstance(moved, list) else moved


def matching_layers(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """The layers with weights that names or patterns (``*``, ``?``, ``[...]``) mean.

    Raises:
        UserError: one matches no layer.
    """
    if isinstance(names, str):
        raise UserError(f"the layers to ignore are {names!r}; give a list of names")
    layers = [name for name, module in model.named_modules() if isinstance(module, Prunable)]
    found: dict[str, None] = {}
    for name in names:
        matches = [layer for layer in layers if fnmatch.fnmatchcase(layer, name)]
        if not matches:
            inside = [layer for layer in layers if layer.startswith(f"{name}.")]
            close = [f"{name}.*"] if inside else difflib.get_close_matches(name, layers, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the layers are {_some(layers)}"
            raise UserError(f"no layer to ignore is called {name!r}{hint}")
        found.update(dict.fromkeys(matches))
    return tuple(found)


def _some(layers: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(layers[:most])
    return f"{shown} and {len(layers) - most} more" if len(layers) > most else shown or "none"


def ignoring(architecture: Architecture, layers: Sequence[str]) -> Architecture:
    """The architecture in which the channels of ``layers`` are not cut."""
    kept = set(layers)
    groups = tuple(
        group if group.fixed or kept.isdisjoint(group.producers) else replace(group, fixed=IGNORED)
        for group in architecture.groups
    )
    return replace(architecture, groups=groups)
