"""A candidate whose evaluation fails gets the worst fitness and a reason; the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.runs.executors import completed
from gp_prune.runs.jobs import Job
from gp_prune.runs.journal import NAME, Journal
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import AnyOutcome, Evaluator, outcome_reader
from gp_prune.search.nsga2 import Search
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed

CONFIG = SearchConfig(
    tasks=("lenet-digits",), calibration=64, population=8, generations=2, rung_steps=(0,),
    promote=(0.25,), objectives=("tuned_error", "macs", "params"), budget_kind=("channels",),
)  # fmt: skip
REASON = "took more than 60 s, 2 times"


class Flaky:
    """A runner that makes errors up from the keys, and fails for some evaluations."""

    def __init__(self, fails: Callable[[Evaluation], bool]) -> None:
        self.fails = fails

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[Any]) -> Future[Any]:
        assert isinstance(job, Evaluation)
        if self.fails(job):
            return completed(job.failed(REASON))
        error = derive_seed(job.key) / 2**31
        return completed(Outcome(error, None, error))

    def close(self) -> None:
        pass


def search(
    bench: TaskScorer, journal: Journal[AnyOutcome], fails: Callable[[Evaluation], bool]
) -> Search:
    evaluator = Evaluator(Flaky(fails), journal, stack=1)
    return Search(CONFIG, builtin_primitives(), [bench], [], evaluator, journal)


def test_candidates_that_fail_are_named_and_never_on_the_front(
    lenet_bench: TaskScorer, tmp_path: Path
) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        found = search(lenet_bench, journal, lambda e: derive_seed(e.key, "fails") % 4 == 0)
        last = list(found.generations())[-1]
    assert last.rejected
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    failed = [x for x in lines if x["event"] == "candidate" and x.get("reason")]
    assert failed
    assert all(x["reason"] == f"lenet-digits: {REASON}" for x in failed)
    assert all(x["objectives"] == list(CONFIG.worst) for x in failed)
    front = {str(c.expression) for c in found.archive.front()}
    assert front and not front & {x["text"] for x in failed}


def test_a_run_in_which_all_fail_says_why(lenet_bench: TaskScorer, tmp_path: Path) -> None:
    with (
        Journal(tmp_path, outcome_reader()) as journal,
        pytest.raises(UserError, match="because took more than 60"),
    ):
        list(search(lenet_bench, journal, lambda e: True).generations())


# Zero but for rounding. Steps on single entries round alike on every processor, and the weighted
# sum of what they leave is another number for every channel.
UNTIED = "sub(mul(add(W, 0.1), 3), add(mul(W, 3), 0.3))"
UNTIED = f"sum[i,k](mul(abs(W), {UNTIED}))"

# How sums round is up to the processor, so many of these may be 0 and tie.
PERHAPS_TIED = "sub(sum[i,k](mul(W, 0.1)), mul(0.1, sum[i,k](W)))"
PERHAPS_TIED = f"mul(sum[i,k](abs(W)), {PERHAPS_TIED})"


def test_formulas_that_rank_rounding_errors_are_refused(
    lenet_bench: TaskScorer, tmp_path: Path
) -> None:
    known = builtin_primitives()
    with Journal(tmp_path, outcome_reader()) as journal:
        assessor = search(lenet_bench, journal, lambda e: False).assessor

        def refused(text: str) -> bool:
            tree = assessor.grammar.from_expression(parse(text, known))
            return assessor.draw_new(tree) is None

        for text in (UNTIED, f"tanh(mul(1e16, {UNTIED}))"):
            assert not isinstance(assessor.score(parse(text, known)), str), "each score differs"
            assert refused(text)
        assert sum(assessor.refused.values()) == 2
        assert all("differ by rounding alone" in reason for reason in assessor.refused)
        assert refused(PERHAPS_TIED)
        assert not refused("sum[i,k](W)")
