"""Completion in a shell: metrics, tasks, options and commands, without importing torch or sympy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class

from gp_prune.autoencoder.data import DATA_NAMES
from gp_prune.base import names
from gp_prune.cli import COMMANDS, completion, main
from gp_prune.errors import UserError
from gp_prune.metric.metric import bundled_metrics
from gp_prune.tasks import TASK_NAMES, is_task_name
from gp_prune.tasks.language_models import LANGUAGE_MODELS
from gp_prune.tasks.models import MODELS


def complete(line: str) -> list[str]:
    """What a shell offers for the last word of a line."""
    kind = get_completion_class("bash")
    assert kind is not None
    *arguments, last = line.split(" ")
    found = kind(main, {}, "gp-prune", "_GP_PRUNE_COMPLETE").get_completions(arguments, last)
    return [f"<{item.type}>" if item.type != "plain" else str(item.value) for item in found]


def test_the_names_that_are_completed_are_those_of_the_engine() -> None:
    assert tuple(MODELS) == names.IMAGE_MODELS
    assert tuple(LANGUAGE_MODELS) == names.LANGUAGE_MODELS
    assert all(map(is_task_name, (*TASK_NAMES, *names.TEXT_TASKS, *names.WEIGHTS_TASKS)))
    assert set(complete("autoencode --data ")) == set(DATA_NAMES)


@pytest.mark.parametrize("command", ["show", "latex l1", "apply", "compare", "evaluate"])
def test_metrics_are_completed(command: str) -> None:
    assert complete(f"{command} ") == [*bundled_metrics()]
    assert complete(f"{command} taylor_b") == ["taylor_bn"]
    assert complete(f"{command} runs/") == ["<file>"]


@pytest.mark.parametrize(
    "command",
    ["evolve", "evolve cnn-digits", "genetic", "apply l1", "evaluate l1 --on", "compare --on",
     "evolve --tasks"],
)  # fmt: skip
def test_tasks_are_completed(command: str) -> None:
    assert set(TASK_NAMES) <= set(complete(f"{command} "))
    assert complete(f"{command} lenet-d") == ["lenet-digits"]
    assert complete(f"{command} my_model.p") == ["<file>"]


def test_further_names_are_completed() -> None:
    assert complete("evolve --tasks lenet-digits,l")[:2] == [
        "lenet-digits,lenet-mnist", "lenet-digits,lenet-fashionmnist"
    ]  # fmt: skip
    assert complete("evolve --validate-on no") == ["none"]
    assert complete("genetic --mutation random") == ["random", "random_weight"]
    assert complete("autoencode --operator con")[0] == "conjunctive"
    assert complete("evolve --data dig") == ["digits"]
    assert complete("evolve --gran") == ["--granularity"]
    assert complete("") == [*COMMANDS]
    assert complete("completion f") == ["fish"]
    assert complete("evolve --device c") == ["cpu", "cuda"]


def test_a_script_is_printed_for_each_shell(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        if shell == "bash" and not shutil.which("bash"):
            continue
        main(["completion", shell], standalone_mode=False)
        assert f"_GP_PRUNE_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_a_shell_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(shell: object) -> str:
        raise RuntimeError("Couldn't detect Bash version")

    kind = get_completion_class("bash")
    monkeypatch.setattr(kind, "source", fail)
    with pytest.raises(UserError, match="bash cannot be completed here"):
        main(["completion", "bash"], standalone_mode=False)


TRACE = """
import json, os, sys
from gp_prune.cli import main
for words in json.loads(sys.argv[1]):
    os.environ.update(COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    try:
        main([], prog_name="gp-prune")
    except SystemExit:
        print(json.dumps([words, *sys.modules]), file=sys.stderr)
"""

COMPLETED = [
    ["gp-prune", "evolve", "--tasks", "lenet-digits,lenet-"],
    ["gp-prune", "apply", "l1", "lenet-"],
    *(["gp-prune", command, ""] for command in COMMANDS),
    *(["gp-prune", command, "--"] for command in COMMANDS),
]


def test_completion_loads_neither_torch_nor_sympy_nor_what_tables_need() -> None:
    """One after the other in one process, which would keep what one of them loads."""
    done = subprocess.run(
        [sys.executable, "-c", TRACE, json.dumps(COMPLETED)], capture_output=True, text=True,
        check=False, timeout=600, env={**os.environ, "_GP_PRUNE_COMPLETE": "bash_complete"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"plain,lenet-digits", "plain,taylor_bn", "plain,--keep-macs"} <= {*done.stdout.split()}
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [words for words, *_ in lines] == COMPLETED
    for words, *loaded in lines:
        assert "gp_prune.cli" in loaded
        assert not {"torch", "sympy", "numpy", "pandas", "sklearn", "rich"} & {*loaded}, words


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "gp-prune"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gp_prune "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(gp-prune completion bash)"; COMP_WORDS=(gp-prune show taylor_b); COMP_CWORD=2; '
        '_gp_prune_completion gp-prune; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, timeout=600,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout == "taylor_bn\n"


def test_every_completer_has_files_where_no_name_fits() -> None:
    context, parameter = click.Context(main), click.Option(["--x"])
    for name in ("metrics", "mutations", "pruning_operators", "tasks", "judging_tasks",
                 "data_sets", "autoencoder_data"):  # fmt: skip
        (item,) = getattr(completion, name)(context, parameter, "no/such")
        assert item.type == "file"
