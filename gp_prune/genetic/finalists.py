"""Choose the networks that are retrained to the end, and what they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.engine import Engine, RetrainingRequest
from gp_prune.genetic.plan import CHANNELS, GeneLayout, GeneticPlan, Marks
from gp_prune.genetic.selection import Fitness
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import random_mutation
from gp_prune.statistics.running import derive_seed

BASELINES = ("random", "l1")
"""What the front is compared with: the same sizes, chosen without any knowledge or by magnitude."""

_TURNS = 4
"""Trainings in which weights are removed step by step."""


def retrain_finalists(engine: Engine) -> list[Elite]:
    """Choose networks of a run and retrain them to the end.

    With lambdas one network is wanted: the fittest whose error is within the limit. So half of the
    points are spread over the archive, and the others lie between the fittest of them that is
    within the limit and the next one that is not.
    """
    count = engine.settings.points
    if engine.settings.pareto:
        return polish(engine, shortlist(engine, count))
    first = shortlist(engine, -(-count // 2))
    done = polish(engine, first)
    return done + polish(
        engine, choose_between(engine.fitness, engine.archive[1:], first, done, count)
    )


def shortlist(engine: Engine, count: int) -> list[Elite]:
    """Choose at most ``count`` networks of the archive, spread over what they keep.

    The best by fitness comes first, then the one that differs most in what it keeps from those
    already chosen, on a logarithmic scale; of equal ones the one with the least error. A network
    need not be on the front: a larger one that has had fewer epochs may reach it when it is
    retrained. Networks with more error than is tolerated are only taken where there are no others.

    Returns:
        The networks, the least error first.
    """
    fitness, candidates = engine.fitness, engine.archive[1:]
    able = [elite for elite in candidates if fitness.is_tolerable(elite)] or candidates
    able = sorted(able, key=lambda elite: elite.error)
    best = sorted(able, key=fitness.merit_of)[:1]
    return sorted(_spread(fitness, best, able, count), key=lambda elite: elite.error)


def _spread(
    fitness: Fitness, chosen: Sequence[Elite], able: Sequence[Elite], count: int
) -> list[Elite]:
    """Add networks to the chosen ones that differ most from them and each other."""
    chosen, rest = list(chosen), [elite for elite in able if elite not in chosen]
    positions = {elite.number: fitness.position(elite.shares) for elite in [*chosen, *rest]}
    while len(chosen) < count and rest:
        distances = [
            min(math.dist(positions[elite.number], positions[o.number]) for o in chosen)
            for elite in rest
        ]
        chosen.append(rest.pop(distances.index(max(distances))))
    return chosen


def choose_between(
    fitness: Fitness, archive: Sequence[Elite], first: Sequence[Elite], done: Sequence[Elite],
    count: int,
) -> list[Elite]:  # fmt: skip
    """Choose networks that may be fitter than the fittest within the limit and still within it.

    Args:
        fitness: knows the limit.
        archive: all networks, as they were before the last retraining.
        first: those of them that were retrained to the end already.
        done: the same networks after that.
        count: most networks, those of ``first`` included.
    """
    kept = {elite.number: sum(fitness.position(elite.shares)) for elite in [*archive, *done]}
    upper = min((kept[e.number] for e in done if fitness.is_good(e)), default=math.inf)
    failed = [kept[e.number] for e in done if not fitness.is_good(e) and kept[e.number] < upper]
    lower = max(failed, default=-math.inf)
    able = [
        elite for elite in sorted(archive, key=lambda elite: elite.error)
        if elite not in first and fitness.is_tolerable(elite) and lower < kept[elite.number] < upper
    ]  # fmt: skip
    return _spread(fitness, first, able, count)[len(first) :]


def polish(engine: Engine, elites: Sequence[Elite]) -> list[Elite]:
    """Retrain networks of the archive to the end; one whose retraining fails stays as it is.

    None is worse on the validation samples than it was, unless weights are removed on the way.
    """
    epochs = engine.settings.final_epochs
    if not epochs:
        return list(elites)
    if engine.settings.final_params < 1:
        elites = thin_out(engine, elites)
    requests = [RetrainingRequest(elite, elite.masks, elite.plan, epochs) for elite in elites]
    polished = engine.retrain(requests, engine.settings.rounds + 1, "final")
    return [after or before for before, after in zip(elites, polished, strict=True)]


def thin_out(engine: Engine, elites: Sequence[Elite]) -> list[Elite]:
    """Remove weights step by step until networks keep the share that is asked for at the end.

    There are several trainings in turn, so that units that no weight reads any more are cut out of
    the network between them. Networks that are small enough, or whose training fails, stay.
    """
    settings, thinned = engine.settings, list(elites)
    turns = min(_TURNS, settings.removal_epochs)
    ends = [turn * settings.removal_epochs // turns for turn in range(turns + 1)]
    for turn, (begin, end) in enumerate(pairwise(ends), 1):
        goals = [
            thinning_goal(settings.final_params, elite.shares.params, turn / turns)
            for elite in elites
        ]
        large = [
            number for number, goal in enumerate(goals) if thinned[number].shares.params > goal
        ]
        requests = [
            RetrainingRequest(
                thinned[number], thinned[number].masks, thinned[number].plan, end - begin,
                engine.layout.count_params(goals[number]),
            )
            for number in large
        ]  # fmt: skip
        retrained = engine.retrain(requests, settings.rounds + 1, f"thin {turn}")
        for number, elite in zip(large, retrained, strict=True):
            thinned[number] = elite or thinned[number]
    return thinned


def thinning_goal(final: float, start: float, progress: float) -> float:
    """Return the share of the parameters that may be left after a part of the trainings.

    The logarithm of the share falls fast at first and slowly at the end, so that a network gets
    more training the less is left of it, when that is cheap and most needed.
    """
    return final * math.pow(max(1.0, start / final), (1 - progress) ** 2)


def retrain_baselines(engine: Engine, finalists: Sequence[Elite]) -> dict[str, list[Elite | None]]:
    """Prune by each baseline to the sizes of the finalists and retrain for as many epochs.

    Random and L1 pruning start from the dense network and have all epochs at once, which the
    finalists had in turns.

    Returns:
        Name -> networks; None where the retraining failed.
    """
    dense = engine.archive[0]
    metrics = {"channel": Metric.load("l1"), "weight": Metric.load("magnitude")}
    scores = engine.measure_scores(dense, list(metrics.values()))
    baselines = {}
    for name in BASELINES:
        requests = []
        for number, elite in enumerate(finalists):
            seed = derive_seed(name, engine.settings.seed, number)
            ranking = metrics if name == "l1" else {}
            plan = same_size_plan(engine.layout, elite.plan, ranking, scores, seed)
            requests.append(RetrainingRequest(dense, dense.masks, plan, elite.epochs))
        baselines[name] = engine.retrain(requests, 0, name)
    return baselines


def same_size_plan(
    layout: GeneLayout,
    plan: GeneticPlan,
    metrics: dict[str, Metric],
    scores: MetricScores,
    seed: int,
) -> GeneticPlan:
    """Return a plan that keeps as many units of every gene as another one, chosen otherwise.

    Args:
        layout: the genes.
        plan: what it is compared with.
        metrics: granularity -> the metric whose lowest scores go; empty for random units.
        scores: of the dense network, by these metrics.
        seed: of the draws.
    """
    removed, marks = dict(plan.removed), plan.marks()
    generator = torch.Generator().manual_seed(seed)
    masks: list[Marks] = []
    for number, gene in enumerate(layout.genes):
        if gene.kind == CHANNELS:
            count, metric = len(removed.get(gene.name, ())), metrics.get("channel")
        else:
            count, metric = gene.size - int(marks[gene.name].sum()), metrics.get("weight")
        mutation = metric.as_mutation(temperature=0.0) if metric else random_mutation()
        alive = torch.ones(gene.size, dtype=torch.bool)
        units = mutation.to_prune(scores.of(metric, number), alive, count, generator)
        mask = np.ones(gene.size, dtype=bool)
        mask[units.numpy()] = False
        masks.append(mask)
    return layout.plan(masks)
