"""`gp-prune apply` on language models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.tasks import catalogue
from gp_prune.tasks.catalogue import Recipe
from gp_prune.tasks.language_models import LanguageModel, Size

Run = Callable[..., Result]

TINY = Size(width=8, depth=1, heads=2, groups=1, hidden=12)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of a text, trained for one pass."""
    models = {"llama": lambda: LanguageModel(TINY, llama=True)}
    monkeypatch.setattr(catalogue, "_LANGUAGE_RECIPE", Recipe(1, 1e-3))
    monkeypatch.setattr(catalogue, "LANGUAGE_MODELS", models)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "\n\n".join(f"line {n} holds {n * n} and {n % 7} more words" for n in range(400))
    (tmp_path / "notes.txt").write_text(text)
    return f"llama-text:{tmp_path}/notes.txt"


def test_the_report_has_the_perplexity_and_the_head_stays_whole(run: Run, spec: str) -> None:
    result = run(
        "apply", "wanda_weight", spec, "--pruning-ratio", 0.5, "--judge", "--json", "--quiet"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    quality = report["quality"]
    assert quality["kind"] == "nats"
    for state in ("dense", "pruned", "constant"):
        assert quality["perplexity"][state] == pytest.approx(math.exp(quality[state]))
    assert quality["perplexity"]["tuned"] is None
    assert 2 < quality["constant"] < 4
    kept = {r["layer"]: r["params_kept"] / r["params"] for r in report["layers"] if r["macs"]}
    assert kept.pop("head") == 1
    weights = [share for name, share in kept.items() if "proj" in name]
    assert len(weights) == 7
    assert all(share == pytest.approx(0.5) for share in weights)


def test_the_table_shows_both_and_the_head_goes_where_it_is_asked_for(run: Run, spec: str) -> None:
    result = run("apply", "magnitude", spec, "--pattern", "2:4", "--judge", "--with-head")
    assert result.exit_code == 0, result.stderr
    (heading,) = (line for line in result.stdout.splitlines() if "perplexity" in line)
    assert "nats per token" in heading
    (head,) = (line for line in result.stdout.splitlines() if line.startswith("head"))
    assert head.split()[-3:-1] == ["2048", "1024"] or head.split()[7:9] == ["2048", "1024"]
