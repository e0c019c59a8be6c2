"""Promotion goes by values alone; errors of different rungs are never compared."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import Conventions
from gp_prune.pruning import Budget
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.runs.journal import NAME
from gp_prune.search.archive import Archive, Candidate, dominates, hypervolume
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.grammar import Individual
from gp_prune.search.objectives import Objectives
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.successive_halving import choose_promoted, survivors

LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
VECTOR = st.tuples(LEVELS, LEVELS, LEVELS)
WEIGHTS = (1.0, 1.0, 1.0)
WORST = (2.0, 1.0, 1.0)
HISTORIES = st.lists(st.lists(VECTOR, min_size=1, max_size=3), min_size=1, max_size=25)


def candidate(number: int, history: list[Objectives]) -> Candidate:
    expression = parse(f"add({number}, b)", builtin_primitives())
    return Candidate(
        expression, history[-1], str(number), rung=len(history) - 1, earlier=tuple(history[:-1])
    )


@given(
    HISTORIES, st.integers(0, 1), st.integers(0, 10), st.booleans(),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_promotion_takes_the_best_whatever_the_order(
    histories: list[list[Objectives]],
    rung: int,
    count: int,
    by_volume: bool,
    shuffler: random.Random,
) -> None:
    candidates = [candidate(number, history) for number, history in enumerate(histories)]
    worst = WORST if by_volume else None
    rising = choose_promoted(candidates, rung, count, weights=WEIGHTS, worst=worst)
    waiting = [c for c in candidates if c.rung == rung]
    assert len(rising) == min(count, len(waiting))
    left = [c for c in waiting if c not in rising]
    assert not any(dominates(a.objectives, b.objectives) for a in left for b in rising)
    shuffler.shuffle(candidates)
    assert choose_promoted(candidates, rung, count, weights=WEIGHTS, worst=worst) == rising


@given(HISTORIES, st.integers(0, 1), st.integers(1, 4))
def test_always_the_one_rises_that_adds_most_to_the_hypervolume(
    histories: list[list[Objectives]], rung: int, count: int
) -> None:
    candidates = [candidate(number, history) for number, history in enumerate(histories)]
    there = [c.on(rung) for c in candidates if c.rung > rung]
    waiting = [c for c in candidates if c.rung == rung]
    for chosen in choose_promoted(candidates, rung, count, weights=WEIGHTS, worst=WORST):
        volumes = [hypervolume([*there, c.objectives], WORST) for c in waiting]
        there.append(chosen.objectives)
        assert hypervolume(there, WORST) >= max(volumes) - 1e-5
        waiting.remove(chosen)


def test_a_failed_candidate_does_not_rise() -> None:
    good = candidate(1, [(0.5, 0.5, 0.5)])
    failed = Candidate(good.expression, (0.1, 0.1, 0.1), "x", reason="too slow")
    for worst in (None, WORST):
        assert choose_promoted([failed, good], 0, 2, weights=WEIGHTS, worst=worst) == [good]


@given(HISTORIES, st.integers(1, 10))
def test_of_two_the_one_on_the_higher_rung_survives(
    histories: list[list[Objectives]], count: int
) -> None:
    individuals = []
    for number, history in enumerate(histories):
        individual = Individual([])
        individual.candidate = candidate(number, history)
        individual.fitness.values = individual.candidate.objectives
        individuals.append(individual)
    kept = survivors(individuals, count, WEIGHTS)
    assert len(kept) == min(count, len(individuals))
    lost = [i for i in individuals if not any(i is k for k in kept)]
    least = min(i.candidate.rung for i in kept)
    assert all(i.candidate.rung <= least for i in lost)


def test_results_are_shared_by_all_that_behave_alike() -> None:
    primitives = builtin_primitives()
    archive = Archive(primitives, ("error", "macs", "params"), top=1)
    for text in ("abs(abs(b))", "abs(b)"):
        archive.add(Candidate(parse(text, primitives), (0.9, 1.0, 1.0), "x"))
    assert archive.front() == []
    smallest = archive.smallest("x")
    assert smallest is not None and str(smallest.expression) == "abs(b)"
    archive.update(Candidate(smallest.expression, (0.2, 1.0, 1.0), "x", rung=1))
    found = [archive.get(parse(text, primitives)) for text in ("abs(abs(b))", "abs(b)")]
    assert [c.objectives for c in found if c] == [(0.2, 1.0, 1.0)] * 2
    assert [str(c.expression) for c in archive.front()] == ["abs(b)"]


def lines(folder: Path, event: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


def test_only_the_promoted_are_fine_tuned(simulate: Callable[..., Any], tmp_path: Path) -> None:
    run = simulate(tmp_path, promote=(0.25,), fine_tune_steps=30)
    tuned = {e.plan["digest"] for e in run.runner.evaluations if e.steps == 30}
    cheap = {e.plan["digest"] for e in run.runner.evaluations if e.steps == 0}
    assert tuned < cheap
    last = run.generations[-1]
    # Rounded up in every generation, and for the seeds on their own.
    assert last.behaviours / 4 <= last.complete <= last.behaviours / 4 + 6
    risen = [x for x in lines(tmp_path, "candidate") if x["rung"] == 1]
    assert len({x["text"] for x in risen}) >= last.complete
    assert all(e.seed == 0 for e in run.runner.evaluations if not e.steps)


def test_the_front_is_that_of_the_complete(simulate: Callable[..., Any], tmp_path: Path) -> None:
    archive = simulate(tmp_path, population=12).search.archive
    complete = {
        tuple(line["objectives"])
        for line in lines(tmp_path, "candidate")
        if line["rung"] == 1 and "reason" not in line
    }
    expected = {c for c in complete if not any(dominates(other, c) for other in complete)}
    assert {c.objectives for c in archive.front()} == expected
    assert all(c.rung == 1 for c in archive.front())


def test_three_rungs_halve_twice(simulate: Callable[..., Any], tmp_path: Path) -> None:
    run = simulate(tmp_path, rung_steps=(0, 5), promote=(0.5, 0.5), population=16, generations=2)
    by_steps = {
        steps: len({e.plan["digest"] for e in run.runner.evaluations if e.steps == steps})
        for steps in (0, 5, 30)
    }
    assert by_steps[0] > by_steps[5] > by_steps[30] > 0
    assert {c.rung for c in run.search.archive.front()} == {2}


def test_cheap_rungs_judge_on_few_samples(
    simulate: Callable[..., Any], tmp_path: Path, lenet_bench: TaskScorer
) -> None:
    held = len(lenet_bench.task.validation.inputs)
    few = simulate(tmp_path / "few", rung_samples=held - 1, generations=1).runner.evaluations
    assert {(e.steps, e.samples) for e in few} == {(0, held - 1), (30, 0)}
    for number, most in enumerate((held, 0)):
        every = simulate(
            tmp_path / f"all{number}", rung_samples=most, generations=1
        ).runner.evaluations
        assert {e.samples for e in every} == {0}


def test_few_samples_are_the_first_ones(lenet_bench: TaskScorer, task_cache: Path) -> None:
    task = lenet_bench.task
    expression = parse("sum[i,k](abs(W))", builtin_primitives())
    trial = lenet_bench.plan(expression, Conventions(), Budget("channels", 0.3))
    part = task.validation.select(slice(100))
    workbench = Workbench(TaskSource(cache_dir=str(task_cache)))
    whole, first = (
        Evaluation(task.name, trial.plan.to_json(), 0, 0, samples=samples) for samples in (0, 100)
    )
    model = whole.pruned(workbench)
    assert first.run(workbench).raw == task.error(model, part)
    assert whole.run(workbench).raw == task.error(model, task.validation)
    assert first.key != whole.key


def test_without_cheap_rungs_all_are_complete(simulate: Callable[..., Any], tmp_path: Path) -> None:
    run = simulate(tmp_path, rung_steps=(), promote=())
    assert {e.steps for e in run.runner.evaluations} == {30}
    assert run.generations[-1].complete == run.generations[-1].behaviours


def test_the_hash_seed_and_the_journal_do_not_matter(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    first = simulate(tmp_path / "a")
    content = (tmp_path / "a" / NAME).read_bytes()
    simulate(tmp_path / "b")
    assert (tmp_path / "b" / NAME).read_bytes() == content
    again = simulate(tmp_path / "a")
    assert again.runner.evaluations == []
    assert again.generations == first.generations
    assert (tmp_path / "a" / NAME).read_bytes() == content
