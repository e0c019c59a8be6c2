"""Who rises to the next rung: cheap trials for all, dear ones for the promising.

Successive halving (Jamieson and Talwalkar 2016): on every rung the candidates are fine-tuned for
longer, and only a share of them rises. Errors of different rungs are never compared: a candidate
is ranked among those of its own rung, and one of a higher rung goes before all of a lower one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from deap import tools

from gp_prune.runs.hypervolume import LEAST_GROWTH
from gp_prune.search.archive import Candidate, Objectives
from gp_prune.search.grammar import Individual
from gp_prune.search.stopping import hypervolume


def promoted(
    candidates: Sequence[Candidate], rung: int, count: int, *, by_volume: bool
) -> list[Candidate]:
    """The candidates that rise from a rung to the next one, the best first.

    They are those that NSGA-II would let survive on this rung: by front, then by crowding
    distance, both among all that have been tried on the rung, then by behaviour, a digest.
    Or they are taken one after the other: always the one that adds most to the hypervolume, on
    this rung, of those that have risen; of those that add nothing again the first of NSGA-II. By
    crowding distance the extremes rise first, which prune hardly anything or too much, and fill
    most places where there are few.

    In both ways the choice depends on values alone, not on the order in which they came.

    Args:
        candidates: no two with the same behaviour. Those on the rung may rise; those that have
            risen already set the standard; the others do not count.
        rung: the rung that they rise from.
        count: most that rise.
        by_volume: whether by what they add to the hypervolume. That needs errors which tell how
            good a candidate will be: those right after pruning only tell which one is better.
    """
    tried = [c for c in candidates if not c.reason and c.rung >= rung]
    tried.sort(key=lambda c: c.behaviour)
    ranked = [c for front in _fronts(tried, [c.on(rung) for c in tried]) for c in front]
    waiting = [c for c in ranked if c.rung == rung]
    if not by_volume:
        return waiting[:count]
    risen = [c.on(rung) for c in tried if c.rung > rung]
    return [waiting[place] for place in _greatest(risen, [c.on(rung) for c in waiting], count)]


def _greatest(points: list[Objectives], offered: Sequence[Objectives], count: int) -> list[int]:
    """Which points to add for the greatest hypervolume, one after the other.

    Of points that add the same the first is taken.

    Args:
        points: what is there.
        offered: what may be added.
        count: most that are added.
    """
    points, volume = list(points), hypervolume(points)
    # What a point adds never grows as others are added: a stale gain is an upper bound, and most
    # need not be computed again (lazy greedy, Minoux 1978).
    heap = [(-math.inf, place) for place in range(len(offered))]
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, place = heapq.heappop(heap)
        grown = hypervolume([*points, offered[place]])
        gain = grown - volume if grown > volume * (1 + LEAST_GROWTH) else 0.0
        if heap and (-gain, place) > heap[0]:
            heapq.heappush(heap, (-gain, place))
            continue
        chosen.append(place)
        points.append(offered[place])
        volume = grown
    return chosen


def survivors(individuals: Sequence[Individual], count: int) -> list[Individual]:
    """The best by rung, then by NSGA-II within the rung; each gets its crowding distance.

    Args:
        individuals: with their candidates; no two with the same behaviour.
        count: most to keep.
    """
    chosen: list[Individual] = []
    for rung in sorted({i.candidate.rung for i in individuals}, reverse=True):
        alike = [i for i in individuals if i.candidate.rung == rung]
        chosen += tools.selNSGA2(alike, min(count - len(chosen), len(alike)))
        if len(chosen) == count:
            break
    return chosen


def _fronts(
    candidates: Sequence[Candidate], objectives: Sequence[Objectives]
) -> list[list[Candidate]]:
    """The candidates by front, in each the least crowded first."""
    individuals = []
    for candidate, values in zip(candidates, objectives, strict=True):
        individual = Individual([])
        individual.fitness.values = values
        individual.candidate = candidate
        individuals.append(individual)
    fronts = []
    for front in tools.sortNondominated(individuals, len(individuals)):
        # DEAP gathers equal vectors in its own order; that of the candidates is restored.
        places = {id(individual): n for n, individual in enumerate(individuals)}
        front.sort(key=lambda individual: places[id(individual)])
        tools.emo.assignCrowdingDist(front)
        front.sort(key=lambda individual: -individual.fitness.crowding_dist)
        fronts.append([individual.candidate for individual in front])
    return fronts
