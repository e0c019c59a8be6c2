"""The report of a pruned network as text."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.apply.prune import prune
from gp_prune.apply.tuning import Quality
from gp_prune.report.console import make_console
from gp_prune.report.pruning import print_pruning
from gp_prune.training import Epoch, FineTuning, History


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The report of a small pruned network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )
    return prune(model, "l1", torch.zeros(1, 5), keep_channels=0.5).report(model="mine")


def printed_pruning(report: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_pruning(make_console(stream), report)
    return stream.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of lines with at least two blanks between the cells."""
    cells = [line.strip().split("  ") for line in text.splitlines()]
    parts = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    return {line[0]: line[1:] for line in parts if line}


def quality(**changes: Any) -> dict[str, Any]:
    values = {"kind": "error", "split": "test", "data": "digits", "samples": 360, "dense": 0.011,
              "pruned": 0.872, **changes}  # fmt: skip
    return Quality(**values).to_json()


def test_what_was_not_measured_is_not_printed(plain: dict[str, Any]) -> None:
    text = printed_pruning(plain)
    assert "latency" not in text and "samples of" not in text and "step" not in text
    assert "fine-tuning" not in text
    for key in ("latency", "quality", "steps"):  # as in a report of an earlier version
        older = {name: value for name, value in plain.items() if name != key}
        assert printed_pruning(older) == text


def test_quality_of_every_state(plain: dict[str, Any]) -> None:
    history = History(0.7, tuple(Epoch(n, 0.01, 1.0, 0.2) for n in (1, 2, 3)), 2, True)
    how = FineTuning(epochs=9, distill=0.5)
    report = {
        **plain,
        "quality": quality(recalibrated=0.742, tuned=0.1, settings=how, history=history),
    }
    cells = rows(printed_pruning(report))
    assert cells["on 360 test samples of digits"] == ["error"]
    assert cells["before pruning"] == ["1.1 %"]
    assert cells["after pruning"] == ["87.2 %"]
    assert cells["after recalibration"] == ["74.2 %"]
    assert cells["after fine-tuning"] == ["10.0 %"]
    assert cells["fine-tuning"] == [
        "3 of 9 epochs, ended early; sgd, learning rate 0.01, 50.0 % distilled; kept the state "
        "after epoch 2"
    ]


def test_one_of_a_kind_and_heads(plain: dict[str, Any]) -> None:
    history = History(0.7, (Epoch(1, 0.01, 1.0, 0.2),), 1, False)
    told = quality(samples=1, tuned=0.1, settings=FineTuning(epochs=1), history=history)
    report = copy.deepcopy({**plain, "quality": told})
    report["layers"][1]["unit"] = "heads"
    cells = rows(printed_pruning(report))
    assert "on 1 test sample of digits" in cells
    assert cells["fine-tuning"][0].startswith("1 of 1 epoch; ")
    assert "2 (heads)" in cells and "0" in cells


def test_remarks_stand_below_the_totals(plain: dict[str, Any]) -> None:
    report = {**plain, "remarks": ["Something is hollow.", "Something is missed."]}
    assert printed_pruning(report).splitlines()[-2:] == report["remarks"]


def test_quality_of_an_autoencoder_without_tuning(plain: dict[str, Any]) -> None:
    report = {**plain, "quality": quality(kind="mse", split="validation", pruned=float("inf"))}
    cells = rows(printed_pruning(report))
    assert cells["on 360 validation samples of digits"] == ["mean squared error"]
    assert cells["before pruning"] == ["0.011"]
    assert cells["after pruning"] == ["not finite"]
    assert "after recalibration" not in cells and "after fine-tuning" not in cells


def test_latency(plain: dict[str, Any]) -> None:
    time = {"median_s": 0.01234, "lower_s": 0.0121, "upper_s": 1.5, "repeats": 31, "batch": 2,
            "threads": 4, "device": "cpu"}  # fmt: skip
    report = copy.deepcopy(plain)
    report["latency"] = {
        "before": time,
        "after": {**time, "median_s": 0.001},
        "share": {"median": 0.62, "lower": 0.6, "upper": 0.65},
    }
    report["achieved"]["latency"] = 0.62
    report["asked"] = {"kind": "latency", "keep": 0.6}
    text = printed_pruning(report)
    cells = rows(text)
    assert cells["before pruning"] == ["12.3", "12.1 to 1500", "2", "4", "cpu", "31"]
    assert cells["after pruning"] == ["1.00", "12.1 to 1500", "2", "4", "cpu", "31"]
    assert cells["asked"] == ["keep 60.0 % of the latency"]
    assert cells["achieved"][0].startswith(
        "62.0 % of the latency (quartiles 60.0 % to 65.0 %), "
    )  # fmt: skip


def test_steps(plain: dict[str, Any]) -> None:
    step = {"asked": 0.7, "channels": 0.714, "weights": None, "macs": 0.6, "params": 0.62}
    report = {**plain, "steps": [step, {**step, "asked": 0.5, "channels": 0.5}]}
    cells = rows(printed_pruning(report))
    assert cells["step"] == ["channels asked", "channels", "MACs", "parameters"]
    assert cells["1"] == ["70.0 %", "71.4 %", "60.0 %", "62.0 %"]
    assert cells["2"] == ["50.0 %", "50.0 %", "60.0 %", "62.0 %"]
