"""Prune one network by checked options: trace, score, select, cut and check.

``Pruner._prune`` is the pipeline itself, step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from gp_prune.apply.batches import calibration_batches, example_batch
from gp_prune.apply.checking import KeptOutput, check_outputs, running_cut
from gp_prune.apply.network import count_network
from gp_prune.apply.options import (
    IGNORED,
    LATENCY,
    PruneOptions,
    match_layers,
    needs_data,
)
from gp_prune.apply.remarks import note_embeddings, note_missing_norms
from gp_prune.apply.result import PrunedModel, PruneStep, layer_rows
from gp_prune.apply.scoring import LayerScores, measure_each
from gp_prune.apply.selection import WITH_SHARE, Bounds, select_next_channels, select_next_weights
from gp_prune.apply.sequential import select_in_order, set_zeros
from gp_prune.base.names import KEEP
from gp_prune.errors import UserError, pluralize
from gp_prune.metric.file import RESIDUAL_WHOLE, Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Architecture,
    ChannelPlan,
    Cost,
    DegenerateScores,
    WeightPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.trace import find_violation, trace_layers
from gp_prune.pruning.select.allocation import Allocation, keep_streams
from gp_prune.pruning.select.scores import MOST_TIES, keep_unranked
from gp_prune.pruning.timing import compare
from gp_prune.statistics import Batch, Loss, Progress, prunable_layers
from gp_prune.statistics.batches import check_loss
from gp_prune.statistics.coverage import describe_limit
from gp_prune.statistics.running import Forward, copy_model, device_of, tensors_of
from gp_prune.statistics.time_limit import TimeLimitError
from gp_prune.training.network import check_model
from gp_prune.training.samples import Data

_MOST_UNDECIDED = 0.05
"""Share of channels or weights about which positions may decide."""
_SEARCH_TURNS = 11
"""Turns in which a candidate is timed beside the original while a cut is searched."""


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
        self._looked_up = frozenset[int]()
        self._given = scores is not None
        self._data: Iterable[Batch] = ()
        if scores is None:
            measuring = [metric for metric in options.measured if needs_data(metric)]
            self._data = calibration_batches(
                (measuring or options.measured)[0],
                data,
                passes=2 if options.sequential else options.steps * max(1, len(measuring)),
                samples=options.samples,
                seed=options.seed,
            )
        layers = prunable_layers(self._model)
        self._ignore = match_layers(options.ignore, layers)
        match_layers(tuple(options.keep_share), layers, WITH_SHARE)  # before anything is traced
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
            try:
                pruned = self._prune(before, try_out_first=False)
            except TimeLimitError:
                raise
            except Exception:  # the code of a network may raise anything
                pruned = None
        pruned = pruned or self._prune(before, try_out_first=True)
        return replace(pruned, seconds=time.perf_counter() - started)

    def _prune(self, before: Cost, *, try_out_first: bool) -> PrunedModel:
        """Trace, score, select, cut and check."""
        options, steps = self.options, list[PruneStep]()
        architecture = self.trace(try_out=try_out_first)
        bounds = Bounds.of(options, architecture)
        network, now = self._model, architecture
        plan: ChannelPlan | WeightPlan | None = None
        scores: Mapping[str, Tensor] = {}
        if options.sequential:
            plan = self._select_in_order(architecture)
            self._check_ties(plan)
            steps.append(self._report_step(1, options.shares[-1], plan))
        for share in () if options.sequential else options.shares:
            if plan is not None:
                network, now = self._cut_so_far(plan, architecture)
            # What ran in the first step fails in a later one because of the cut between them.
            with nullcontext() if plan is None else running_cut():
                scores = self.score(network, now, first=plan is None)
                allocation = self._allocation(network, now)
            if plan is None:
                architecture = now = self._keep_unranked(now, scores, bounds, allocation)
            reached = bounds.step(len(steps) + 1, options.steps)
            plan = self.select(network, now, architecture, scores, share, plan, reached, allocation)
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
            allocation=options.allocation_name,
            notes=(
                *note_missing_norms(self._model, options.metric),
                *note_embeddings(self._model, plan, self._looked_up),
            ),
            pattern=None if options.pattern is None else str(options.pattern),
            steps=tuple(steps),
            times=times,
            latency=options.keep_latency,
            latency_floor=self.latency_floor,
            sequential=options.sequential,
            coverage={} if self.scored is None else self.scored.coverage,
            max_memory=None if self.scored is None else self.scored.max_memory,
        )

    def count(self) -> Cost:
        """Return what the network costs as it is given; see :func:`count_network`."""
        cost, self._looked_up = count_network(self._model, self._inputs, self._forward_fn)
        return cost

    def trace(self, *, try_out: bool) -> Architecture:
        """Return the groups of channels that are cut together, and what they cost."""
        if self.options.by_weight and "outgoing" not in self.options.metric.needs:
            # Single weights go one by one, so nothing has to be known of channels.
            return trace_layers(
                self._model, self._inputs, forward_fn=self._forward_fn, share=self.options.in_place
            )
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
        architecture = replace(architecture, groups=tuple(groups))
        whole = self.options.allocation == RESIDUAL_WHOLE
        return keep_streams(architecture) if whole else architecture

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
        scored = self._measure(network, metric, layers, now)
        if first:
            self.scored = scored
        return scored.scores

    def _measure(
        self, network: nn.Module, metric: Metric, layers: Sequence[str], now: Architecture
    ) -> LayerScores:
        """Score layers of ``network``, whose groups are ``now``, by a metric."""
        measured = measure_each(
            network,
            metric,
            self._data if needs_data(metric) else (),
            layers=layers,
            architecture=now,
            loss=self._loss,
            max_memory=self.options.memory,
            seed=self.options.seed,
            example_inputs=self._inputs,
            forward_fn=self._forward_fn,
            progress=self._batch_progress,
        )
        return LayerScores.gather(metric, measured, self.options.memory)

    def _allocation(self, network: nn.Module, now: Architecture) -> Allocation:
        """Return how the budget is divided; by a metric after it has scored ``network``."""
        chosen = self.options.allocation
        if isinstance(chosen, str):
            return Allocation(chosen)
        scored = self._measure(network, chosen, now.scored_layers, now)
        return Allocation.by(chosen, scored.scores)

    def _keep_unranked(
        self,
        architecture: Architecture,
        scores: Mapping[str, Tensor],
        bounds: Bounds,
        allocation: Allocation,
    ) -> Architecture:
        """Keep the groups whole that the scores do not rank, unless told otherwise."""
        options = self.options
        if options.by_weight or options.unranked != KEEP:
            return architecture
        rankings: list[tuple[Metric, Mapping[str, Tensor], Conventions]]
        rankings = [(options.metric, scores, options.ranking)]
        if allocation.scores is not None:
            shared = (options.measured[-1], allocation.scores, allocation.ranking_of_shares)
            rankings.append(shared)
        for metric, values, ranking in rankings:
            with self._naming_the_metric(metric):
                architecture = keep_unranked(architecture, values, ranking, but=bounds.shares)
        return architecture

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
    def _naming_the_metric(self, metric: Metric) -> Iterator[None]:
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
                f"{error.detail}; metric {metric.name!r} cannot rank it, {remedy}",
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
        allocation: Allocation,
    ) -> ChannelPlan | WeightPlan:
        """Return what goes, in channels or weights of the whole network.

        ``network`` with the groups ``now`` is what the earlier steps left, ``scores`` are measured
        on it, and ``share`` of the whole network is kept, within ``bounds``. DegenerateScores names
        the metric.
        """
        options = self.options
        with self._naming_the_metric(options.metric):
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
                allocation,
            )
            return plan

    def _select_in_order(self, architecture: Architecture) -> WeightPlan:
        """Return what goes where each block is scored on the outputs of the pruned ones before."""
        options = self.options
        if self._given:
            raise UserError(
                "the layers are scored already, and sequential (--sequential) scores each block "
                "after those before it are pruned; give the metric itself"
            )
        self._tell(f"scoring block after block with {options.metric.name}")
        network = self._model if options.in_place else copy_model(self._model)
        with self._naming_the_metric(options.metric):
            chosen = select_in_order(
                network,
                options,
                architecture,
                self._data if needs_data(options.metric) else (),
                self._inputs,
                ignore=self._ignore,
                loss=self._loss,
                forward_fn=self._forward_fn,
                progress=self._batch_progress,
                tell=self._tell,
            )
        self.scored = chosen.scored
        return chosen.plan

    def _time(self, network: nn.Module, now: Architecture, plan: ChannelPlan) -> float:
        """Return the time after a cut of ``network`` as a share of the whole network's time."""
        candidate = compact(network, plan, now)
        forward_fn = self._forward_fn
        with running_cut():
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
        if self.options.in_place:
            assert isinstance(plan, WeightPlan)
            for name, kept in plan.kept.items():
                set_zeros(self._model, name, kept)
            return self._model
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
        run = KeptOutput(self._forward_fn, self.options.seed)
        with running_cut():
            measured = measure(pruned, self._inputs, forward_fn=run)
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
            check_outputs(
                self._model, run.output, architecture.entries(plan.removed), self._inputs, run
            )  # fmt: skip
        if try_out:
            violation = find_violation(
                self._model, self._inputs, architecture, plan.removed, forward_fn=self._forward_fn
            )
            if violation:
                raise UserError(violation)
        return measured

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

    def _report_step(self, number: int, share: float, plan: ChannelPlan | WeightPlan) -> PruneStep:
        """Return what a step came to, and tell the person where there are several."""
        kind, steps = self.options.kind, self.options.steps
        step = PruneStep.of(share, plan)
        if steps > 1:
            kept = step.weights if self.options.by_weight else step._asdict().get(kind)
            reached = f", {kept:.3f} kept" if kept is not None else ""
            self._tell(f"step {number} of {steps}: {share:.3f} of the {kind} asked{reached}")
        return step
