"""Functions of users' files that give no network, or one that cannot be pruned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

MODELS = """
import threading, torch
from torch import nn

def raises():
    raise KeyError("oh")

def junk():
    return {"a": 1}

def triple():
    return nn.Linear(2, 2), torch.zeros(1, 2), 3

def inputs():
    return nn.Linear(2, 2), "abc"

def meta():
    return nn.Linear(2, 2, device="meta"), torch.zeros(1, 2)

def lock():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.lock = threading.Lock()
    return model, torch.zeros(1, 2)

def scripted():
    return torch.jit.script(nn.Linear(2, 2)), torch.zeros(1, 2)

def lazy():
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), torch.zeros(1, 2)
"""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "function 'raises' of "),
        ("junk", "junk' gives a value of type dict; it must give"),
        ("triple", "triple' gives a value of type tuple; it must give a torch.nn.Module, a tuple"),
        ("inputs", "inputs' gives example inputs without a tensor ('abc')"),
        ("meta", "meta' has no weights: 'weight' is on the meta device"),
        ("lock", "cannot be copied (in 'lock')"),
        ("scripted", "scripted' is a TorchScript module"),
        ("lazy", "the network has no weights yet: '0.weight' of a lazy module"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
def test_functions_of_models_that_give_something_else(
    run: Callable[..., Result], tmp_path: Path, function: str, words: str
) -> None:
    (tmp_path / "own.py").write_text(MODELS)
    result = run("apply", "l1", f"{tmp_path}/own.py:{function}")
    assert result.exit_code == 2 and result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if ": error:" in line]
    assert len(lines) == 1 and words in lines[0], result.stderr


TASK = """
import torch
from torch import nn

from gp_prune import Task


def build():
    inputs = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    return Task(model, (inputs, inputs[:, :1]), kind="regression", name="numbers")


def network():
    return build().model, torch.zeros(1, 6)
"""


def test_a_task_of_a_file_brings_its_data_and_a_network_does_not(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(TASK)
    result = run("apply", "activation_variance", f"{file}:build", "--keep-macs", "0.5")
    assert result.exit_code == 0, result.output
    assert "as the task of build() has it" in " ".join(result.stdout.split())
    result = run("apply", "activation_variance", f"{file}:network", "--keep-macs", "0.5")
    assert result.exit_code == 2 and "give calibration data with --data" in result.stderr
