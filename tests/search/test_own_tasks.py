"""Searches on networks of a user's own: named by a file, or in the memory of a program."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch
from own_networks import numbers, regression, trained
from PIL import Image
from run_folders import all_files
from torch import nn

from gp_prune import Task, evolve
from gp_prune.apply.own_task import short_names
from gp_prune.errors import UserError
from gp_prune.report.search_progress import progress_display
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.processes import facts
from gp_prune.search.config import SearchConfig
from gp_prune.search.leave_one_out import leave_one_out

NETWORKS = Path(own_networks.__file__)
TINY = SearchConfig(
    granularity="weight", population=4, generations=0, seed=5, ladder=(0.4,), budgets=(0.4,),
    fine_tune_steps=1, final_steps=1, final_seeds=1, front_size=2, size_limit=15, height_limit=5,
    calibration=16, no_start_formulas=True,
)  # fmt: skip


SHUFFLED = """

def shuffled():
    import random
    import numpy
    inputs, target = numbers()
    order = numpy.random.permutation(len(inputs))
    inputs = inputs[order] + 0.01 * random.random() + 0.01 * torch.randn(1)
    return Task(trained(), (inputs, target[order]), kind="regression")
"""
"""A function that draws from the generators of Python, numpy and torch without a seed."""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(NETWORKS, tmp_path / "mine.py"))


def named(file: Path, **settings: Any) -> SearchConfig:
    return replace(TINY, tasks=(f"{file}:regression",), **settings)


def files(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = all_files(folder)
    return found


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(own_file: Path, tmp_path: Path) -> None:
    own_file.write_text(own_file.read_text() + SHUFFLED)
    config = replace(TINY, tasks=(f"{own_file}:shuffled",))
    for workers in (1, 2):
        evolve(config, tmp_path / str(workers) / "run", workers=workers)
    assert files(tmp_path / "1" / "run") == files(tmp_path / "2" / "run")


def test_a_function_gives_the_same_network_and_data_at_every_call(own_file: Path) -> None:
    name, before = f"{own_file}:shuffled", random.getstate()
    own_file.write_text(own_file.read_text() + SHUFFLED)
    one, two = (facts(TaskSource().load(name)) for _ in range(2))
    assert one == two and random.getstate() == before


@pytest.mark.slow
def test_a_worker_with_another_network_ends_the_run(own_file: Path, tmp_path: Path) -> None:
    text = own_file.read_text().replace("torch.manual_seed(0)", "torch.seed()")
    own_file.write_text(text)
    with pytest.raises(UserError, match=r"another network for .*mine\.py:regression.* every call"):
        evolve(named(own_file), tmp_path / "run", workers=2)


def test_a_run_loads_a_task_once(own_file: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    own_file.write_text(
        own_file.read_text() + "\n\ndef counted():\n    from pathlib import Path\n"
        f"    path = Path({str(calls)!r})\n"
        "    path.write_text('x' + (path.read_text() if path.exists() else ''))\n"
        "    return regression()\n"
    )
    evolve(replace(TINY, tasks=(f"{own_file}:counted",)), tmp_path / "run")
    assert calls.read_text() == "x"


def test_a_resumed_run_refuses_other_files_data_and_weights(own_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    evolve(named(own_file), folder)
    text = own_file.read_text()
    own_file.write_text(text + "\n")
    with pytest.raises(UserError, match=r"mine\.py' changed since the run was begun"):
        evolve(None, folder, resume=True, trust=[own_file])
    own_file.write_text(text)
    with pytest.raises(UserError, match=r"runs the code of .*mine\.py.* --trust"):
        evolve(None, folder, resume=True)
    before = files(folder)
    evolve(None, folder, resume=True, trust=[own_file])
    assert files(folder) == before


def held(**changes: Any) -> Task:
    """A task in memory; its network is of a class that no worker can import."""

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = trained()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.steps(inputs)
            return output

    options = {"kind": "regression", "name": "numbers", **changes}
    return Task(Local(), options.pop("data", numbers()), **options)


@pytest.mark.slow
def test_tasks_in_memory_are_searched_by_workers_and_resumed(tmp_path: Path) -> None:
    for workers in (1, 2):
        folder = tmp_path / str(workers) / "run"
        evolve(TINY, folder, tasks=[held(error=lambda o, t: (o - t).abs().mean())], workers=workers)
    one, two = (files(tmp_path / str(workers) / "run") for workers in (1, 2))
    assert one == two
    folder = tmp_path / "1" / "run"
    error = held(error=lambda output, target: (output - target).abs().mean())
    evolve(None, folder, tasks=[error], resume=True)
    evolve(TINY, folder, tasks=[error], resume=True)
    assert files(folder) == one
    with pytest.raises(UserError, match="the data of task 'numbers' changed since the run"):
        evolve(None, folder, tasks=[held(data=numbers(100))], resume=True)
    other = held()
    with torch.no_grad():
        other.model.steps[0].weight.mul_(2)  # type: ignore[index, union-attr]
    with pytest.raises(UserError, match="the network of task 'numbers' changed since the run"):
        evolve(None, folder, tasks=[other], resume=True)
    with pytest.raises(UserError, match="was begun with the tasks numbers, not lenet-digits"):
        evolve(None, folder, tasks=["lenet-digits"], resume=True)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([7], "tasks holds a value of type int"),
        (["lenet"], "unknown task 'lenet'"),
        (["mine.py"], "names no function; write mine.py:FUNCTION"),
        ([held(), held()], "two tasks are called 'numbers'"),
        ([held(name="cnn-digits")], "is called 'cnn-digits', as a built-in one"),
    ],
)
def test_other_things_are_no_tasks(tmp_path: Path, tasks: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evolve(TINY, tmp_path / "run", tasks=tasks)
    assert not (tmp_path / "run").exists()


def test_a_network_without_data_gets_images(own_file: Path, tmp_path: Path) -> None:
    colours = torch.arange(0, 240, 5).tolist()
    for number, grey in enumerate(colours):
        folder = tmp_path / "images" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), grey).save(folder / f"{number}.png")
    source = TaskSource()
    name = f"{own_file}:convolutional"
    with pytest.raises(UserError, match="brings no data to try formulas on"):
        source.load(name)
    config = replace(TINY, tasks=(name,), data=str(tmp_path / "images"))
    task = replace(source, options=config.task_options).load(name)
    assert (task.name, task.kind, len(task.train)) == (name, "classification", 28)
    with pytest.raises(UserError, match=r"it must give a torch\.nn\.Module, a tuple"):
        source.load(f"{own_file}:number")


def test_data_that_no_network_uses_is_refused(own_file: Path, tmp_path: Path) -> None:
    config = named(own_file, data="digits")
    with pytest.raises(UserError, match=r"--most are for .*mine\.py:regression gives a task"):
        evolve(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_odd_with_a_task_is_said(
    own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_file.write_text(
        own_file.read_text() + "\n\ndef odd():\n    task = regression()\n"
        "    task.remarks += ('It is odd.',)\n    return task\n"
    )
    with progress_display(quiet=True) as show:
        evolve(replace(TINY, tasks=(f"{own_file}:odd",)), tmp_path / "run", progress=show)
    assert capsys.readouterr().err.splitlines()[-1:] == [
        "gp-prune: remark: mine.py:odd: It is odd."
    ]


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"operands": ("nonsense",)}, "operand 'nonsense' is unknown"),
        ({"exclude": ("nonsense",)}, "excluded 'nonsense' is unknown"),
        ({"start_formulas": ("abs(b)",)}, "this search is for formulas of axes"),
    ],
)
def test_a_wrong_vocabulary_leaves_no_folder(
    tmp_path: Path, settings: dict[str, Any], words: str, leave_out: bool
) -> None:
    config = replace(TINY, tasks=("lenet-digits", "cnn-digits"), **settings)
    with pytest.raises(UserError, match=words):
        (leave_one_out if leave_out else evolve)(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_equal_names_of_files_get_numbers_and_no_folders() -> None:
    names = ("/a/m.py:f", "/b/m.py:f", "resnet20-cifar10:/home/w.th")
    assert [*short_names(names).values()] == ["m.py:f", "m.py:f (2)", "resnet20-cifar10:w.th"]


def test_a_refused_change_leaves_the_settings_as_they_were(tmp_path: Path) -> None:
    config = replace(TINY, tasks=("lenet-digits", "cnn-digits"), leave_one_out=True)
    (tmp_path / CONFIG).write_text(config.to_toml())
    with pytest.raises(UserError, match="but population would change"):
        leave_one_out(None, tmp_path, resume=True, changes={"population": 80})
    assert SearchConfig.from_toml(tmp_path / CONFIG) == config


def test_a_worker_runs_no_other_file_than_the_main_process(own_file: Path) -> None:
    source = TaskSource(code=((str(own_file), "sha256:0"),))
    with pytest.raises(UserError, match=r"a worker has .*mine\.py"):
        source.load(f"{own_file}:regression")
    assert regression().digest == TaskSource().load(f"{own_file}:regression").digest


def test_the_journal_holds_the_digests(own_file: Path, tmp_path: Path) -> None:
    evolve(named(own_file), tmp_path / "run")
    first = (tmp_path / "run" / JOURNAL).read_text().splitlines()[0]
    assert f'"samples":{{"{own_file}:regression":"sha256:' in first.replace(": ", ":")
    assert '"mine.py sha256:' in first
