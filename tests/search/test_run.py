"""A run is a function of its settings: same seed, any number of workers, killed and resumed."""

from __future__ import annotations

import csv
import gc
import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import content

from gp_prune.errors import UserError
from gp_prune.judging.compare import compare
from gp_prune.judging.judge import evaluate
from gp_prune.language.expression import canonical
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.metric import Metric
from gp_prune.report.recommendation import recommendation
from gp_prune.report.search import result_json, result_lines
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import Job, TaskSource, Workbench
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal_lines import seal
from gp_prune.runs.statistics import STATISTICS
from gp_prune.search.archive import dominates
from gp_prune.search.config import SearchConfig
from gp_prune.search.results import COMPARISON, FRONT, METRICS, SearchResult, ladder_objectives
from gp_prune.search.run import SearchProgress, evolve, reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.stored import RESULT
from gp_prune.statistics.coverage import STATISTICS_VERSION

SMALL = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits", "cnn-digits"),
    population=6,
    generations=2,
    seed=5,
    ladder=(0.4,),
    budget_kind=("channels",),
    objectives=("tuned_error", "macs", "params"),
    aggregate="mean",
    budgets=(0.4,),
    rung_steps=(0,),
    promote=(0.25,),
    fine_tune_steps=3,
    final_steps=3,
    no_start_formulas=True,
    final_seeds=2,
    front_size=4,
    calibration=128,
)

TINY = replace(
    SMALL, tasks=("lenet-digits",), population=4, generations=1, fine_tune_steps=1,
    final_steps=1, final_seeds=1, calibration=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory, task_cache: Path) -> SearchResult:
    folder = tmp_path_factory.mktemp("run") / "small"
    return evolve(SMALL, folder, source=TaskSource(cache_dir=str(task_cache)))


def test_the_run_folder_holds_the_front(small_run: SearchResult) -> None:
    lines = (small_run.folder / FRONT).read_text().splitlines()
    assert len(lines) == 1 + len(small_run.contenders)
    assert {p.stem for p in (small_run.folder / METRICS).iterdir()} == set(small_run.metrics)
    for name in small_run.metrics:
        metric = Metric.load(small_run.folder / METRICS / f"{name}.json")
        assert metric.expression == small_run.metrics[name].expression
        assert set(metric.objectives) == set(SMALL.tasks)


def test_the_journal_says_what_was_bred_and_what_lives(small_run: SearchResult) -> None:
    lines = map(json.loads, (small_run.folder / JOURNAL).read_text().splitlines())
    events: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        events.setdefault(line["event"], []).append(line)
    known = {event["text"] for event in events["candidate"]}
    assert events["bred"]
    for event in events["bred"]:
        assert {event["text"], *event["parents"]} <= known
        assert len(event["parents"]) == (2 if event["operator"] == "crossover" else 1)
    for event in events["generation"]:
        assert event["population"]["formulas"] == SMALL.population
    best = small_run.recommended.name
    cells = {(e["task"], e["budget"], e["keep"]) for e in events["layers"]}
    assert len(cells) == len(events["layers"]) == len(SMALL.tasks) * 2 * len(SMALL.budgets)
    for event in events["layers"]:
        assert event["contender"] == best
        assert all(0 < kept <= of for _, kept, of in event["layers"])
        assert any(kept < of for _, kept, of in event["layers"])


def test_no_two_of_the_front_behave_alike(small_run: SearchResult) -> None:
    evolved = [c.candidate for c in small_run.contenders if c.candidate is not None]
    assert len({c.behaviour for c in evolved}) == len(evolved)
    assert len({c.objectives for c in evolved}) == len(evolved)


def test_the_recommendation_is_the_smallest_of_the_best(small_run: SearchResult) -> None:
    evolved = [c for c in small_run.contenders if c.candidate is not None]
    small = [c for c in evolved if c.expression.size <= SMALL.recommended_size]
    evolved = small or evolved
    assert small_run.recommended in evolved
    means = {c.name: small_run.comparison.mean(c.name, "validation") for c in evolved}
    best = min(means, key=means.__getitem__)
    limit = means[best] + small_run.comparison.spread(best, "validation")
    assert means[small_run.recommended.name] <= limit
    assert all(
        c.expression.size >= small_run.recommended.expression.size
        for c in evolved
        if means[c.name] <= limit
    )


def test_all_are_judged_by_one_error_and_the_winner_and_the_baselines_by_both(
    small_run: SearchResult,
) -> None:
    alike = small_run.config.conventions
    baselines = [c for c in small_run.contenders if c.candidate is None]
    last = {c.name for c in baselines if c.conventions == alike}
    assert 2 <= len(last) < len(baselines)  # random and L1 are there as published, too
    last.add(small_run.recommended.name)
    for contender in small_run.contenders:
        parts = {
            error: small_run.comparison.part(contender.name, kind="macs", error=error)
            for error in ("tuned_error", "error")
        }
        assert {row.repeat for row in parts["tuned_error"]} == {0, 1}
        assert bool(parts["error"]) == (contender.name in last)


def test_budgets_are_met_alike_by_all(small_run: SearchResult) -> None:
    for record in small_run.comparison.records:
        if record.kind in ("macs", "params"):
            assert getattr(record, record.kind) == pytest.approx(record.keep, abs=0.05)


def test_the_search_never_reads_the_test_split(small_run: SearchResult) -> None:
    lines = [json.loads(x) for x in (small_run.folder / JOURNAL).read_text().splitlines()]
    first_test = next(n for n, x in enumerate(lines) if x.get("test") is not None)
    last_generation = max(n for n, x in enumerate(lines) if x["event"] == "generation")
    assert any(x["event"] == "evaluation" and x["test"] is None for x in lines)
    assert first_test > last_generation


class Backwards:
    """A runner whose jobs end in the reverse of their order, when the first is waited for."""

    def __init__(self, source: TaskSource) -> None:
        self._workbench = Workbench(source)
        self._begun: list[tuple[Job[Any], Future[Any]]] = []

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[Any]) -> Future[Any]:
        backwards = self

        class Late(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                backwards.run_all()
                return super().result(timeout)

        self._begun.append((job, Late()))
        return self._begun[-1][1]

    def run_all(self) -> None:
        while self._begun:
            job, future = self._begun.pop()
            future.set_result(job.run(self._workbench))

    def close(self) -> None:
        assert not self._begun


def test_same_seed_same_result_in_whatever_order_jobs_end(
    tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    one = evolve(TINY, tmp_path / "one", source=source)
    monkeypatch.setattr("gp_prune.search.run.make_runner", lambda *_, **__: Backwards(source))
    other = evolve(TINY, tmp_path / "other", source=source)
    assert content(one.folder) == content(other.folder)
    assert (one.folder / JOURNAL).read_bytes() == (other.folder / JOURNAL).read_bytes()


@pytest.mark.slow
def test_another_seed_gives_another_result(
    small_run: SearchResult, tmp_path: Path, task_cache: Path
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    other = evolve(replace(SMALL, seed=6), tmp_path / "other", source=source)
    assert content(other.folder) != content(small_run.folder)


def test_the_result_of_a_finished_run_is_read_from_its_files(
    small_run: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network is trained, loaded or evaluated."""
    before = content(small_run.folder)
    journal = (small_run.folder / JOURNAL).read_bytes()
    monkeypatch.setattr("gp_prune.search.run._prepare", None)
    monkeypatch.setattr("gp_prune.search.run.make_runner", None)
    again = evolve(None, small_run.folder, resume=True)
    for field in fields(SearchResult):
        if field.name not in ("comparison", "held_out"):
            assert getattr(again, field.name) == getattr(small_run, field.name), field.name
    assert again.comparison.records == small_run.comparison.records
    assert again.held_out.records == small_run.held_out.records
    assert result_lines(again, io.StringIO()) == result_lines(small_run, io.StringIO())
    assert content(small_run.folder) == before
    assert (small_run.folder / JOURNAL).read_bytes() == journal


@pytest.mark.parametrize("change", ["torn", "name", "formula", "recommended", "records"])
def test_a_damaged_result_is_named(small_run: SearchResult, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    text = (folder / RESULT).read_text()
    data = json.loads(text)
    if change == "name":
        data["contenders"][0]["name"] = "../../outside"
    elif change == "formula":
        data["contenders"][0]["formula"] = "sum[i"
    elif change == "recommended":
        data["recommended"] = "random"
    elif change == "records":
        records = (folder / COMPARISON).read_text().splitlines(keepends=True)
        (folder / COMPARISON).write_text("".join(x for x in records if not x.startswith("l1,")))
    (folder / RESULT).write_text(text[:-40] if change == "torn" else json.dumps(data))
    with pytest.raises(UserError, match=r"cannot be read: .*; remove .*result\.json"):
        evolve(None, folder, resume=True)


@pytest.mark.slow
def test_an_extended_run_equals_one_begun_with_as_many_generations(
    small_run: SearchResult, tmp_path: Path, task_cache: Path
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    folder = tmp_path / "run"
    short = replace(SMALL, generations=1, final_seeds=1)
    evolve(short, folder, source=source, reuse=small_run.folder)
    assert content(folder) != content(small_run.folder)
    with pytest.raises(UserError, match="but seed would change"):
        evolve(None, folder, source=source, resume=True, changes={"seed": 1, "generations": 2})
    longer = {"generations": 2, "final_seeds": 2}
    seen: list[SearchProgress] = []
    evolve(None, folder, source=source, resume=True, changes=longer, progress=seen.append)
    assert content(folder) == content(small_run.folder)
    assert (folder / RESULT).read_bytes() == (small_run.folder / RESULT).read_bytes()
    assert (folder / CONFIG).read_text() == SMALL.to_toml()
    assert [p.generation.known for p in seen if p.generation] == [True, True, False]
    begun = json.loads((folder / JOURNAL).read_text().splitlines()[0])
    assert begun["run"]["generations"] == 1


@pytest.mark.slow
def test_without_a_comparison_the_error_of_the_search_decides(
    small_run: SearchResult, tmp_path: Path, task_cache: Path
) -> None:
    folder = tmp_path / "run"
    source = TaskSource(cache_dir=str(task_cache))
    config = replace(SMALL, comparison=False)
    result = evolve(config, folder, source=source, reuse=small_run.folder)
    evolved = [c.candidate for c in result.contenders if c.candidate is not None]
    assert len(evolved) == len(result.contenders)
    small = [c for c in evolved if c.expression.size <= config.recommended_size] or evolved
    assert result.recommended.candidate in small
    assert min(c.objectives[0] for c in small) == result.recommended.candidate.objectives[0]
    assert '"test": null' in (folder / JOURNAL).read_text()
    lines = [json.loads(x) for x in (folder / JOURNAL).read_text().splitlines()]
    assert all(x.get("test") is None for x in lines)
    text = "\n".join([*result_lines(result, io.StringIO()), recommendation(result)])
    assert "±" not in text and "deviation" not in text and "nan" not in text
    assert json.dumps(result_json(result), allow_nan=False)
    evolve(None, folder, resume=True, source=source, changes={"comparison": True})
    assert content(folder) == content(small_run.folder)


@pytest.mark.parametrize("seed", [11, pytest.param(12, marks=pytest.mark.slow)])
def test_interrupted_anywhere_and_resumed(
    small_run: SearchResult, tmp_path: Path, task_cache: Path, seed: int
) -> None:
    """Cutting the journal at any byte is what a kill at any moment leaves."""
    journal = (small_run.folder / JOURNAL).read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / CONFIG).write_text(SMALL.to_toml())
    (folder / JOURNAL).write_bytes(journal[: random.Random(seed).randrange(len(journal))])
    evolve(None, folder, source=TaskSource(cache_dir=str(task_cache)), resume=True)
    assert content(folder) == content(small_run.folder)
    assert (folder / JOURNAL).read_bytes() == journal


@pytest.mark.slow
def test_reduced_within_noise_in_whatever_order_jobs_end_and_resumed(
    tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    config = replace(
        TINY, seed=2, objectives=("error", "macs", "params", "size"), rung_steps=(), promote=(),
        no_start_formulas=True, size_limit=15, final_steps=10, final_seeds=3,
        reduce_within_noise=True,
    )  # fmt: skip
    # Which seed finds a formula with a part that changes nothing depends on the trained network,
    # whose last bits depend on the processor.
    for seed in range(2, 8):
        config = replace(config, seed=seed)
        one = evolve(config, tmp_path / f"one{seed}", source=source)
        if any("within noise" in str(metric.provenance) for metric in one.metrics.values()):
            break
    else:
        pytest.fail("no search found a formula that is shorter within the noise")
    later = tmp_path / "later"
    evolve(replace(config, reduce_within_noise=False), later, source=source)
    evolve(folder=later, source=source, resume=True, changes={"reduce_within_noise": True})
    assert content(one.folder) == content(later)
    # The end of the journal is lost, and evaluated again.
    lines = (one.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    expected = content(one.folder)
    (one.folder / RESULT).unlink()
    (one.folder / JOURNAL).write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
    evolve(folder=one.folder, source=source, resume=True)
    assert content(one.folder) == expected
    monkeypatch.setattr("gp_prune.search.run.make_runner", lambda *_, **__: Backwards(source))
    other = evolve(config, tmp_path / "other", source=source)
    assert content(other.folder) == expected


@pytest.mark.slow
def test_two_workers_equal_one(small_run: SearchResult, tmp_path: Path, task_cache: Path) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    seen: list[SearchProgress] = []
    pool = evolve(SMALL, tmp_path / "pool", source=source, workers=2, progress=seen.append)
    assert content(pool.folder) == content(small_run.folder)
    assert seen[-1].stage == "done"
    assert [p.generation.number for p in seen if p.generation] == [0, 1, 2]


@pytest.mark.slow
def test_a_reused_run_spares_all_evaluations(
    small_run: SearchResult, tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gp_prune.search.evaluation.Evaluation.run", None)
    source = TaskSource(cache_dir=str(task_cache))
    again = evolve(SMALL, tmp_path / "again", source=source, reuse=small_run.folder)
    assert content(again.folder) == content(small_run.folder)
    journal = (again.folder / JOURNAL).read_bytes()
    assert journal == (small_run.folder / JOURNAL).read_bytes()


@pytest.mark.slow
def test_a_run_of_earlier_statistics_is_reused_but_not_resumed(
    small_run: SearchResult, tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation belongs to a plan, and stays right however the plan was scored."""
    old = tmp_path / "old"
    shutil.copytree(small_run.folder, old)
    settings = (old / CONFIG).read_text().splitlines(keepends=True)
    (old / CONFIG).write_text("".join(x for x in settings if not x.startswith("max_memory")))
    head, *rest = (old / JOURNAL).read_text().splitlines(keepends=True)
    begun = json.loads(head)
    del begun["run"]["statistics"], begun["run"]["max_memory"], begun["check"]
    (old / JOURNAL).write_bytes(seal(begun) + "".join(rest).encode())
    before = content(old)
    source = TaskSource(cache_dir=str(task_cache))
    with pytest.raises(UserError, match=r"version 1 of the statistics .* so it cannot be resumed"):
        evolve(None, old, source=source, resume=True)
    assert content(old) == before
    monkeypatch.setattr("gp_prune.search.evaluation.Evaluation.run", None)
    again = evolve(SMALL, tmp_path / "again", source=source, reuse=old)
    assert content(again.folder) == content(small_run.folder)


@pytest.mark.slow
def test_a_file_of_primitives_that_is_removed_during_a_run_changes_nothing_of_its_result(
    tmp_path: Path, task_cache: Path
) -> None:
    file = tmp_path / "own.py"
    declaration = (
        "from gp_prune import operand\n\n\n@operand('own', axes='oik', meaning='a weight')\n"
        "def own(layer):\n    return layer.weight\n"
    )
    config = replace(TINY, primitives=(str(file),))

    def change(now: SearchProgress) -> None:
        if now.stage == "search":
            file.unlink(missing_ok=True)

    results = []
    for name, hear in (("left", lambda _: None), ("changed", change)):
        file.write_text(declaration)
        source = TaskSource(cache_dir=str(task_cache))
        results.append(evolve(config, tmp_path / name, source=source, progress=hear))
    assert content(results[1].folder) == content(results[0].folder)
    (provenance, *_) = [metric.provenance for metric in results[1].metrics.values()]
    digest = hashlib.sha256(declaration.encode()).hexdigest()
    assert provenance["settings"]["primitives"] == [f"own.py sha256:{digest}"]


def test_the_statistics_are_in_the_run_folder(small_run: SearchResult) -> None:
    statistics = json.loads((small_run.folder / STATISTICS).read_text())
    assert statistics["version"] == STATISTICS_VERSION
    assert statistics["max_memory"] == 2 * 10**9 and statistics["notes"] == []
    assert list(statistics["networks"]) == list(SMALL.tasks)
    provenance = small_run.metrics[small_run.recommended.name].provenance
    assert provenance["settings"]["max_memory"] == "2GB"
    assert repr(small_run).startswith(f"<SearchResult in {str(small_run.folder)!r}: ")
    assert len(repr(small_run)) < 500


def test_a_wrong_folder_to_reuse_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    seen: list[SearchProgress] = []
    folder, other = tmp_path / "runs" / "001", tmp_path / "other"
    with pytest.raises(UserError, match="has no journal"):
        evolve(SMALL, folder, reuse=other, progress=seen.append)
    assert seen == [] and list(tmp_path.iterdir()) == []


def table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_the_front_so_far_can_be_read_in_every_generation(tmp_path: Path, task_cache: Path) -> None:
    seen: list[list[str]] = []

    def read(progress: SearchProgress) -> None:
        if progress.generation is not None:
            rows = table(tmp_path / "run" / FRONT)
            assert [row["formula"] for row in rows] == [
                str(c.expression) for c in progress.generation.front
            ]
            files = sorted((tmp_path / "run" / METRICS).iterdir())
            assert [file.stem for file in files] == sorted(row["name"] for row in rows)
            by_name = {row["name"]: row["formula"] for row in rows}
            assert all(str(Metric.load(f).expression) == by_name[f.stem] for f in files)
            seen.append(list(rows[0]))

    source = TaskSource(cache_dir=str(task_cache))
    config = replace(TINY, strategy="random", generations=2)
    result = evolve(config, tmp_path / "run", source=source, progress=read)
    assert len(seen) == 3
    assert list(table(result.folder / FRONT)[0]) == seen[0]


def status(process: int) -> list[str]:
    """State and parent of a process, and more; empty for one that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(process: int) -> bool:
    """Whether a process runs (one that has ended and waits to be collected does not)."""
    return status(process)[:1] not in ([], ["Z"])


@pytest.mark.slow
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_killed_and_resumed(
    small_run: SearchResult,
    tmp_path: Path,
    task_cache: Path,
    children: Callable[[int], list[int]],
    started: Callable[..., subprocess.Popen[str]],
    quarter: int,
) -> None:
    folder = tmp_path / "killed"
    settings = tmp_path / "settings.toml"
    settings.write_text(SMALL.to_toml())
    program = ("evolve", "--quiet", "--workers", "2", "--cache-dir", task_cache)
    running = started(
        *program, "--config", settings, "--out", folder,
        pause_at=(small_run.folder / JOURNAL).stat().st_size * quarter // 4,
    )  # fmt: skip
    workers = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    deadline = time.monotonic() + 600
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.05)
    assert not (folder / COMPARISON).exists()
    resumed = started(*program, "--resume", folder)
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert content(folder) == content(small_run.folder)


def test_edited_settings_do_not_go_on_with_the_old_journal(
    small_run: SearchResult, tmp_path: Path, task_cache: Path
) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(small_run.folder, folder)
    (folder / CONFIG).write_text(replace(SMALL, seed=6).to_toml())
    with pytest.raises(UserError, match="begun with seed = 5, not 6"):
        evolve(None, folder, source=TaskSource(cache_dir=str(task_cache)), resume=True)
    assert content(folder) == content(small_run.folder)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    config = SearchConfig(tasks=("lenet-mnist",))
    with pytest.raises(UserError, match="data set 'mnist'"):
        evolve(config, tmp_path / "run", source=TaskSource(data_root=str(tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


def test_published_formulas_keep_their_name_and_source(small_run: SearchResult) -> None:
    published = {str(canonical(m.expression)): m for m in reference_metrics(builtin_primitives())}
    for contender in small_run.contenders:
        if contender.candidate is None:
            continue
        known = published.get(str(contender.expression))
        metric = small_run.metrics[contender.name]
        assert bool(known) == bool(contender.published)
        if known:
            assert contender.name == f"{known.name}_global"
            assert metric.source == known.source
        else:
            assert metric.source == "gp-prune evolve, seed 5"


def test_the_front_shows_the_objectives_of_the_search(small_run: SearchResult) -> None:
    shown = []
    for contender in small_run.contenders:
        if contender.candidate is not None:
            figures = ladder_objectives(small_run, contender)
            shown.append(tuple(figures[name] for name in small_run.config.names))
            assert shown[-1] == pytest.approx(contender.candidate.objectives)
    assert not any(dominates(a, b) for a in shown for b in shown)


def test_random_pruning_differs_between_repeats_and_budgets(small_run: SearchResult) -> None:
    rows = [r for r in small_run.comparison.records if r.contender == "random"]
    lenet = [r for r in rows if r.task == "lenet-digits" and r.kind != "ladder"]
    assert len({r.validation for r in lenet}) == len(lenet) == 4
    assert {r.error for r in lenet} == {small_run.config.errors[0]}


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_result(
    small_run: SearchResult, tmp_path: Path, task_cache: Path, kill_a_worker: Callable[[], int]
) -> None:
    killed: list[int] = []

    def kill_one(progress: SearchProgress) -> None:
        if progress.generation is not None and len(killed) < 2:
            killed.append(kill_a_worker())

    source = TaskSource(cache_dir=str(task_cache))
    pool = evolve(SMALL, tmp_path / "pool", source=source, workers=2, progress=kill_one)
    assert len(set(killed)) == 2
    assert content(pool.folder) == content(small_run.folder)


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        evolve(SMALL, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_resuming_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        evolve(None, tmp_path, resume=True)


def test_a_resumed_run_keeps_its_settings(small_run: SearchResult) -> None:
    with pytest.raises(UserError, match="seed would change"):
        evolve(replace(SMALL, seed=6), small_run.folder, resume=True)


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown task 'lenet-digit'"):
        evolve(SearchConfig(tasks=("lenet-digit",)), tmp_path / "run")


@pytest.mark.slow
def test_limits_that_nothing_meets_are_told_at_once(tmp_path: Path, task_cache: Path) -> None:
    # Long enough to be looked at while it runs.
    config = replace(
        SMALL, tasks=("lenet-digits",), candidate_timeout=0.3, population=40, rung_steps=(),
        promote=(), fine_tune_steps=2000,
    )  # fmt: skip
    source = TaskSource(cache_dir=str(task_cache))
    with pytest.raises(
        UserError, match=r"no formula can be tried on lenet-digits, .* --candidate-m"
    ):
        evolve(config, tmp_path / "run", source=source)
    evaluated = [
        json.loads(line) for line in (tmp_path / "run" / JOURNAL).read_text().splitlines()[1:]
    ]
    assert len(evaluated) == 1


def _search(folder: Path) -> object:
    return evolve(SMALL, folder)


def _compare(folder: Path) -> object:
    return compare(["l1", "flap"], ["lenet-digits"], folder, keep=(0.5,))


def _evaluate(_: Path) -> object:
    return evaluate("flap", ["lenet-digits"])


@pytest.mark.parametrize("run", [_search, _compare, _evaluate])
def test_no_measurements_are_left_behind(run: Callable[[Path], object], tmp_path: Path) -> None:
    collected = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        result = run(tmp_path / "run")
        left = [thing for thing in gc.get_objects() if type(thing) is TaskScorer]
    finally:
        if collected:
            gc.enable()
    assert result
    assert not left
