"""Rules that end a search, restarts, and the random baseline."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.runs.hypervolume import LEAST_GROWTH, Growth
from gp_prune.runs.journal import NAME
from gp_prune.search.archive import WORST, Objectives
from gp_prune.search.stopping import hypervolume

QUARTERS = st.integers(0, 4)
POINTS = st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS), max_size=8)


@given(POINTS)
def test_hypervolume_counts_cells(points: list[tuple[int, int, int]]) -> None:
    """Brute force counts the dominated cells of a 4 x 4 x 4 grid up to the worst objectives."""
    dominated = sum(
        any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
        for cell in itertools.product(range(4), repeat=3)
    )
    front: list[Objectives] = [
        (p[0] / 4 * WORST[0], p[1] / 4 * WORST[1], p[2] / 4 * WORST[2]) for p in points
    ]
    assert hypervolume(front) == pytest.approx(dominated / 64 * WORST[0], abs=1e-12)


@given(st.lists(st.floats(0, 2), max_size=30))
def test_growth_counts_what_came_after_the_best(volumes: list[float]) -> None:
    growth = Growth()
    for volume in volumes:
        growth.see(volume)
    best, idle = 0.0, 0
    for volume in volumes:
        idle = 0 if volume > best * (1 + LEAST_GROWTH) else idle + 1
        best = volume if idle == 0 else best
    assert (growth.volume, growth.idle) == (best, idle)


def generations(folder: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == "generation"]


@pytest.mark.parametrize("most", [3, 9, 20, 31])
def test_evaluations_end_exactly(imagine: Callable[..., Any], tmp_path: Path, most: int) -> None:
    run = imagine(tmp_path, max_evaluations=most, generations=50)
    last = run.generations[-1]
    assert last.behaviours == most
    assert last.stopped == f"{most} behaviours have been evaluated"
    assert all(not generation.stopped for generation in run.generations[:-1])


def test_stall_is_a_function_of_the_journal(imagine: Callable[..., Any], tmp_path: Path) -> None:
    run = imagine(tmp_path, stall=2, restart=0, generations=60, population=4)
    volumes = [entry["hypervolume"] for entry in generations(tmp_path)]
    assert run.generations[-1].stopped == "the front has not grown for 2 generations"
    growth = Growth()
    idle = []
    for volume in volumes:
        growth.see(volume)
        idle.append(growth.idle)
    assert idle[-1] == 2 and max(idle[:-1]) < 2


def test_the_time_limit_stays_what_it_was(imagine: Callable[..., Any], tmp_path: Path) -> None:
    seconds = itertools.count(step=10)
    run = imagine(tmp_path, time_limit=25.0, clock=lambda: float(next(seconds)))
    assert [g.number for g in run.generations] == [0, 1, 2]
    assert run.generations[-1].stopped == "the time limit is reached"
    journal = (tmp_path / NAME).read_bytes()
    resumed = imagine(tmp_path, time_limit=25.0, clock=lambda: 0.0)
    assert resumed.generations == run.generations
    assert (tmp_path / NAME).read_bytes() == journal


@pytest.mark.parametrize("strategy", ["evolve", "random"])
def test_a_longer_run_begins_as_the_shorter_one(
    imagine: Callable[..., Any], tmp_path: Path, strategy: str
) -> None:
    for name, count in (("short", 3), ("long", 7)):
        imagine(tmp_path / name, generations=count, strategy=strategy, restart=2)
    assert generations(tmp_path / "long")[:4] == generations(tmp_path / "short")


def test_random_search_has_the_same_budget_and_start(
    imagine: Callable[..., Any], tmp_path: Path
) -> None:
    evolved = imagine(tmp_path / "evolve")
    drawn = imagine(tmp_path / "random", strategy="random")
    assert generations(tmp_path / "random")[0] == generations(tmp_path / "evolve")[0]
    assert [g.behaviours for g in drawn.generations] == [g.behaviours for g in evolved.generations]
    assert drawn.generations[-1].front != evolved.generations[-1].front
    assert not any(entry["rates"] for entry in generations(tmp_path / "random"))


def test_a_stalled_front_brings_immigrants(
    imagine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gp_prune.runs.hypervolume.LEAST_GROWTH", 10.0)
    run = imagine(tmp_path, restart=2, generations=5)
    rates = [entry["rates"] for entry in generations(tmp_path)]
    # Generation 0 grows, 1 and 2 do not; 3 is random, so nothing is learnt about the operators.
    assert rates[2] == rates[3] != rates[1]
    assert len({frozenset(c.behaviour for c in g.front) for g in run.generations}) > 1
    volumes = [g.hypervolume for g in run.generations]
    assert volumes == sorted(volumes)
