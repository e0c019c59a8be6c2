"""NSGA-II selection (Deb et al. 2002) with weights of the objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from deap import tools

from gp_prune.search.grammar import Individual
from gp_prune.search.objectives import Objectives

if TYPE_CHECKING:
    from gp_prune.search.archive import Candidate


def individuals_of(
    candidates: Sequence[Candidate], objectives: Sequence[Objectives]
) -> list[Individual]:
    """Return individuals without trees, as the selection needs them."""
    individuals = []
    for candidate, values in zip(candidates, objectives, strict=True):
        individual = Individual([])
        individual.fitness.values = values
        individual.candidate = candidate
        individuals.append(individual)
    return individuals


def assign_crowding(front: Sequence[Individual], weights: Sequence[float]) -> None:
    """Give the individuals of a front their crowding distance, in place.

    It is the weighted sum, over the objectives, of the distance between the two neighbours along an
    objective, as a share of the range of the front; those at an end of an objective that is not
    the same for all have an infinite distance.

    Args:
        front: individuals, none of which dominates another.
        weights: one for each objective.
    """
    distances = [0.0] * len(front)
    points = [individual.fitness.values for individual in front]
    for axis, weight in enumerate(weights):
        order = sorted(range(len(front)), key=lambda number: points[number][axis])
        width = points[order[-1]][axis] - points[order[0]][axis]
        if width <= 0:
            continue
        distances[order[0]] = distances[order[-1]] = math.inf
        for (before, here), (_, after) in pairwise(pairwise(order)):
            gap = points[after][axis] - points[before][axis]
            distances[here] += weight * gap / width
    for individual, distance in zip(front, distances, strict=True):
        individual.fitness.crowding_dist = distance


def select(
    individuals: Sequence[Individual], count: int, weights: Sequence[float]
) -> list[Individual]:
    """Return the best by front, then by crowding distance; each gets its crowding distance.

    Args:
        individuals: with the values of their objectives.
        count: most to keep.
        weights: one for each objective.
    """
    if count <= 0:
        return []
    chosen: list[Individual] = []
    for front in tools.sortNondominated(individuals, count):
        assign_crowding(front, weights)
        front.sort(key=lambda individual: -individual.fitness.crowding_dist)
        chosen += front
    return chosen[:count]


def thin(front: Sequence[Candidate], count: int, weights: Sequence[float]) -> list[Candidate]:
    """Return at most ``count`` of a front, in its order.

    The half with the least errors stays; the others are chosen by crowding distance.
    """
    if len(front) <= count:
        return list(front)
    best, others = front[: (count + 1) // 2], front[(count + 1) // 2 :]
    individuals = individuals_of(others, [candidate.objectives for candidate in others])
    spread = select(individuals, count - len(best), weights)
    kept = {id(individual.candidate) for individual in spread} | {id(c) for c in best}
    return [candidate for candidate in front if id(candidate) in kept]
