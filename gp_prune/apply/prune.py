"""Prune any model by a metric, to a budget: trace, score, select, cut and check.

:func:`prune` takes the arguments of a user; ``Pruner._prune`` is the pipeline itself, step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from gp_prune.apply.batches import calibration_batches, example_batch
from gp_prune.apply.lineage import Cut, find_cut, join_plans, remember_cut
from gp_prune.apply.network import ValueReads, check_branches, check_model
from gp_prune.apply.options import (
    IGNORED,
    KEEP,
    LATENCY,
    OldBudgets,
    PruneOptions,
    match_layers,
    rename_old_budgets,
)
from gp_prune.apply.result import PrunedModel, PruneStep, layer_rows
from gp_prune.apply.scoring import (
    LayerScores,
    as_metric,
    measure_scores,
    move,
    warn_of_limit,
)
from gp_prune.apply.selection import Bounds, select_next_channels, select_next_weights
from gp_prune.errors import UserError, brief, pluralize
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Architecture,
    ChannelPlan,
    Cost,
    DegenerateScores,
    Pattern,
    WeightPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.cut_check import FORWARD_ERRORS
from gp_prune.pruning.graph.trace import find_violation, trace_layers
from gp_prune.pruning.modules import largest_difference
from gp_prune.pruning.select.scores import MOST_TIES, keep_unranked
from gp_prune.pruning.surgery import set_to_zero
from gp_prune.pruning.timing import compare
from gp_prune.statistics import Batch, Loss, Progress, prunable_layers
from gp_prune.statistics.batches import check_loss
from gp_prune.statistics.coverage import describe_limit
from gp_prune.statistics.layers import is_batch_norm
from gp_prune.statistics.running import (
    Forward,
    call_model,
    copy_model,
    device_of,
    evaluation_mode,
    seed_generators,
    tensors_of,
)
from gp_prune.training.samples import Data

_MOST_UNDECIDED = 0.05
"""Share of channels or weights about which positions may decide."""

_TOLERANCE = 1e-3
"""Largest difference of masked and compact outputs, as a share of the largest output."""
_OF_BATCH_NORM = frozenset({"gamma", "beta", "Ggamma", "Gbeta"})
"""Operands that are parameters of a batch norm, and of the layer itself where there is none."""
_SEARCH_TURNS = 11
"""Turns in which a candidate is timed beside the original while a cut is searched."""


def prune(
    model: nn.Module,
    metric: Metric | LayerScores | str,
    example_inputs: Any,
    *,
    data: Data = (),
    loss: Loss | None = None,
    samples: int | None = None,
    max_memory: int | str | None = None,
    pruning_ratio: float | None = None,
    keep_channels: float | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    pattern: Pattern | str | None = None,
    steps: int = 1,
    interface: Sequence[str] = (),
    ignore: Sequence[str] = (),
    round_to: int = 1,
    min_share: float | None = None,
    keep_share: Mapping[str, float] | None = None,
    unranked: str = KEEP,
    allow_ties: bool = False,
    cut_residual: bool = False,
    mode: str | None = None,
    conventions: Conventions | None = None,
    forward_fn: Forward | None = None,
    time_it: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[str], None] | None = None,
    batch_progress: Progress | None = None,
    **old_names: Unpack[OldBudgets],
) -> PrunedModel:
    """Return a pruned copy of a network; the network itself is not changed.

    Exactly one of ``keep_channels``, ``keep_macs``, ``keep_params`` and ``keep_latency`` says which
    share is kept, or ``pruning_ratio`` which share of the channels or weights is removed. A metric
    of single weights takes ``keep_params``, the share of the weights of all layers, or
    ``keep_macs``, the share that is left when zeros cost nothing, or a ``pattern`` in place of a
    budget.

    Args:
        model: any network that ``copy.deepcopy`` can copy.
        metric: a metric, what :meth:`Metric.load` takes, or the scores of this network from
            :func:`gp_prune.score_layers`, which then are not measured again.
        example_inputs: a batch that the model can be called with: a tensor (samples, ...), a tuple
            of arguments or a dictionary of named ones.
        data: calibration data, for metrics that measure something: a data set of torch, a data
            loader, or batches: items of :class:`~gp_prune.statistics.Batch`, pairs (inputs,
            target), dictionaries of named arguments (which the loss gets, too), or inputs alone.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        samples: how many of the calibration samples are used: of a data set a choice by ``seed``,
            of batches and loaders the first ones; by default all.
        max_memory: most memory for what is measured, beside the passes of the network themselves:
            a size with its unit, such as ``"500MB"``, or bytes; by default 2 GB. Where a layer does
            not fit, some of its samples and positions are measured, and a warning says so.
        pruning_ratio: share to remove, of the channels that may be cut, or of the weights.
        keep_channels: share to keep of the channels that may be cut.
        keep_macs: share to keep of the MACs of the network.
        keep_params: share to keep of the parameters of the network.
        keep_latency: share to keep of the time of a forward pass over ``example_inputs``, which is
            measured in turns with the network itself.
        pattern: how many of consecutive weights stay: ``"2:4"`` keeps two of every four.
        steps: number of times that the network is scored and cut; each step scores what the one
            before left and takes the same share of it.
        interface: layers whose output channels are kept; the network's output always is.
        ignore: names or patterns (``layer4.*``) of further layers whose channels, or single
            weights, are all kept.
        round_to: every group keeps a multiple of this number of channels.
        min_share: share of its channels that every layer keeps at least, a tenth by default; 0
            keeps at least one channel. It is of no meaning for single weights.
        keep_share: names or patterns of layers -> the share of their channels to keep, whatever
            their scores; the other layers give the rest of the budget.
        unranked: what happens to layers whose channels all have the same score, as those without
            batch norm by ``bn_scale``: ``"keep"`` keeps them whole, named in the remarks, and
            ``"refuse"`` refuses the network. Where other layers of a group rank its channels, these
            decide; where no group is ranked, the network is always refused.
        allow_ties: cut also where more than half of the scores are tied and their positions alone
            decide what goes, which is refused by default.
        cut_residual: also cut channels that a layer or group norm spans; masked and compact
            networks then differ.
        mode: ``"compact"`` removes channels, ``"mask"`` holds them (or single weights) at zero;
            by default compact for channels and mask for weights.
        conventions: in place of those of the metric.
        forward_fn: ``forward_fn(model, inputs)`` runs the network on the example inputs, and on
            the inputs of each batch, where calling it with them is not the way.
        time_it: whether to measure the latency before and after.
        seed: seed of everything random: sampled positions, a metric's own noise.
        device: where to work, and where the pruned network then is; by default the model's device.
        progress: called with a line for a person before each step.
        batch_progress: ``batch_progress(done, total)``, called after each batch that is measured.
        old_names: ``ratio``, ``channels``, ``macs``, ``params`` and ``latency``, the earlier names
            of the budgets; they work until 0.2 with a DeprecationWarning.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, the network cannot be run
            or pruned, or the latency cannot be reached.
        DegenerateScores: the metric does not rank the channels or weights of a layer.

    Warns:
        CoverageWarning: a layer does not fit ``max_memory`` and was measured in part.
    """
    budgets = {
        "pruning_ratio": pruning_ratio, "keep_channels": keep_channels, "keep_macs": keep_macs,
        "keep_params": keep_params, "keep_latency": keep_latency,
    }  # fmt: skip
    check_model(model)
    scores = metric if isinstance(metric, LayerScores) else None
    if scores is not None:
        scores.check_use(model, data, loss=loss, samples=samples, memory=max_memory, steps=steps)
    options = PruneOptions(
        metric=as_metric(metric) if scores is None else scores.metric,
        **rename_old_budgets(budgets, **old_names),
        pattern=Pattern.parse(pattern) if isinstance(pattern, str) else pattern,
        steps=steps,
        interface=interface,
        ignore=ignore,
        round_to=round_to,
        min_share=min_share,
        keep_share={} if keep_share is None else keep_share,
        unranked=unranked,
        allow_ties=allow_ties,
        cut_residual=cut_residual,
        mode=mode,
        conventions=conventions,
        time_it=time_it,
        seed=seed,
        samples=samples,
        max_memory=max_memory,
    )
    earlier = find_cut(model)
    model = move(model, device)
    pruner = Pruner(
        model, options, example_inputs, data, loss, forward_fn, progress, batch_progress, scores
    )
    pruned = pruner.prune()
    if scores is None and pruner.scored is not None:
        warn_of_limit(pruner.scored)
    return _with_lineage(pruned, earlier)


def _with_lineage(pruned: PrunedModel, earlier: Cut | None) -> PrunedModel:
    """Return the result with the plan that makes it of the network before an earlier cut."""
    if pruned.mode != "compact" or not isinstance(pruned.plan, ChannelPlan):
        return pruned
    cut = Cut(pruned.architecture, pruned.plan.removed)
    if earlier is not None:
        joined = join_plans(earlier, pruned.plan, pruned.architecture)
        if joined is not None:
            pruned = replace(pruned, from_first=joined)
            cut = Cut(joined[1], joined[0].removed)
    remember_cut(pruned.model, cut)
    return pruned


class Pruner:
    """Prune one network by checked options.

    Attributes:
        options: what to remove, and by which ranking.
        latency_floor: share of the time that the smallest network takes, once it was measured.
        scored: the scores of the whole network, once they were measured.
    """

    def __init__(
        self,
        model: nn.Module,
        options: PruneOptions,
        example_inputs: Any,
        data: Data = (),
        loss: Loss | None = None,
        forward_fn: Forward | None = None,
        progress: Callable[[str], None] | None = None,
        batch_progress: Progress | None = None,
        scores: LayerScores | None = None,
    ) -> None:
        """Prepare the network, the inputs and the data; see :func:`prune` for the arguments."""
        self.options = options
        self.latency_floor: float | None = None
        check_model(model)
        check_loss(loss)
        self._model = open_attention(model)
        self._inputs = example_batch(example_inputs, device_of(model))
        self.scored = scores
        self._given = scores is not None
        self._data: Iterable[Batch] = ()
        if scores is None:
            self._data = calibration_batches(
                options.metric,
                data,
                passes=options.steps,
                samples=options.samples,
                seed=options.seed,
            )
        self._ignore = match_layers(options.ignore, prunable_layers(self._model))
        self._loss, self._forward_fn = loss, forward_fn
        self._tell = progress or (lambda line: None)
        self._batch_progress = batch_progress

    def prune(self) -> PrunedModel:
        """Count the network, prune it, and say how long it took."""
        started = time.perf_counter()
        self._tell("counting the network")
        before = self.count()
        pruned = None
        if self.options.can_start_again:
            # The very cut that is made is tried out, in place of some cut before there is a plan.
            with suppress(UserError, *FORWARD_ERRORS):
                pruned = self._prune(before, try_out_first=False)
        pruned = pruned or self._prune(before, try_out_first=True)
        return replace(pruned, seconds=time.perf_counter() - started)

    def _prune(self, before: Cost, *, try_out_first: bool) -> PrunedModel:
        """Trace, score, select, cut and check."""
        options, steps = self.options, list[PruneStep]()
        architecture = self.trace(try_out=try_out_first)
        bounds = Bounds.of(options, architecture)
        network, now, plan = self._model, architecture, None
        for share in options.shares:
            if plan is not None:
                network, now = self._cut_so_far(plan, architecture)
            scores = self.score(network, now, first=plan is None)
            if plan is None:
                architecture = now = self._keep_unranked(now, scores, bounds)
            reached = bounds.step(len(steps) + 1, options.steps)
            plan = self.select(network, now, architecture, scores, share, plan, reached)
            self._check_ties(plan)
            steps.append(self._report_step(len(steps) + 1, share, plan))
        assert plan is not None
        pruned = self.cut(plan, architecture)
        after = self.check(pruned, plan, architecture, before, try_out=not try_out_first)
        times = None
        if options.time_it or options.kind == LATENCY:
            self._tell("timing the network before and after")
            times = compare(self._model, pruned, self._inputs, forward_fn=self._forward_fn)
        return PrunedModel(
            model=pruned,
            plan=plan,
            mode="compact" if options.compact else "mask",
            before=before,
            after=after,
            rows=layer_rows(architecture, plan, scores, before, after, self._ignore),
            seconds=0.0,
            metric=options.metric.name,
            metric_digest=options.metric.digest,
            conventions=options.ranking,
            interface=tuple(options.interface),
            input_shapes=tuple(tuple(tensor.shape) for tensor in tensors_of(self._inputs)),
            architecture=architecture,
            ignore=self._ignore,
            round_to=options.round_to,
            cut_residual=options.cut_residual,
            min_share=0.0 if options.by_weight else options.floor,
            keep_share=dict(options.keep_share),
            notes=self._notes(architecture),
            pattern=None if options.pattern is None else str(options.pattern),
            steps=tuple(steps),
            times=times,
            latency=options.keep_latency,
            latency_floor=self.latency_floor,
            coverage={} if self.scored is None else self.scored.coverage,
            max_memory=None if self.scored is None else self.scored.max_memory,
        )

    def count(self) -> Cost:
        """Return what the network costs as it is given.

        Raises:
            UserError: it does not run on the inputs.
        """
        reads = ValueReads()

        def watched(model: nn.Module, inputs: Any) -> Any:
            with reads:
                return call_model(model, inputs, self._forward_fn)

        try:
            cost = measure(self._model, self._inputs, forward_fn=watched)
            if reads.any:
                check_branches(self._model, self._inputs, self._forward_fn)
            return cost
        except UserError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(self._inputs))
            on = f"inputs of shape {shapes}" if shapes else f"inputs {brief(self._inputs)}"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            remedy = "give the shape of its inputs with --input-shape (example_inputs)"
            if self._forward_fn is not None:
                remedy = "give example_inputs that forward_fn can run it on"
            elif not isinstance(self._inputs, Tensor):
                remedy = (
                    "give example_inputs that it can be called with, or forward_fn, which runs it "
                    "on them, to gp_prune.prune()"
                )
            raise UserError(f"the network does not run on {on} ({reason}); {remedy}") from error

    def trace(self, *, try_out: bool) -> Architecture:
        """Return the groups of channels that are cut together, and what they cost."""
        if self.options.by_weight and "outgoing" not in self.options.metric.needs:
            # Single weights go one by one, so nothing has to be known of channels.
            return trace_layers(self._model, self._inputs, forward_fn=self._forward_fn)
        self._tell("finding the channels that belong together")
        architecture = trace(
            self._model,
            self._inputs,
            interface=tuple(self.options.interface),
            cut_residual=self.options.cut_residual,
            forward_fn=self._forward_fn,
            try_out=try_out,
        )
        if self.options.by_weight:
            return architecture
        ignored = set(self._ignore)
        groups = [
            group
            if group.fixed or ignored.isdisjoint(group.producers)
            else replace(group, fixed=IGNORED)
            for group in architecture.groups
        ]
        return replace(architecture, groups=tuple(groups))

    def score(self, network: nn.Module, now: Architecture, *, first: bool) -> Mapping[str, Tensor]:
        """Return layer name -> scores (o,) or (o, i, k), measured on ``network``."""
        metric = self.options.metric
        layers = now.scored_layers
        if self.options.by_weight:
            layers = tuple(name for name in now.prunable_layers if name not in self._ignore)
        if self._given and self.scored is not None:
            return self.scored.select(layers)
        if not layers:  # which selection explains
            return {}
        if first:
            times = "" if self.options.steps == 1 else f", {self.options.steps} times"
            self._tell(f"scoring {pluralize(len(layers), 'layer')} with {metric.name}{times}")
        scored = measure_scores(
            network,
            metric,
            self._data,
            layers=layers,
            architecture=now,
            loss=self._loss,
            max_memory=self.options.memory,
            seed=self.options.seed,
            example_inputs=self._inputs,
            forward_fn=self._forward_fn,
            progress=self._batch_progress,
        )
        if first:
            self.scored = scored
        return scored.scores

    def _keep_unranked(
        self, architecture: Architecture, scores: Mapping[str, Tensor], bounds: Bounds
    ) -> Architecture:
        """Keep the groups whole that the scores do not rank, unless told otherwise."""
        options = self.options
        if options.by_weight or options.unranked != KEEP:
            return architecture
        with self._naming_the_metric():
            return keep_unranked(architecture, scores, options.ranking, but=bounds.shares)

    def _check_ties(self, plan: ChannelPlan | WeightPlan) -> None:
        """Raise UserError where positions rather than scores decide what goes."""
        tied = plan.ties > MOST_TIES and plan.undecided > _MOST_UNDECIDED
        if tied and not self.options.allow_ties:
            what = "weights" if self.options.by_weight else "channels"
            raise UserError(
                f"{plan.ties:.0%} of the scores of metric {self.options.metric.name!r} are tied, "
                f"and of {plan.undecided:.0%} of the {what} the position alone would decide which "
                "go; use another metric, or allow it with --allow-ties (allow_ties=True)"
            )

    @contextmanager
    def _naming_the_metric(self) -> Iterator[None]:
        """Say in a DegenerateScores from inside which metric it was, and what helps."""
        try:
            yield
        except DegenerateScores as error:
            scored, limit = self.scored, ""
            if scored is not None:
                limit = describe_limit(scored.coverage, scored.max_memory)
            remedy = (
                f"note that {limit.rstrip('.')}"
                if limit
                else ("use trained weights or another metric")
            )
            raise DegenerateScores(
                error.reason,
                error.layer,
                f"{error.detail}; metric {self.options.metric.name!r} cannot rank it, {remedy}",
            ) from error

    def select(
        self,
        network: nn.Module,
        now: Architecture,
        whole: Architecture,
        scores: Mapping[str, Tensor],
        share: float,
        earlier: ChannelPlan | WeightPlan | None,
        bounds: Bounds,
    ) -> ChannelPlan | WeightPlan:
        """Return what goes, in channels or weights of the whole network.

        ``network`` with the groups ``now`` is what the earlier steps left, ``scores`` are measured
        on it, and ``share`` of the whole network is kept, within ``bounds``. DegenerateScores names
        the metric.
        """
        options = self.options
        with self._naming_the_metric():
            if options.by_weight:
                assert not isinstance(earlier, ChannelPlan)
                return select_next_weights(
                    self._model, whole, scores, share, earlier, options, self._ignore
                )
            assert not isinstance(earlier, WeightPlan)
            plan, self.latency_floor = select_next_channels(
                now,
                whole,
                scores,
                share,
                earlier,
                options,
                partial(self._time, network, now),
                bounds,
            )
            return plan

    def _time(self, network: nn.Module, now: Architecture, plan: ChannelPlan) -> float:
        """Return the time after a cut of ``network`` as a share of the whole network's time."""
        candidate = compact(network, plan, now)
        forward_fn = self._forward_fn
        turns = compare(
            self._model, candidate, self._inputs, turns=_SEARCH_TURNS, forward_fn=forward_fn
        )
        return turns.share

    def cut(self, plan: ChannelPlan | WeightPlan, architecture: Architecture) -> nn.Module:
        """Return a copy of the network without what goes, or with it held at zero."""
        self._tell("removing channels" if self.options.compact else "setting masks")
        if self.options.compact:
            assert isinstance(plan, ChannelPlan)
            return compact(self._model, plan, architecture)
        return self._masked(plan, architecture)

    def check(
        self,
        pruned: nn.Module,
        plan: ChannelPlan | WeightPlan,
        architecture: Architecture,
        before: Cost,
        *,
        try_out: bool,
    ) -> Cost:
        """Return what the pruned network costs; of a masked one, without what is masked.

        Raises:
            UserError: it costs or computes something else than was planned, or does so with random
                weights where ``try_out`` says to try them.
        """
        measured = measure(pruned, self._inputs, forward_fn=self._forward_fn)
        if isinstance(plan, WeightPlan):
            removed = sum(int((~kept.unpack()).sum()) for kept in plan.kept.values())
            share = 1.0 if plan.achieved.macs is None else plan.achieved.macs
            return Cost(round(share * before.macs), before.params - removed, measured.nonzero)
        macs, params = predict(architecture, plan.kept(architecture))
        if not self.options.compact:
            return Cost(macs, params, measured.nonzero)
        if (measured.macs, measured.params) != (macs, params):
            raise UserError(
                f"the pruned network has {measured.macs} MACs and {measured.params} parameters "
                f"where {macs} and {params} were planned; use mode 'mask' for this network"
            )
        if not any(architecture.by_name[name].crosses_normalisation for name in plan.removed):
            self._check_outputs(pruned, plan, architecture)
        if try_out:
            violation = find_violation(
                self._model, self._inputs, architecture, plan.removed, forward_fn=self._forward_fn
            )
            if violation:
                raise UserError(violation)
        return measured

    def _check_outputs(
        self, pruned: nn.Module, plan: ChannelPlan, architecture: Architecture
    ) -> None:
        """Raise UserError unless removing the channels did what holding them at zero does.

        Tracing tries this on one cut with random weights; this is the cut that is made.
        """
        # Channels set to zero compute what masks do, without the memory that masks take.
        zeroed = copy_model(self._model)
        set_to_zero(zeroed, architecture.entries(plan.removed))
        outputs = []
        for network in (zeroed, pruned):
            with evaluation_mode(network), torch.no_grad():
                seed_generators(self.options.seed)
                output = call_model(network, self._inputs, self._forward_fn)
            outputs.append([tensor for tensor in tensors_of(output) if tensor.is_floating_point()])
        finite = [pair for pair in zip(*outputs, strict=True) if bool(pair[0].isfinite().all())]
        share = largest_difference([one for one, _ in finite], [other for _, other in finite])
        if share > _TOLERANCE:
            raise UserError(
                "the network without the channels gives other outputs than with the channels at "
                f"zero (they differ by {share:.2g} of the largest); it uses them in a way that "
                "cannot be followed, so use mode 'mask', or ignore the layers concerned"
            )

    def _cut_so_far(
        self, plan: ChannelPlan | WeightPlan, architecture: Architecture
    ) -> tuple[nn.Module, Architecture]:
        """Return the network after the earlier steps, and its channel groups."""
        if isinstance(plan, WeightPlan):
            return self._masked(plan, architecture), architecture
        if not plan.removed:
            return self._model, architecture
        return compact(self._model, plan, architecture), architecture.after_cut(plan.removed)

    def _masked(self, plan: ChannelPlan | WeightPlan, architecture: Architecture) -> nn.Module:
        masked = copy_model(self._model)
        mask(masked, plan, architecture)
        return masked

    def _notes(self, architecture: Architecture) -> tuple[str, ...]:
        """Return what to say of the network beside the cut."""
        metric = self.options.metric
        read = [n.name for n in metric.expression.nodes() if n.name in _OF_BATCH_NORM]
        if not read or any(is_batch_norm(module) for module in self._model.modules()):
            return ()
        return (
            f"Metric {metric.name!r} reads batch norms ({', '.join(dict.fromkeys(read))}), and the "
            "network has none: their scale counts as 1 and the bias as their shift.",
        )

    def _report_step(self, number: int, share: float, plan: ChannelPlan | WeightPlan) -> PruneStep:
        """Return what a step came to, and tell the person where there are several."""
        kind, steps = self.options.kind, self.options.steps
        step = PruneStep.of(share, plan)
        if steps > 1:
            kept = step.weights if self.options.by_weight else step._asdict().get(kind)
            reached = f", {kept:.3f} kept" if kept is not None else ""
            self._tell(f"step {number} of {steps}: {share:.3f} of the {kind} asked{reached}")
        return step
