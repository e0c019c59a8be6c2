"""Evaluations of another run are taken over, and change the time alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import entries, reader, seal
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Outcome
from gp_prune.search.results import EarlierRun

CONFIG = SearchConfig(
    tasks=("lenet-digits",),
    seed=1,
    rung_steps=(0,),
    promote=(0.25,),
    budget_kind=("channels",),
    objectives=("tuned_error", "macs", "params"),
)
IDENTITY = {
    "seed": 1,
    "evaluation": 2,
    "versions": {"torch": "2"},
    "device": "cpu",
    "networks": {"lenet-digits": "sha256:1", "cnn-digits": "sha256:2"},
}


def write_journal(folder: Path, **changed: Any) -> Path:
    begin = {"event": "begin", "run": {**IDENTITY, **changed}}
    good = {"event": "evaluation", "key": "good", "validation": 0.5, "test": None, "raw": 0.1}
    failed = {**good, "key": "failed", "failure": "took more than 1 s, 2 times"}
    lines = b"".join(seal(entry) for entry in (begin, good, failed))
    (folder / NAME).write_bytes(lines + b'{"event": "eval')
    return folder


def outcomes(folder: Path) -> dict[str, Outcome]:
    path = folder / NAME
    return {e[0]: e[1] for e in entries(path, reader(Outcome)) if isinstance(e, tuple)}


def test_failures_and_torn_lines_are_left_behind(tmp_path: Path) -> None:
    found = EarlierRun(write_journal(tmp_path)).reusable(CONFIG, IDENTITY)
    assert found == {"good": Outcome(0.5, None, 0.1)}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"versions": {"torch": "1"}}, "its packages: "),
        ({"evaluation": 1}, "its evaluation protocol: 1, not 2"),
        ({"device": "cuda"}, "its device: 'cuda', not 'cpu'"),
        ({"networks": {"lenet-digits": "sha256:3"}}, "its networks of lenet-digits were others"),
        ({"networks": {"lenet-mnist": "sha256:1"}}, "it has none of the tasks lenet-digits"),
    ],
)
def test_another_protocol_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        EarlierRun(write_journal(tmp_path, **changed)).reusable(CONFIG, IDENTITY)


def test_with_another_seed_only_the_lowest_rung_is_shared(tmp_path: Path) -> None:
    folder = write_journal(tmp_path, seed=2)
    assert EarlierRun(folder).reusable(CONFIG, IDENTITY)
    tuned = replace(CONFIG, rung_steps=(), promote=())
    with pytest.raises(UserError, match="its seed was 2, so all fine-tuning was different"):
        EarlierRun(folder).reusable(tuned, IDENTITY)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no journal\.jsonl"):
        EarlierRun(tmp_path)
    (tmp_path / NAME).write_text("")
    with pytest.raises(UserError, match="had not begun"):
        EarlierRun(tmp_path)
    (tmp_path / NAME).write_text("not JSON\n")
    with pytest.raises(UserError, match="damaged in line 1"):
        EarlierRun(tmp_path)


def test_reuse_gives_the_same_run_with_fewer_evaluations(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    simulate(tmp_path / "short", generations=2)
    known = outcomes(tmp_path / "short")
    fresh = simulate(tmp_path / "fresh", generations=4)
    warm = simulate(tmp_path / "warm", generations=4, lent=known)
    assert warm.generations == fresh.generations
    assert (tmp_path / "warm" / NAME).read_bytes() == (tmp_path / "fresh" / NAME).read_bytes()
    assert len(warm.runner.evaluations) == len(fresh.runner.evaluations) - len(known)
    assert not {e.key for e in warm.runner.evaluations} & set(known)


def test_runs_of_other_seeds_share_what_was_not_fine_tuned(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    simulate(tmp_path / "first", seed=0)
    fresh = simulate(tmp_path / "fresh", seed=1)
    warm = simulate(tmp_path / "warm", seed=1, lent=outcomes(tmp_path / "first"))
    assert warm.generations == fresh.generations
    # At least the published metrics are common to both.
    spared = len(fresh.runner.evaluations) - len(warm.runner.evaluations)
    assert spared >= 12
    tuned = [[e.key for e in run.runner.evaluations if e.steps] for run in (warm, fresh)]
    assert tuned[0] == tuned[1]
