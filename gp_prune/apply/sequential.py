"""Choose weights block after block: each is scored on the outputs of the pruned blocks before it.

This is how the published code of Wanda and SparseGPT goes. What is measured of a block is let go
before the next one, so that beside the weights there are the statistics of one layer and the
inputs of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gp_prune.apply.blocks import Chain, Stage, find_stack, find_stages
from gp_prune.apply.options import PruneOptions, needs_data
from gp_prune.apply.scoring import LayerScores, measure_each
from gp_prune.errors import UserError
from gp_prune.language.record import LOSS_NEEDS
from gp_prune.pruning import Architecture, Budget, WeightPlan, select_weights
from gp_prune.pruning.modules import weight_of
from gp_prune.pruning.plan.weights import PackedMask
from gp_prune.pruning.select.shared import find_shared
from gp_prune.pruning.select.weights import achieved_weights, find_whole
from gp_prune.statistics import Batch, Forward, Loss, Progress
from gp_prune.statistics.recording import LABEL_NEEDS

_OF_THE_NETWORK = LOSS_NEEDS | LABEL_NEEDS | {"outgoing", "synflow"}
"""What cannot be measured on a block alone."""


@dataclass
class Ordered:
    """What was chosen in order.

    Attributes:
        plan: which weights stay.
        scored: what was measured on, without the scores.
    """

    plan: WeightPlan
    scored: LayerScores


@dataclass
class _Chosen:
    """What has been chosen so far."""

    kept: dict[str, PackedMask] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    tied: float = 0.0
    undecided: float = 0.0
    coverage: dict[str, Any] = field(default_factory=dict)


def select_in_order(
    model: nn.Module,
    options: PruneOptions,
    architecture: Architecture,
    batches: Iterable[Batch],
    example_inputs: Any,
    *,
    ignore: Sequence[str] = (),
    loss: Loss | None = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Ordered:
    """Choose the weights of each block, and put zeros in the place of the others before the next.

    Layers that are in no block are blocks of their own. A row, a layer or a block of a pattern is
    ranked by itself, so the share that is kept is the same everywhere.

    Args:
        model: the network; zeros are written into its weights.
        options: the metric, the share and the ranking.
        architecture: its layers and what they cost.
        batches: calibration data.
        example_inputs: a batch that it can be called with.
        ignore: layers whose weights all stay.
        loss: mean loss of a batch, for metrics that need gradients.
        forward_fn: runs the network on inputs.
        progress: is told of every batch that was measured.
        tell: is told of every block.

    Raises:
        UserError: a weight is shared between blocks, or nothing can be ranked.
    """
    layers, whole = _ranked(model, options, architecture, ignore)
    stages = find_stages(model, layers, example_inputs, forward_fn)
    chain = None
    blocks = find_stack(model)
    if blocks and needs_data(options.metric) and not options.metric.needs & _OF_THE_NETWORK:
        chain = Chain(model, blocks, forward_fn, options.seed)
        if not chain.begin(batches):
            chain = None
    chosen = _Chosen()
    run = _Run(model, options, architecture, batches, example_inputs, loss, forward_fn, progress)
    for number, stage in enumerate(stages, 1):
        tell(f"block {number} of {len(stages)}: {stage.name}")
        inside = chain if chain is not None and chain.reach(stage.name) else None
        run.choose(stage, inside, chosen)
    return Ordered(
        _plan(model, options, architecture, [*layers, *whole], chosen, whole),
        LayerScores(options.metric, {}, chosen.coverage, options.memory),
    )


def _ranked(
    model: nn.Module, options: PruneOptions, architecture: Architecture, ignore: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the layers that are ranked, and why others stay whole."""
    named = [name for name in architecture.prunable_layers if name not in ignore]
    owners, tied = find_shared(model, named, ignore)
    for name, owner in owners.items():
        raise UserError(
            f"layers {owner!r} and {name!r} share a weight, so one cannot be pruned before the "
            "other is scored; leave out sequential (--sequential)"
        )
    layers = [name for name in named if name not in tied]
    if not layers:
        raise UserError("there is no layer whose weights could be pruned; name at least one")
    whole = find_whole(model, layers, options.pattern)
    return [name for name in layers if name not in whole], {**whole, **tied}


@dataclass(frozen=True)
class _Run:
    """Chooses the weights of one stage after the other; the fields are those of the caller."""

    model: nn.Module
    options: PruneOptions
    architecture: Architecture
    batches: Iterable[Batch]
    example_inputs: Any
    loss: Loss | None
    forward_fn: Forward | None
    progress: Progress | None

    def choose(self, stage: Stage, chain: Chain | None, chosen: _Chosen) -> None:
        """Score the layers of a stage one by one, then set the zeros of all.

        Args:
            stage: the layers.
            chain: has the inputs of the block; None to run the network as a whole.
            chosen: is added to.
        """
        options, metric = self.options, self.options.metric
        model, forward_fn = self.model, self.forward_fn
        batches: Iterable[Batch] = self.batches if needs_data(metric) else ()
        inputs = self.example_inputs
        if chain is not None:
            model, forward_fn = chain.alone(stage.name)
            batches = list(chain.batches())
            inputs = None
        for name, scores, coverage in measure_each(
            model, metric, batches, layers=stage.layers, architecture=self.architecture,
            loss=self.loss, max_memory=options.memory, seed=options.seed, example_inputs=inputs,
            forward_fn=forward_fn, progress=self.progress,
        ):  # fmt: skip
            budget = Budget("params", options.shares[-1]) if options.pattern is None else None
            plan = select_weights(
                self.model, [name], {name: scores}, options.ranking, budget,
                pattern=options.pattern,
            )  # fmt: skip
            kept = plan.kept[name]
            size = weight_of(self.model, name).numel()
            chosen.kept[name] = kept
            chosen.removed[name] = size - int(kept.unpack().sum())
            chosen.tied += plan.ties * size
            chosen.undecided += plan.undecided * size
            chosen.coverage |= coverage
        for name in stage.layers:
            set_zeros(self.model, name, chosen.kept[name])


def set_zeros(model: nn.Module, name: str, kept: PackedMask) -> None:
    """Write zeros in the place of the weights of a layer that go, without a mask."""
    weight = weight_of(model, name)
    with torch.no_grad():
        weight[torch.from_numpy(~kept.unpack()).to(weight.device)] = 0


def _plan(
    model: nn.Module,
    options: PruneOptions,
    architecture: Architecture,
    layers: Sequence[str],
    chosen: _Chosen,
    whole: dict[str, str],
) -> WeightPlan:
    """Return all that was chosen as one plan, in the order of the layers of the network."""
    tied = find_shared(model, architecture.prunable_layers).whole
    counted = [name for name in layers if name not in tied]
    total = sum(weight_of(model, name).numel() for name in counted)
    ranked = sum(weight_of(model, name).numel() for name in chosen.kept)
    pattern = options.pattern
    return WeightPlan(
        {name: chosen.kept[name] for name in architecture.prunable_layers if name in chosen.kept},
        Budget("params", options.shares[-1]) if pattern is None else pattern.budget,
        achieved_weights(chosen.removed, total, architecture, {}),
        chosen.tied / ranked,
        pattern,
        whole,
        chosen.undecided / ranked,
    )
