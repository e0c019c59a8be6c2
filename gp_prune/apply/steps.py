"""Pruning in one step or in several, each of which scores what the step before left.

The shares that the steps aim at fall geometrically: step ``t`` of ``n`` keeps ``keep ** (t / n)``
of the whole, so that every step takes the same share of what is there. With equal amounts instead
the last steps, where a network has the least to spare, would take the largest shares of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.apply.options import LATENCY, Request
from gp_prune.apply.scoring import chosen_channels, chosen_weights, layer_scores, scored_layers
from gp_prune.errors import pluralize
from gp_prune.pruning import Achieved, Architecture, Budget, ChannelPlan, WeightPlan, compact, mask
from gp_prune.pruning.select.scores import as_array, guard, normalise
from gp_prune.statistics.layers import to_dense

Choose = Callable[[nn.Module, Architecture, Mapping[str, Tensor], float], ChannelPlan]
"""``choose(network, its architecture, scores, share)``: what goes, in the network's own channels,
so that ``share`` of the budget of the whole network is kept."""


class Step(NamedTuple):
    """One step of a sequence.

    Attributes:
        asked: share of the budget that the step aims at.
        channels: share of the channels that may be cut, after it; None for single weights.
        weights: share of the ranked weights after it; None for channels.
        macs: share of the MACs after it.
        params: share of the parameters after it; None for single weights.
    """

    asked: float
    channels: float | None
    weights: float | None
    macs: float | None
    params: float | None


class StepSequence(NamedTuple):
    """What a sequence of steps came to.

    Attributes:
        plan: what goes, in the channels (or weights) of the original network.
        scores: layer name -> scores of the last step.
        steps: the steps.
    """

    plan: ChannelPlan | WeightPlan
    scores: dict[str, Tensor]
    steps: tuple[Step, ...]


def planned(
    model: nn.Module, architecture: Architecture, request: Request, choose: Choose
) -> StepSequence:
    """Score and cut as often as asked, and say what goes in all.

    Args:
        model: the network.
        architecture: its channel groups.
        request: what is asked.
        choose: chooses the channels of one step (:func:`to_budget`, or a way of one's own).
    """
    one = "" if request.steps == 1 else f", {request.steps} times"
    layers = scored_layers(architecture, request)
    request.tell(f"scoring {pluralize(len(layers), 'layer')} with {request.metric.name}{one}")
    if request.by_weight:
        return _planned_weights(model, architecture, request)
    return _planned_channels(model, architecture, request, choose)


def to_budget(request: Request) -> Choose:
    """Chooses so many channels that a share of channels, MACs or parameters is kept."""

    def choose(
        model: nn.Module, now: Architecture, scores: Mapping[str, Tensor], share: float
    ) -> ChannelPlan:
        return chosen_channels(now, scores, request, Budget(request.kind, share))

    return choose


def relative_budget(
    request: Request, whole: Architecture, now: Architecture, share: float
) -> float:
    """The share of the present network that is ``share`` of the whole one; at most 1."""
    counts = {
        "channels": (int(whole.sizes.sum()), int(now.sizes.sum())),
        "macs": (whole.dense_costs[0], now.dense_costs[0]),
        "params": (whole.dense_costs[1], now.dense_costs[1]),
    }
    first, present = counts.get(request.kind, (1, 1))
    return min(1.0, share * (first / present)) if present else 1.0


def _planned_channels(
    model: nn.Module, architecture: Architecture, request: Request, choose: Choose
) -> StepSequence:
    removed: dict[str, tuple[int, ...]] = {}
    current, now = model, architecture
    steps: list[Step] = []
    for number in range(1, request.steps + 1):
        if removed:
            current, now = _cut(model, architecture, removed), architecture.after_cut(removed)
        share = request.keep ** (number / request.steps)
        scores = layer_scores(current, now, request)
        relative = relative_budget(request, architecture, now, share)
        plan = choose(current, now, scores, relative)
        removed = architecture.join_cuts(removed, plan.removed)
        achieved = Achieved.of(architecture, architecture.widths(removed))
        steps.append(Step(share, achieved.channels, None, achieved.macs, achieved.params))
        _tell_step(request, number, steps[-1])
    if request.steps > 1:
        latency = request.kind == LATENCY  # the plan knows the MACs that came to it
        asked = Budget("macs", achieved.macs) if latency else Budget(request.kind, request.keep)
        plan = replace(plan, removed=removed, asked=asked, achieved=achieved)
    return StepSequence(plan, scores, tuple(steps))


def _cut(
    model: nn.Module, architecture: Architecture, removed: dict[str, tuple[int, ...]]
) -> nn.Module:
    plan = ChannelPlan(removed, Budget("channels", 1.0), Achieved(1.0, 1.0, 1.0))
    return compact(model, plan, architecture)


def _tell_step(request: Request, number: int, step: Step) -> None:
    if request.steps == 1:
        return
    kept = step.weights if request.by_weight else step._asdict().get(request.kind)
    found = f", {kept:.3f} kept" if kept is not None else ""
    request.tell(
        f"step {number} of {request.steps}: {step.asked:.3f} of the {request.kind} asked{found}"
    )


def _planned_weights(
    model: nn.Module, architecture: Architecture, request: Request
) -> StepSequence:
    plan: WeightPlan | None = None
    steps: list[Step] = []
    for number in range(1, request.steps + 1):
        share = request.keep ** (number / request.steps)
        current, used = model, request.conventions
        if plan is not None:
            current = copy.deepcopy(model)
            mask(current, plan)
        scores = layer_scores(current, architecture, request)
        ranked = scores
        if plan is not None:
            ranked = _gone_last(model, plan, scores, used.normaliser)
            used = replace(used, normaliser="none")
        budget = Budget(request.kind, share)
        plan = chosen_weights(model, architecture, ranked, request, budget, used)
        steps.append(Step(share, None, plan.achieved.params, plan.achieved.macs, None))
        _tell_step(request, number, steps[-1])
    assert plan is not None
    return StepSequence(plan, scores, tuple(steps))


def _gone_last(
    model: nn.Module, plan: WeightPlan, scores: Mapping[str, Tensor], normaliser: str
) -> dict[str, Tensor]:
    """Normalised scores in which the weights that are gone already are the lowest of all.

    A metric may well give a weight of zero more than another; it must not grow again.
    """
    ready: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    for name, values in scores.items():
        ready[name] = values.detach().to("cpu", torch.float64).clone()
        if name not in plan.kept:
            continue
        stays = torch.from_numpy(plan.kept[name].unpack())
        left[name] = to_dense(stays, model.get_submodule(name)) > 0
        inside = as_array(ready[name][left[name]], name)
        guard(inside, name)
        ready[name][left[name]] = torch.from_numpy(normalise(inside, normaliser).copy())
    lowest = min(float(ready[name][stays].min()) for name, stays in left.items())
    floor = lowest - max(1.0, abs(lowest))
    for name, stays in left.items():
        ready[name][~stays] = floor
    return ready
