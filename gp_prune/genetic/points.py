"""The front of a run: retrained to the end, compared, judged on samples that decided nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gp_prune.apply.evaluation import judged
from gp_prune.genetic import network
from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.engine import Engine
from gp_prune.genetic.measuring import BATCH, Bytes, Times, compare_convolutions, stored_bytes
from gp_prune.genetic.plan import CHANNELS, Layout, Marks, Plan
from gp_prune.genetic.retraining import Wanted, current
from gp_prune.genetic.selection import Fitness
from gp_prune.genetic.subject import Prepared
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import random_mutation
from gp_prune.pruning.cost import Cost, measure
from gp_prune.statistics.running import derive_seed, device_of
from gp_prune.training.samples import in_order

BASELINES = ("random", "l1")
"""What the front is compared with: the same sizes, chosen without any knowledge or by magnitude."""

_JUDGED_AT_ONCE = 250


@dataclass(frozen=True, eq=False)
class FrontEntry:
    """A network of the front, or one that it is compared with.

    Attributes:
        name: ``p01`` and so on, the least error first; ``dense``; or a baseline and its point.
        elite: the network.
        model: it, with what is pruned removed or zero.
        validation: error on the validation samples.
        report: error on the samples that decided nothing, or once more on the validation samples
            where there are no others.
        cost: MACs of the smaller network, its parameters, and those that are not zero.
        conv_macs: MACs of its convolutions.
        macs: all MACs, where a weight that is zero costs nothing.
        size: bytes as stored.
        conv_time: median time of its convolutions by that of the dense network's, with quartiles;
            None where there are none or it was not measured.
        channels: group -> channels that are left.
    """

    name: str
    elite: Elite
    model: nn.Module
    validation: float
    report: float
    cost: Cost
    conv_macs: int
    macs: int
    size: Bytes
    conv_time: Times | None
    channels: dict[str, int]


def shortlist(engine: Engine, count: int) -> list[Elite]:
    """At most so many networks of the archive, spread over what they keep; the least error first.

    The best by fitness comes first, then the one that differs most in what it keeps from those that
    are there, on a logarithmic scale; of alike ones the one with the least error. A network need
    not be on the front: a larger one that has had fewer epochs may reach it when it is retrained.
    Networks with more error than is tolerated are only taken where there are no others.
    """
    everything = engine.archive[1:]
    able = [elite for elite in everything if engine.judge.tolerable(elite)] or everything
    able = sorted(able, key=lambda elite: elite.error)
    chosen = sorted(able, key=engine.judge.merit)[:1]
    return sorted(_spread(engine.judge, chosen, able, count), key=lambda elite: elite.error)


def _spread(
    judge: Fitness, chosen: Sequence[Elite], able: Sequence[Elite], count: int
) -> list[Elite]:
    """So many networks: the chosen ones, and those that differ most from them and each other."""
    chosen, rest = list(chosen), [elite for elite in able if elite not in chosen]
    places = {elite.number: judge.place(elite.shares) for elite in [*chosen, *rest]}
    while len(chosen) < count and rest:
        distances = {
            elite.number: min(math.dist(places[elite.number], places[o.number]) for o in chosen)
            for elite in rest
        }
        chosen.append(max(rest, key=lambda elite: distances[elite.number]))
        rest.remove(chosen[-1])
    return chosen


def finished(engine: Engine) -> list[Elite]:
    """The networks of a run that are retrained to the end.

    With lambdas one network is wanted: the fittest whose error is within the limit. So half of the
    points are spread over the archive, and the others lie between the fittest of them that is
    within the limit and the next one that is not.
    """
    count = engine.settings.points
    if engine.settings.pareto:
        return polish(engine, shortlist(engine, count))
    first = shortlist(engine, -(-count // 2))
    done = polish(engine, first)
    return done + polish(engine, between(engine.judge, engine.archive[1:], first, done, count))


def between(
    judge: Fitness, archive: Sequence[Elite], first: Sequence[Elite], done: Sequence[Elite],
    count: int,
) -> list[Elite]:  # fmt: skip
    """Networks that may be fitter than the fittest within the limit and still within it.

    Args:
        judge: knows limit and fitness.
        archive: all networks, as they were before the last retraining.
        first: those of them that were retrained to the end already.
        done: what became of these.
        count: most networks, those of ``first`` counted in.
    """
    least = {elite.number: sum(judge.place(elite.shares)) for elite in [*archive, *done]}
    upper = min((least[e.number] for e in done if judge.good(e)), default=math.inf)
    failed = [least[e.number] for e in done if not judge.good(e) and least[e.number] < upper]
    lower = max(failed, default=-math.inf)
    open_ = [
        elite for elite in sorted(archive, key=lambda elite: elite.error)
        if elite not in first and judge.tolerable(elite) and lower < least[elite.number] < upper
    ]  # fmt: skip
    return _spread(judge, first, open_, count)[len(first) :]


def baseline_plan(layout: Layout, plan: Plan, name: str, ratings: MetricScores, seed: int) -> Plan:
    """A plan that keeps as many units of every site as another one, chosen otherwise.

    Args:
        layout: the sites.
        plan: what it is compared with.
        name: ``"random"`` or ``"l1"``.
        ratings: of the dense network, with the scores of l1 and magnitude.
        seed: of the draws.
    """
    removed, marks = dict(plan.removed), plan.marks()
    generator = torch.Generator().manual_seed(seed)
    masks: list[Marks] = []
    for number, site in enumerate(layout.sites):
        gone = len(removed.get(site.name, ())) if site.kind == CHANNELS else (
            site.size - int(marks[site.name].sum())
        )  # fmt: skip
        everything = torch.ones(site.size, dtype=torch.bool)
        mutation = random_mutation()
        if name == "l1":
            metric = _magnitudes()[0 if site.kind == CHANNELS else 1]
            mutation = metric.as_mutation(temperature=0.0)
        chosen = mutation.to_prune(ratings.of(mutation.metric, number), everything, gone, generator)
        mask = np.ones(site.size, dtype=bool)
        mask[chosen.numpy()] = False
        masks.append(mask)
    return layout.plan(masks)


def _magnitudes() -> tuple[Metric, Metric]:
    return Metric.load("l1"), Metric.load("magnitude")


def polish(engine: Engine, wanted: Sequence[Elite]) -> list[Elite]:
    """Networks retrained to the end, each no worse on the validation samples than it was.

    One whose retraining fails stays as it is.

    Args:
        engine: the run.
        wanted: networks of its archive.
    """
    epochs = engine.settings.final_epochs
    if not epochs:
        return list(wanted)
    found = engine.retraining.run(
        [Wanted(elite, elite.masks, elite.plan, epochs) for elite in wanted],
        engine.settings.rounds + 1, "final",
    )  # fmt: skip
    return [after or before for before, after in zip(wanted, found, strict=True)]


def baselines(engine: Engine, points: Sequence[Elite]) -> dict[str, list[Elite | None]]:
    """Name -> what it gives at the sizes of the points, retrained for as many epochs each.

    None stands where the retraining failed.

    Random and L1 pruning start from the dense network and have all epochs at once, which the
    points had in turns.
    """
    found: dict[str, list[Elite | None]] = {}
    dense = engine.archive[0]
    ratings = engine.rated_by(dense, _magnitudes())
    for name in BASELINES:
        wanted = []
        for place, point in enumerate(points):
            seed = derive_seed(name, engine.settings.seed, place)
            plan = baseline_plan(engine.layout, point.plan, name, ratings, seed)
            wanted.append(Wanted(dense, dense.masks, plan, point.epochs))
        found[name] = engine.retraining.run(wanted, 0, name)
    return found


def measured(
    engine: Engine,
    prepared: Prepared,
    folder: str,
    named: Sequence[tuple[str, Elite]],
    progress: Callable[[int, int], None],
    *,
    timed: bool = True,
) -> list[FrontEntry]:
    """Networks with all that a report says of them; reads the samples of the report.

    Args:
        engine: the run.
        prepared: the dense network and the data.
        folder: where the weights are.
        named: names and networks; the dense one is one of them.
        progress: hears how many are done.
        timed: whether to measure the time of the convolutions.
    """
    report = prepared.data.read_report()
    batch = _timing_batch(prepared) if timed else None
    found = []
    for done, (name, elite) in enumerate(named):
        progress(done, len(named))
        model = current(prepared, folder, elite.weights, engine.bench)
        smaller = network.pruned(model, elite.plan, prepared.architecture)
        error = judged(smaller, in_order(report, _JUDGED_AT_ONCE), prepared.data.kind).error
        times = None
        if batch is not None and name != "dense":
            times = compare_convolutions(prepared.model, smaller, batch)
        found.append(
            FrontEntry(
                name=name,
                elite=elite,
                model=smaller,
                validation=elite.error,
                report=error,
                cost=measure(smaller, prepared.loaded.example_inputs),
                conv_macs=engine.layout.costs(elite.plan, "conv"),
                macs=engine.layout.costs(elite.plan, "all"),
                size=stored_bytes(smaller),
                conv_time=times,
                channels=_channels(engine.layout, elite.plan),
            )
        )
    progress(len(named), len(named))
    return found


def _timing_batch(prepared: Prepared) -> object:
    """Validation inputs, repeated where there are too few."""
    few = prepared.few(BATCH)
    if not isinstance(few.inputs, torch.Tensor):
        return None
    repeats = -(-BATCH // len(few.inputs))
    batch = few.inputs.repeat(repeats, *(1 for _ in few.inputs.shape[1:]))[:BATCH]
    return batch.to(device_of(prepared.model))


def _channels(layout: Layout, plan: Plan) -> dict[str, int]:
    removed = dict(plan.removed)
    free = layout.architecture.free
    return {group.name: group.size - len(removed.get(group.name, ())) for group in free}
