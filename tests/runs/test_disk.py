"""Tables on the disk are sets and dictionaries, take no memory, and say when the disk is full."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.runs.disk import DiskSet, Results, ScratchDatabase
from gp_prune.runs.journal import reader
from gp_prune.runs.limits import resident_memory
from gp_prune.search.evaluation import Outcome

KEYS = st.text(max_size=3)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
OUTCOMES = st.builds(Outcome, FINITE, st.none() | FINITE, FINITE, st.text(max_size=3))


@given(st.lists(KEYS), st.lists(KEYS))
def test_a_set_on_the_disk_is_a_set(texts: list[str], others: list[str]) -> None:
    table, expected = DiskSet(), set[str]()
    count = 0
    for text in texts:
        added = table.add(text)
        assert added == (text not in expected)
        expected.add(text)
        count += added
    assert count == len(expected)
    for text in [*texts, *others]:
        assert (text in table) == (text in expected)


@given(st.lists(st.tuples(KEYS, OUTCOMES)), st.lists(KEYS))
def test_results_on_the_disk_are_a_dictionary(
    entries: list[tuple[str, Outcome]], others: list[str]
) -> None:
    results, expected = Results(reader(Outcome)), dict(entries)
    for key, outcome in entries:
        results.put(key, outcome)
    for key in [*expected, *others]:
        assert results.get(key) == expected.get(key)
        assert (key in results) == (key in expected)
    assert {key: results[key] for key in expected} == expected
    with pytest.raises(KeyError):
        results["another key"]


def test_a_long_table_stays_on_the_disk() -> None:
    results = Results(reader(Outcome))
    before = resident_memory(os.getpid())
    for number in range(40_000):
        results.put(f"{number:0400}", Outcome(number, None, 0.5))
    assert results.get(f"{123:0400}") == Outcome(123, None, 0.5)
    assert resident_memory(os.getpid()) - before < 4 * 2**20  # of 20 MB


def test_a_full_disk_is_named_with_the_remedy() -> None:
    rows = ScratchDatabase("CREATE TABLE texts (text TEXT); PRAGMA max_page_count = 20")
    with pytest.raises(UserError, match=r"is full; make room .* SQLITE_TMPDIR"):
        for _ in range(1000):
            rows.write("INSERT INTO texts VALUES (?)", "x" * 1000)


def test_a_table_goes_from_one_thread_to_another() -> None:
    table = DiskSet()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(table.add, "a").result()
    assert "a" in table
    with ThreadPoolExecutor(1) as pool:
        del table
        pool.submit(gc.collect).result()
