"""Metrics and networks whose names steer a terminal: nothing of it reaches one raw."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gp_prune import Metric

Run = Callable[..., Result]

HOSTILE = "\x1b[31m\u202eevil\x9b2J\x07"


def check(text: str) -> None:
    """Check that nothing but line ends is a control or an invisible character."""
    raw = [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
    assert not raw


@pytest.fixture
def metric(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    data: dict[str, Any] = Metric.load("l1").to_json()
    data["objectives"] = {HOSTILE: {HOSTILE: 0.5, "x": HOSTILE}}
    data["provenance"] = {HOSTILE: [HOSTILE], "run": HOSTILE}
    path.write_text(json.dumps(data))
    return path


def test_objectives_and_provenance(run: Run, metric: Path) -> None:
    shown = run("show", metric)
    assert shown.exit_code == 0
    check(shown.output)
    assert "\\x1b[31m\\u202eevil\\x9b2J" in "".join(shown.output.split())
    as_json = run("show", metric, "--json")
    check(as_json.output)
    assert json.loads(as_json.stdout)["provenance"]["run"] == HOSTILE
    for options in (("--table",), ("--standalone", "--table")):
        document = run("latex", *options, metric)
        assert document.exit_code == 0
        check(document.output)
        assert "\\x1b" not in document.output, "no command of LaTeX"


def test_errors_and_file_names(run: Run, tmp_path: Path) -> None:
    for arguments in (
        ("show", HOSTILE), ("show", f"{tmp_path}/{HOSTILE}.json"), ("apply", "l1", HOSTILE),
        (HOSTILE,), ("apply", "l1", "lenet-digits", "--mode", HOSTILE),
        ("show", "l1", "--primitives", HOSTILE), ("evolve", "--config", HOSTILE),
    ):  # fmt: skip
        result = run(*arguments)
        assert result.exit_code == 2
        check(result.output)


MODEL = """
import torch
from torch import nn

def build():
    model = nn.Sequential()
    model.add_module({first!r}, nn.Linear(4, 6))
    model.add_module("relu", nn.ReLU())
    model.add_module("last", nn.Linear(6, 2))
    return model, torch.randn(2, 4)
"""


def test_names_of_layers(run: Run, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL.format(first=HOSTILE))
    spec = f"{tmp_path}/net.py:build"
    for options in (
        ("--out", tmp_path / "out"), ("--json",), ("--ignore", HOSTILE),
        ("--ignore", "none"), ("--plot", tmp_path / "cut.svg"),
    ):  # fmt: skip
        result = run("apply", "l1", spec, *options)
        assert result.exit_code in (0, 2), result.output
        check(result.output)
    report = (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    check(report)
    assert HOSTILE in [row["layer"] for row in json.loads(report)["layers"]]
    check((tmp_path / "cut.svg").read_text(encoding="utf-8"))
