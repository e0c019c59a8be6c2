"""The archive holds what was put in; its front equals brute force; thinning keeps the best."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from deap import tools
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.runs.processes import resident_memory
from gp_prune.search.archive import Archive, Candidate, dominates
from gp_prune.search.grammar import Individual
from gp_prune.search.objectives import Objectives
from gp_prune.search.selection import thin

NAMES = ("tuned_error", "macs", "params")
WEIGHTS = (1.0, 1.0, 1.0)
WORST = (2.0, 1.0, 1.0)

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
VECTOR = st.tuples(LEVELS, LEVELS, LEVELS)
VECTORS = st.lists(VECTOR, min_size=1, max_size=30)


def read(text: str) -> Expression:
    return parse(text, builtin_primitives())


def formula(number: int, depth: int = 0) -> Expression:
    return read("abs(" * depth + f"add({number}, b)" + ")" * depth)


def archived(vectors: Sequence[Objectives]) -> Archive:
    """Each vector belongs to a formula and a behaviour of its own."""
    archive = Archive(builtin_primitives(), NAMES)
    for number, vector in enumerate(vectors):
        archive.add(Candidate(formula(number), vector, str(number)))
    return archive


@given(VECTORS)
def test_front_equals_brute_force(vectors: list[Objectives]) -> None:
    expected = {
        v
        for v in vectors
        if not any(all(a <= b for a, b in zip(w, v, strict=True)) and w != v for w in vectors)
    }
    found = [c.objectives for c in archived(vectors).front()]
    assert set(found) == expected
    assert len(found) == len(expected)


@given(VECTORS)
def test_front_equals_deap(vectors: list[Objectives]) -> None:
    individuals = []
    for vector in vectors:
        individual = Individual([])
        individual.fitness.values = vector
        individuals.append(individual)
    first = tools.sortNondominated(individuals, len(individuals), first_front_only=True)[0]
    assert {c.objectives for c in archived(vectors).front()} == {i.fitness.values for i in first}


@given(
    st.lists(st.tuples(VECTOR, st.integers(0, 1), st.sampled_from(["", "failed"])), min_size=5,
             max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15),
    st.integers(3, 6),
)  # fmt: skip
def test_the_archive_counts_and_ranks_what_it_holds(
    results: list[tuple[Objectives, int, str]], drawn: list[tuple[int, int]], readable: int
) -> None:
    archive = Archive(builtin_primitives(), NAMES, top=1)
    everything = []
    for number, (behaviour, depth) in enumerate(drawn):
        objectives, rung, reason = results[behaviour]
        everything.append(
            Candidate(formula(number, depth), objectives, str(behaviour), {}, reason, rung)
        )
        archive.add(everything[-1])
    tried = [c for c in everything if not c.reason]
    full = [c for c in tried if c.rung == 1]
    assert len(archive) == len(everything)
    assert archive.assessed == len(tried)
    assert archive.behaviours == len({c.behaviour for c in tried})
    assert archive.complete == len({c.behaviour for c in full})
    for most in (None, readable):
        short = [c for c in full if most is None or c.expression.size <= most]
        best = [c for c in short if not any(dominates(o.objectives, c.objectives) for o in short)]
        smallest = {
            objectives: min((c for c in best if c.objectives == objectives), key=lambda c: c.order)
            for objectives in {c.objectives for c in best}
        }
        expected = sorted(smallest.values(), key=lambda c: (c.objectives[0], c.order))
        assert archive.front(most) == expected
    for kept in {c.behaviour for c in everything}:
        alike = [c for c in everything if c.behaviour == kept]
        assert archive.smallest(kept) == min(alike, key=lambda c: c.order)


@given(
    st.tuples(*[st.floats(0, allow_infinity=False)] * 3),
    st.lists(VECTOR, max_size=2),
    st.text(max_size=5),
)
def test_what_is_archived_comes_back_as_it_was(
    objectives: Objectives, earlier: list[Objectives], reason: str
) -> None:
    archive = Archive(builtin_primitives(), NAMES)
    kept = Candidate(
        read("div(1e-300, b)"), objectives, "x", {"a": {"e": objectives[0]}, "ü": {"m": 1.0}},
        reason, len(earlier), tuple(earlier),
    )  # fmt: skip
    archive.add(kept)
    assert archive.get(kept.expression) == archive.smallest("x") == kept
    assert str(kept.expression) in archive
    assert archive.get(read("b")) is None
    assert "b" not in archive


@given(VECTORS, st.integers(1, 10))
def test_thinned_front_is_a_part_with_the_least_error(
    vectors: list[Objectives], count: int
) -> None:
    front = archived(vectors).front()
    kept = thin(front, count, WEIGHTS)
    assert len(kept) == min(count, len(front))
    assert all(any(c is f for f in front) for c in kept)
    assert kept[0] is front[0]


@given(VECTORS, st.integers(1, 10), st.lists(st.booleans(), min_size=30, max_size=30))
def test_the_shortlist_has_formulas_that_a_person_can_read(
    vectors: list[Objectives], count: int, long: list[bool]
) -> None:
    """A third of it, if there are as many; the rest are of the front, the best of it first."""
    archive = Archive(builtin_primitives(), NAMES)
    for number, (vector, wide) in enumerate(zip(vectors, long, strict=False)):
        archive.add(Candidate(formula(number, depth=int(wide)), vector, str(number)))
    front, short, chosen = archive.front(), archive.front(3), archive.shortlist(count, 3, WEIGHTS)
    readable = [c for c in chosen if c.expression.size <= 3]
    assert len(chosen) == len({id(c) for c in chosen}) <= count
    assert len(readable) >= min(count // 3, len(short))
    assert all(c in front or c in short[: count // 3] for c in chosen)
    assert front[0] in chosen


def test_of_equal_behaviour_the_smaller_formula_is_shown() -> None:
    archive = Archive(builtin_primitives(), NAMES)
    long = Candidate(read("abs(abs(b))"), (0.1, 0.2, 0.3), "x")
    short = Candidate(read("abs(b)"), (0.1, 0.2, 0.3), "x")
    for candidate in (long, short):
        archive.add(candidate)
    assert archive.front() == [short]


def test_a_candidate_that_ranks_nothing_never_reaches_the_front() -> None:
    archive = Archive(builtin_primitives(), NAMES)
    archive.add(Candidate(formula(1), WORST, "1", reason="scores are constant"))
    assert archive.front() == archive.shortlist(5, 25, WEIGHTS) == []
    assert (len(archive), archive.assessed) == (1, 0)


def test_dominates_is_strict() -> None:
    assert dominates((0, 0, 0), (0, 0, 1))
    assert not dominates((0, 0, 0), (0, 0, 0))
    assert not dominates((0, 1, 0), (1, 0, 0))


def test_a_long_archive_stays_on_the_disk() -> None:
    archive = Archive(builtin_primitives(), NAMES)
    before = resident_memory(os.getpid())
    for number in range(20_000):
        failed = Candidate(formula(number), WORST, str(number), reason=f"{number:0500}")
        archive.add(failed)
    assert archive.get(formula(123)) is not None
    assert resident_memory(os.getpid()) - before < 6 * 2**20  # of 12 MB and what is around them


def test_a_full_disk_is_named_with_the_remedy() -> None:
    archive = Archive(builtin_primitives(), NAMES)
    list(archive._rows("PRAGMA max_page_count = 20"))
    with pytest.raises(UserError, match=r"is full; make room .* SQLITE_TMPDIR"):
        for number in range(1000):
            archive.add(Candidate(formula(number), WORST, str(number), reason="x" * 1000))


def test_an_archive_goes_from_one_thread_to_another() -> None:
    archive = Archive(builtin_primitives(), NAMES)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(archive.add, Candidate(formula(1), WORST, "1")).result()
    assert str(formula(1)) in archive
    with ThreadPoolExecutor(1) as pool:
        del archive
        pool.submit(gc.collect).result()
