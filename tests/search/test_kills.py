"""Runs that are killed, interrupted or out of disk go on as if nothing had been."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import all_files, lasting_files

from gp_prune.errors import UserError
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.search.config import SearchConfig
from gp_prune.search.run import SearchProgress, evolve

KILLS = 200
LOOP = Path(__file__).with_name("kill_loop.py")

SMALL = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits",),
    granularity="weight",
    population=4,
    generations=1,
    seed=5,
    ladder=(0.4,),
    budgets=(0.4,),
    rung_steps=(0,),
    promote=(0.25,),
    fine_tune_steps=1,
    final_steps=1,
    final_seeds=1,
    front_size=2,
    size_limit=15,
    height_limit=5,
    calibration=16,
)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_every_resume_after_a_kill_ends_as_the_run_without(
    tmp_path: Path, task_cache: Path
) -> None:
    TaskSource(cache_dir=str(task_cache)).load("lenet-digits")
    program = [sys.executable, str(LOOP), str(tmp_path), str(task_cache), str(KILLS)]
    shared = {**os.environ, "PYTHONPATH": str(LOOP.parents[1] / "runs")}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=shared)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= KILLS


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, task_cache: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone") / "run"
    evolve(SMALL, folder, source=TaskSource(cache_dir=str(task_cache)))
    files: dict[str, bytes] = all_files(folder)
    return files


def command(folder: Path, cache: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "gp_prune", "evolve", "--quiet", *more]
    return [*program, "--cache-dir", str(cache), "--out", str(folder)]


@pytest.mark.parametrize("share", [0.3, pytest.param(0.8, marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_in_one_sentence_and_it_goes_on_later(
    wanted: dict[str, bytes], tmp_path: Path, task_cache: Path, share: float
) -> None:
    """A limit on the size of files is a full disk: the system writes a part, then refuses."""
    resource = pytest.importorskip("resource")
    folder = tmp_path / "run"
    folder.mkdir()
    source = TaskSource(cache_dir=str(task_cache))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = int(len(wanted[JOURNAL]) * share) + 7

    def fill_the_disk(now: SearchProgress) -> None:
        if now.stage == "search":  # what is larger than the journal stands by then
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        says = r"^(journal|run folder) .* cannot be written: .* --resume$"
        with pytest.raises(UserError, match=says):
            evolve(SMALL, folder, source=source, progress=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal = (folder / JOURNAL).read_bytes()
    assert journal.endswith(b"\n")
    assert wanted[JOURNAL].startswith(journal)
    evolve(None, folder, source=source, resume=True)
    assert all_files(folder) == wanted


@pytest.mark.slow
def test_a_disk_that_is_full_at_fsync_loses_nothing(
    wanted: dict[str, bytes], tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device; .* --resume$"):
            evolve(SMALL, tmp_path / "run", source=source)
    evolve(None, tmp_path / "run", source=source, resume=True)
    assert all_files(tmp_path / "run") == wanted


def test_a_run_killed_before_it_began_can_be_started_again(
    wanted: dict[str, bytes], tmp_path: Path, task_cache: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / JOURNAL).touch()
    (folder / f".{CONFIG}.torn").write_text("tasks = [")
    evolve(SMALL, folder, source=TaskSource(cache_dir=str(task_cache)))
    assert lasting_files(folder) == wanted


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc here")
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, False)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_a_signal_ends_the_run_and_its_workers(
    wanted: dict[str, bytes],
    tmp_path: Path,
    task_cache: Path,
    children: Callable[[int], list[int]],
    started: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
    group: bool,
) -> None:
    folder, settings = tmp_path / "run", tmp_path / "settings.toml"
    settings.write_text(SMALL.to_toml())
    call = command(folder, task_cache, "--workers", "2", "--config", str(settings))
    first = wanted[JOURNAL].index(b'"evaluation"')
    running = started(*call[3:], start_new_session=True, pause_at=first)
    workers = children(running.pid)
    assert 1 <= len(workers) <= 2, "the second starts when there is work for it"
    # To the whole group, as the terminal does, or to the run alone, as batch systems do.
    (os.killpg if group else os.kill)(running.pid, number)
    running.send_signal(signal.SIGCONT)
    _, errors = running.communicate(timeout=600)
    assert running.returncode == 128 + number
    (line,) = [line for line in errors.splitlines() if line]
    assert line.startswith("gp-prune: interrupted")
    assert line.endswith(f"go on with: gp-prune evolve --resume {folder} --cache-dir {task_cache}")
    deadline = time.monotonic() + 600
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.05)
    evolve(None, folder, source=TaskSource(cache_dir=str(task_cache)), resume=True)
    assert all_files(folder) == wanted
