"""Floor 9: who rises to the next rung: cheap trials for all, dear ones for the promising.

Successive halving (Jamieson and Talwalkar 2016): on every rung the candidates are fine-tuned for
longer, and only a share of them rises. Errors of different rungs are never compared: a candidate
is ranked among those of its own rung, and one of a higher rung goes before all of a lower one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from deap import tools

from gp_prune.search.archive import Behaviour, Candidate, Objectives
from gp_prune.search.typed_set import Individual


def promoted(candidates: Sequence[Candidate], rung: int, count: int) -> list[Candidate]:
    """The candidates that rise from a rung to the next one, the best first.

    They are those that NSGA-II would let survive on this rung: by front, then by crowding
    distance, both among all that have been tried on the rung, then by a digest of the behaviour.
    So the choice depends on values alone, not on the order in which they came.

    Args:
        candidates: no two with the same behaviour. Those on the rung may rise; those that have
            risen already set the standard; the others do not count.
        rung: the rung that they rise from.
        count: most that rise.
    """
    tried = [c for c in candidates if not c.reason and c.rung >= rung]
    tried.sort(key=lambda c: digest(c.behaviour))
    ranked = [c for front in _fronts(tried, [c.on(rung) for c in tried]) for c in front]
    return [candidate for candidate in ranked if candidate.rung == rung][:count]


def digest(behaviour: Behaviour) -> str:
    """A text that orders behaviours without regard to what they are."""
    return hashlib.sha256("\0".join(behaviour).encode()).hexdigest()


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
