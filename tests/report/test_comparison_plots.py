"""Pictures of a comparison: curves of error, and ranks with the critical difference."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.judging.compare import MetricComparison
from gp_prune.judging.records import Measurement
from gp_prune.judging.settings import CompareSettings, enter
from gp_prune.language.primitive import builtin_primitives
from gp_prune.report.comparison_plots import find_posthocs, write_comparison_plots

pytest.importorskip("scikit_posthocs")


def make(folder: Path, *metrics: str) -> MetricComparison:
    """A comparison in which each metric is worse than the one before."""
    settings = CompareSettings(
        metrics=metrics, tasks=("lenet-digits", "cnn-digits"), keep=(0.5, 0.3),
        budget_kind=("macs",), allocation=("uniform",),
    )  # fmt: skip
    entered = enter(settings, builtin_primitives())
    entries = [
        Measurement(
            metric.name, "uniform", task, "macs", keep, repeat, keep, keep,
            0.1 * number + 0.05 * (1 - keep) + 0.01 * repeat,
        )
        for number, metric in enumerate(entered.metrics)
        for task, keep in itertools.product(settings.tasks, settings.keep)
        for repeat in range(3 if metric.name == "random" else 1)
    ]  # fmt: skip
    return MetricComparison(entered.settings, folder, entered.metrics, tuple(entries))


def test_pictures_name_what_is_compared_and_do_not_change(tmp_path: Path) -> None:
    result = make(tmp_path, "l2", "fpgm", "taylor_bn")
    paths = write_comparison_plots(result)
    assert [path.name for path in paths] == ["errors.png", "errors.svg", "ranks.png", "ranks.svg"]
    first = [path.read_bytes() for path in paths]
    for path in (tmp_path / "errors.svg", tmp_path / "ranks.svg"):
        text = path.read_text()
        assert all(f"{name}" in text for name in ("l2", "fpgm", "taylor_bn", "random", "l1"))
    assert "l2 (1.00)" in (tmp_path / "ranks.svg").read_text()
    write_comparison_plots(result)
    assert [path.read_bytes() for path in paths] == first


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    with pytest.raises(UserError, match=r"pip install 'gp-prune\[compare\]'"):
        find_posthocs()
