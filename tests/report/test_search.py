"""The tables of a result: every figure shown is the figure of the records."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from gp_prune.report.recommendation import recommendation, verdict
from gp_prune.report.search import NARROW, result_json, result_lines
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.config import SearchConfig
from gp_prune.search.results import SearchResult
from gp_prune.search.run import evolve


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, task_cache: Path) -> SearchResult:
    config = SearchConfig(
        validate_on=(), tasks=("lenet-digits", "autoencoder-digits"), population=6, generations=1,
        ladder=(0.5,), budgets=(0.5,), final_steps=2, final_seeds=2, front_size=4, calibration=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("front") / "run"
    return evolve(config, folder, source=TaskSource(cache_dir=str(task_cache)))


def test_every_contender_has_its_row_and_formula(result: SearchResult) -> None:
    text = " ".join("\n".join(result_lines(result, io.StringIO())).split())
    for contender in result.contenders:
        assert contender.name in text
    short = [c for c in result.contenders if len(str(c.expression)) < 30]
    assert short
    assert all(str(contender.expression) in text for contender in short)


def test_no_line_ends_in_blanks_or_is_too_long(result: SearchResult) -> None:
    for line in result_lines(result, io.StringIO()):
        assert line == line.rstrip()
        assert len(line) <= 160


def test_narrow_terminals_get_the_formulas_below(
    result: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(NARROW - 40))
    monkeypatch.setenv("TERM", "dumb")
    lines = result_lines(result, Terminal())
    assert max(map(len, lines)) <= NARROW - 40
    assert any(f"{result.contenders[0].name} = " in line for line in lines)


def test_verdict_says_where_the_recommended_formula_loses(result: SearchResult) -> None:
    best = result.recommended.name
    lines = verdict(result)
    parts = [(kind, error) for error in ("error", "tuned_error") for kind in ("macs", "params")]
    words = {"error": "right after pruning", "tuned_error": "after fine-tuning"}
    for (kind, error), line in zip(parts, lines, strict=True):
        own = result.comparison.mean(best, "test", kind=kind, error=error)
        assert words[error] in line
        for contender in result.contenders:
            if contender.candidate is None and contender.name != best:
                if not result.comparison.part(contender.name, kind=kind, error=error):
                    assert error == "tuned_error" and f"below {contender.name} " not in line
                    assert contender.conventions != result.config.conventions
                    continue
                other = result.comparison.mean(contender.name, "test", kind=kind, error=error)
                word = "below" if own < other else "NOT below"
                assert f"{word} {contender.name} {other:.3f}" in line


def test_json_has_the_same_figures(result: SearchResult) -> None:
    data = result_json(result)
    assert data["recommended"] == result.recommended.name
    for row, contender in zip(data["contenders"], result.contenders, strict=True):
        mean = result.comparison.mean(contender.name, "test", kind="macs")
        assert row["equal_macs"]["test"] == mean
        assert row["formula"] == str(contender.expression)


def test_what_a_limit_or_the_user_ended_is_said_at_the_end(result: SearchResult) -> None:
    assert result.failures == {} and result_json(result)["failures"] == []
    failures = {f"formula 'f{n}' on lenet-digits": "took more than 1 s" for n in range(12)}
    ended = replace(result, failures=failures)
    lines = result_lines(ended, io.StringIO())
    assert lines[-12].startswith(
        "12 evaluations ended by a limit of this run or set aside by --skip"
    )
    assert lines[-11] == "  formula 'f0' on lenet-digits: took more than 1 s"
    assert lines[-1] == "  and 2 more"
    assert len(result_json(ended)["failures"]) == 12


def test_latex_can_be_copied_in_one_line(result: SearchResult) -> None:
    latex = result.metrics[result.recommended.name].latex()
    for width in (None, 60):
        assert f"LaTeX: {latex}\n" in recommendation(result, width)


def test_sentences_are_wrapped_at_the_width_of_the_screen(result: SearchResult) -> None:
    lines = recommendation(result, 60).splitlines()
    sentences = [line for line in lines if not line.startswith((">>>>", "     LaTeX", "     Rule"))]
    assert any(line.startswith("     Test split") for line in sentences)
    assert max(map(len, sentences)) <= 70, "the rule has lines of its own"
    assert " ".join(" ".join(lines).split()) == " ".join(recommendation(result).split())
