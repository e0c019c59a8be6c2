"""Promotion to the next rung: cheap evaluations for all, expensive ones for the best.

Successive halving (Jamieson and Talwalkar 2016): on every rung the candidates are fine-tuned for
longer, and only a share of them is promoted. Errors of different rungs are never compared: a
candidate is ranked among those of its rung, and one of a higher rung goes before all of a lower
one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from deap import tools

from gp_prune.runs.evolution import LEAST_GROWTH
from gp_prune.search.archive import Candidate, hypervolume
from gp_prune.search.grammar import Individual
from gp_prune.search.objectives import Objectives
from gp_prune.search.selection import assign_crowding, individuals_of, select


def choose_promoted(
    candidates: Sequence[Candidate],
    rung: int,
    count: int,
    *,
    weights: Sequence[float],
    worst: Objectives | None,
) -> list[Candidate]:
    """Choose the candidates that are promoted from a rung to the next one, the best first.

    They are those that NSGA-II would let survive on this rung: by front, then by crowding
    distance, both among all that have been tried on the rung, then by behaviour, a digest.
    Or they are taken one after the other: always the one that adds most to the hypervolume, on
    this rung, of those that were promoted; of those that add nothing again the first of NSGA-II.
    By crowding distance the extremes come first, which prune hardly anything or too much, and fill
    most places where there are few.

    In both ways the choice depends on values alone, not on the order in which they came.

    Args:
        candidates: no two with the same behaviour. Those on the rung may be promoted; those that
            were promoted already set the standard; the others do not count.
        rung: the rung that they come from.
        count: most that are promoted.
        weights: one for each objective, for the crowding distance.
        worst: where they are taken by what they add to the hypervolume, the worst of each
            objective; None for the other way. The hypervolume needs errors which tell how good a
            candidate will be: those right after pruning only tell which one is better.
    """
    tried = [c for c in candidates if not c.reason and c.rung >= rung]
    tried.sort(key=lambda c: c.behaviour)
    ranked = _rank(tried, [c.on(rung) for c in tried], weights)
    waiting = [c for c in ranked if c.rung == rung]
    if worst is None:
        return waiting[:count]
    risen = [c.on(rung) for c in tried if c.rung > rung]
    return [waiting[n] for n in _greatest(risen, [c.on(rung) for c in waiting], count, worst)]


def _greatest(
    points: list[Objectives], offered: Sequence[Objectives], count: int, worst: Objectives
) -> list[int]:
    """Choose the points to add for the greatest hypervolume, one after the other.

    Of points that add the same the first is taken.

    Args:
        points: those that are there.
        offered: those that may be added.
        count: most that are added.
        worst: the worst value of each objective.
    """
    points, volume = list(points), hypervolume(points, worst)
    # What a point adds never grows as others are added: a stale gain is an upper bound, and most
    # need not be computed again (lazy greedy, Minoux 1978).
    heap = [(-math.inf, number) for number in range(len(offered))]
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, number = heapq.heappop(heap)
        grown = hypervolume([*points, offered[number]], worst)
        gain = grown - volume if grown > volume * (1 + LEAST_GROWTH) else 0.0
        if heap and (-gain, number) > heap[0]:
            heapq.heappush(heap, (-gain, number))
            continue
        chosen.append(number)
        points.append(offered[number])
        volume = grown
    return chosen


def survivors(
    individuals: Sequence[Individual], count: int, weights: Sequence[float]
) -> list[Individual]:
    """Return the best by rung, then by NSGA-II in the rung; each gets its crowding distance.

    Args:
        individuals: with their candidates; no two with the same behaviour.
        count: most to keep.
        weights: one for each objective.
    """
    chosen: list[Individual] = []
    for rung in sorted({i.candidate.rung for i in individuals}, reverse=True):
        alike = [i for i in individuals if i.candidate.rung == rung]
        chosen += select(alike, count - len(chosen), weights)
        if len(chosen) == count:
            break
    return chosen


def _rank(
    candidates: Sequence[Candidate], objectives: Sequence[Objectives], weights: Sequence[float]
) -> list[Candidate]:
    """Sort candidates by front, in each the least crowded first."""
    individuals = individuals_of(candidates, objectives)
    order = {id(individual): number for number, individual in enumerate(individuals)}
    ranked: list[Candidate] = []
    for front in tools.sortNondominated(individuals, len(individuals)):
        # DEAP gathers equal vectors in its own order; that of the candidates is restored.
        front.sort(key=lambda individual: order[id(individual)])
        assign_crowding(front, weights)
        front.sort(key=lambda individual: -individual.fitness.crowding_dist)
        ranked += [individual.candidate for individual in front]
    return ranked
