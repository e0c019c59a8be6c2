"""What a candidate is judged by: budgets of several kinds, errors of both kinds, size, latency."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import content

from gp_prune.errors import UserError
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import seal
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import EVALUATION_VERSION
from gp_prune.search.results import EarlierRun
from gp_prune.search.run import evolve
from gp_prune.statistics.coverage import STATISTICS_VERSION


def test_objectives_are_those_of_the_cuts(simulate: Callable[..., Any], tmp_path: Path) -> None:
    run = simulate(
        tmp_path, budget_kind=("macs", "params"), ladder=(0.6, 0.4), rung_steps=(), promote=(),
        objectives=("error", "tuned_error", "macs", "params", "size"), aggregate="log",
    )  # fmt: skip
    search = run.search
    front = search.archive.front()
    assert len({c.objectives for c in front}) == len(front) > 1
    for candidate in front:
        cuts = search.assessor.score(candidate.expression)
        kept = {(c.plan.asked.kind, c.plan.asked.keep): c for c in cuts}
        assert set(kept) == {(k, s) for k in ("macs", "params") for s in (0.6, 0.4)}
        for (kind, keep), cut in kept.items():
            assert getattr(cut, kind) == pytest.approx(keep, abs=0.05)
        values = dict(zip(search.config.names, candidate.objectives, strict=True))
        macs = [kept["params", keep].macs for keep in (0.6, 0.4)]
        params = [kept["macs", keep].params for keep in (0.6, 0.4)]
        assert values["macs"] == pytest.approx(statistics.fmean(macs))
        assert values["params"] == pytest.approx(statistics.fmean(params))
        assert values["size"] == candidate.expression.size
        assert values["error"] != values["tuned_error"]
    steps = {e.steps for e in run.runner.evaluations}
    assert steps == {0, search.config.fine_tune_steps}


def test_of_formulas_that_cut_alike_each_has_its_own_size(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    search = simulate(tmp_path, objectives=("error", "size"), rung_steps=(), promote=()).search
    sizes = {c.expression.size for c in search.archive.front()}
    assert min(sizes) < 6  # "error against complexity"
    for candidate in search.archive.front():
        again = search.archive.get(candidate.expression)
        assert again is not None and again.objectives[1] == candidate.expression.size


@pytest.mark.slow
def test_a_latency_is_measured_once_and_resumed(tmp_path: Path, task_cache: Path) -> None:
    config = SearchConfig(
        tasks=("lenet-digits",), population=4, generations=1, calibration=16, ladder=(0.4,),
        budgets=(0.4,), budget_kind=("macs",), objectives=("error", "latency"), final_steps=0,
        final_seeds=1, front_size=2, no_start_formulas=True,
    )  # fmt: skip
    source = TaskSource(cache_dir=str(task_cache))
    whole = evolve(config, tmp_path / "whole", source=source)
    journal = (tmp_path / "whole" / NAME).read_bytes()
    lines = [json.loads(line) for line in journal.splitlines()]
    measured = [x["latency"] for x in lines if "+latency" in x.get("key", "")]
    assert measured and all(0 < share < 100 for share in measured)
    front = [c.candidate for c in whole.contenders if c.candidate is not None]
    assert {c.objectives[1] for c in front} <= set(measured)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / CONFIG).write_text(config.to_toml())
    # All of the search but not of the comparison: what is measured stays, the rest is repeatable.
    last = max(n for n, x in enumerate(lines) if x["event"] == "generation")
    (cut / NAME).write_bytes(b"".join(journal.splitlines(keepends=True)[: last + 1]))
    evolve(None, cut, source=source, resume=True)
    assert content(cut) == content(whole.folder)


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        ({}, "objectives of a search could not be chosen"),
        ({"objectives": ["error"]}, r"was begun with the evaluation protocol 1, .* cannot be res"),
    ],
)
def test_a_run_of_another_protocol_is_refused(
    tmp_path: Path, task_cache: Path, begun: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / CONFIG).write_text('tasks = ["lenet-digits"]\n')
    begin = {
        "event": "begin",
        "run": {"tasks": ["lenet-digits"], "seed": 0, "statistics": STATISTICS_VERSION, **begun},
    }
    (folder / NAME).write_bytes(seal(begin))
    with pytest.raises(UserError, match=words):
        evolve(None, folder, source=TaskSource(cache_dir=str(task_cache)), resume=True)
    with pytest.raises(UserError, match="cannot be reused: its evaluation protocol: None, not"):
        EarlierRun(folder).reusable(SearchConfig(), {"evaluation": EVALUATION_VERSION})
