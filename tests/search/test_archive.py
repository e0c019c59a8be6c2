"""The front equals brute force; thinning keeps the best."""

from __future__ import annotations

from deap import tools
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.discovery import builtin_primitives
from gp_prune.parsing import parse
from gp_prune.search.archive import WORST, Archive, Candidate, dominates, pareto_front, thinned
from gp_prune.search.typed_set import Individual

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
VECTORS = st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=30)


def candidate(number: int, objectives: tuple[float, float, float], reason: str = "") -> Candidate:
    expression = parse(f"add({number}, b)", builtin_primitives())
    return Candidate(expression, objectives, (str(number),), reason=reason)


@given(VECTORS)
def test_front_equals_brute_force(vectors: list[tuple[float, float, float]]) -> None:
    front = {c.objectives for c in pareto_front(candidate(n, v) for n, v in enumerate(vectors))}
    expected = {
        v
        for v in vectors
        if not any(all(a <= b for a, b in zip(w, v, strict=True)) and w != v for w in vectors)
    }
    assert front == expected


@given(VECTORS)
def test_front_equals_deap(vectors: list[tuple[float, float, float]]) -> None:
    individuals = []
    for vector in vectors:
        individual = Individual([])
        individual.fitness.values = vector
        individuals.append(individual)
    first = tools.sortNondominated(individuals, len(individuals), first_front_only=True)[0]
    front = pareto_front(candidate(n, v) for n, v in enumerate(vectors))
    assert {c.objectives for c in front} == {i.fitness.values for i in first}


@given(VECTORS, st.integers(1, 10))
def test_thinned_front_is_a_part_with_the_least_error(
    vectors: list[tuple[float, float, float]], count: int
) -> None:
    front = pareto_front(candidate(n, v) for n, v in enumerate(vectors))
    kept = thinned(front, count)
    assert len(kept) == min(count, len(front))
    assert all(any(c is f for f in front) for c in kept)
    assert kept[0] is front[0]


@given(VECTORS, st.integers(1, 10), st.lists(st.booleans(), min_size=30, max_size=30))
def test_the_shortlist_has_formulas_that_a_person_can_read(
    vectors: list[tuple[float, float, float]], count: int, long: list[bool]
) -> None:
    """A third of it, if there are as many; the rest are of the front, the best of it first."""
    primitives, archive = builtin_primitives(), Archive()
    for number, (vector, wide) in enumerate(zip(vectors, long, strict=False)):
        text = f"abs(add({number}, b))" if wide else f"add({number}, b)"
        archive.add(Candidate(parse(text, primitives), vector, (text,)))
    front, chosen = archive.front(), archive.shortlist(count, 3)
    short = pareto_front(c for c in archive.complete() if c.expression.size <= 3)
    readable = [c for c in chosen if c.expression.size <= 3]
    assert len(chosen) == len({id(c) for c in chosen}) <= count
    assert len(readable) >= min(count // 3, len(short))
    assert all(c in front or c in short[: count // 3] for c in chosen)
    assert any(c is front[0] for c in chosen)


def test_of_equal_behaviour_the_smaller_formula_is_shown() -> None:
    primitives = builtin_primitives()
    long = Candidate(parse("abs(abs(b))", primitives), (0.1, 0.2, 0.3), ("x",))
    short = Candidate(parse("abs(b)", primitives), (0.1, 0.2, 0.3), ("x",))
    assert pareto_front([long, short]) == [short]


def test_a_candidate_that_ranks_nothing_never_reaches_the_front() -> None:
    archive = Archive()
    archive.add(candidate(1, WORST, reason="scores are constant"))
    assert archive.front() == archive.shortlist(5, 25) == []
    assert (len(archive), archive.assessed) == (1, 0)


def test_dominates_is_strict() -> None:
    assert dominates((0, 0, 0), (0, 0, 1))
    assert not dominates((0, 0, 0), (0, 0, 0))
    assert not dominates((0, 1, 0), (1, 0, 0))
