"""How far a generation is: never more than all, never less than before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gp_prune.search.course import GenerationCourse


@given(
    each=st.integers(1, 6),
    promote=st.lists(st.floats(0.1, 1), max_size=2),
    formulas=st.integers(0, 9),
    met=st.integers(0, 9),
)
def test_it_never_goes_back(each: int, promote: list[float], formulas: int, met: int) -> None:
    heard: list[tuple[int, int, int]] = []
    course = GenerationCourse(each, promote)
    course.hear = lambda *state: heard.append(state)
    course.begin(3, formulas)
    waiting = 0
    for _ in range(met * each):
        course.ask()
        waiting = (waiting + 1) % 3
        course.tell(waiting)
    course.expect(met)
    course.tell(0)
    assert all(number == 3 and 0 <= done <= of for number, done, of in heard)
    dones = [done for _, done, _ in heard]
    assert dones == sorted(dones) and dones[-1] == met * each


def test_rungs_count() -> None:
    heard: list[int] = []
    course = GenerationCourse(2, (0.5, 0.5))
    course.hear = lambda number, done, of: heard.append(of)
    course.begin(0, 5)
    course.tell(0)
    assert heard == [2 * (5 + 3 + 2)]
