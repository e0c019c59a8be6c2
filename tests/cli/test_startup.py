"""How the program starts, fails and ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

import gp_prune
from gp_prune.cli import COMMANDS, CommandGroup, LazyCommand
from gp_prune.errors import UserError
from gp_prune.report.text import print_json
from gp_prune.search.config import SearchConfig
from gp_prune.tasks import load_task

Run = Callable[..., Result]

HEAVY = {"torch", "torchvision", "deap", "sklearn"}


def python(
    code: str, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=environment
    )


READING = [
    ["list", "--html"],
    ["list", "--facts"],
    ["latex", "--standalone", "lamp"],
    ["apply", "unknown", "lenet-digits"],
]

READ = """
import json, sys
from gp_prune.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit:
        print(json.dumps([arguments, *sys.modules]), file=sys.stderr)
"""


def test_what_needs_more_than_formulas_loads_no_torch() -> None:
    """One after the other in one process, which would keep what one of them loads."""
    done = python(READ, json.dumps(READING))
    lines = [json.loads(x) for x in done.stderr.splitlines() if x.startswith("[[")]
    assert [arguments for arguments, *_ in lines] == READING
    for arguments, *loaded in lines:
        assert "gp_prune.cli" in loaded
        assert not HEAVY.intersection(loaded), arguments


CLICK, TABLES = {"click", "colorama"}, {"markdown_it", "mdurl", "pygments", "rich"}
FORMULAS = {"gmpy2", "mpmath", "sympy"}
ALLOWED: dict[frozenset[str], list[list[str]]] = {
    frozenset(CLICK): [
        ["--help"],
        ["--version"],
        ["unknown"],
        ["list", "--markdown", "--json"],
        *([command, "--help"] for command in COMMANDS),
        ["list", "--json"],
        ["show", "taylor_bn", "--json"],
    ],
    frozenset(CLICK | TABLES): [["list"], ["show", "taylor_bn"], ["show", "flap"]],
    frozenset(CLICK | FORMULAS): [
        ["list", "--markdown"],
        ["list", "--operators", "--json"],
        ["latex", "l1"],
    ],
    # Simplification tries formulas on numbers.
    frozenset({*CLICK, *FORMULAS, "numpy"}): [
        ["latex", "--simplify", "lamp"],
        ["show", "sum[i,k](abs(W))", "--json"],
    ],
    frozenset({*CLICK, *FORMULAS, *TABLES, "numpy"}): [
        ["list", "--operators"],
        ["show", "abs(gamma)"],
    ],
}
"""Packages, beside Python's own and this one, that commands may load."""


@pytest.mark.parametrize("allowed", ALLOWED, ids=lambda allowed: "-".join(sorted(allowed)))
def test_commands_load_what_they_need_and_no_more(allowed: frozenset[str]) -> None:
    """One after the other in one process, which would keep what one of them loads."""
    nothing = python("import sys, json; print(*sys.modules)").stdout.split()
    done = python(READ, json.dumps(ALLOWED[allowed]))
    lines = [json.loads(x) for x in done.stderr.splitlines() if x.startswith("[[")]
    assert [arguments for arguments, *_ in lines] == ALLOWED[allowed]
    for arguments, *loaded in lines:
        packages = {name.partition(".")[0] for name in set(loaded) - set(nothing)}
        more = packages - sys.stdlib_module_names - allowed - {"gp_prune", "__mp_main__"}
        assert not more, arguments


def test_workers_that_evaluate_load_no_sympy() -> None:
    """Formulas are scored by the main process."""
    done = python("import gp_prune.search.evaluation, sys; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert {"torch", "gp_prune.statistics.measure"} <= loaded
    assert "sympy" not in loaded


PREPARED = """
import sys
from gp_prune import SearchConfig, TaskSource
from gp_prune.search import run
from gp_prune.search.scorer import TaskScorer
source = TaskSource(cache_dir=sys.argv[1])
benches = [TaskScorer(source.load(name), 64, 0) for name in SearchConfig().tasks]
print(*sys.modules)
"""


@pytest.mark.slow
def test_preparing_a_search_loads_no_compiler(task_cache: Path) -> None:
    """torch imports its compiler for much that needs none, and scikit-learn all of scipy."""
    for name in SearchConfig().tasks:
        load_task(name, cache_dir=task_cache)  # where training is needed, here
    done = python(PREPARED, str(task_cache))
    assert not {"sklearn", "scipy", "torch._dynamo"} & set(done.stdout.split()), done.stderr


FIRST = """
import os, sys, time
from gp_prune.search.evaluation import Evaluation
def first(self, workbench):
    print(time.process_time(), flush=True)
    os._exit(0)
Evaluation.run = first
from gp_prune.cli import main
main(sys.argv[1:])
"""
TIMED = """
import sys, time
from gp_prune.cli import main
try:
    main(sys.argv[1:])
finally:
    print(time.process_time())
"""
SYMPY = "import sympy, time; print(time.process_time())"


@pytest.mark.slow
def test_start_up_is_quick(task_cache: Path, tmp_path: Path) -> None:
    """Processor time beside that of importing sympy, the least of a few: machines differ.

    Both with compiled modules, as after the first start of an installed program.
    """
    compiled = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    compiled.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in SearchConfig().tasks:
        load_task(name, cache_dir=task_cache)
    places = ["--cache-dir", str(task_cache), "--workers", "1", "--quiet", "--out"]
    latex, listed, sympy = list[float](), list[float](), list[float]()
    for _ in range(5):
        for times, arguments in ((latex, ["latex", "l1"]), (listed, ["list"])):
            done = python(TIMED, *arguments, environment=compiled)
            times.append(float(done.stdout.split()[-1]))
        sympy.append(float(python(SYMPY, environment=compiled).stdout))
    evolve = [
        python(FIRST, "evolve", *places, str(tmp_path / str(n)), environment=compiled)
        for n in range(3)
    ]
    assert min(latex) < 1.5 * min(sympy)
    assert min(listed) < 0.6 * min(sympy)
    # Torch takes four times the import of sympy; networks are measured as formulas ask for it.
    assert min(float(done.stdout.split()[-1]) for done in evolve) < 12 * min(sympy)


def test_importing_the_package_loads_nothing() -> None:
    done = python("import gp_prune, sys; print(*sys.modules); print(*dir(gp_prune))")
    modules, names = (set(line.split()) for line in done.stdout.splitlines())
    assert not modules & (HEAVY | {"sympy", "numpy", "click", "rich"})
    assert set(gp_prune.__all__) <= names


@pytest.mark.parametrize("package", [gp_prune], ids=lambda p: p.__name__)
def test_public_names(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__name__.rpartition(".")[2] == name
    assert {"AutoencodeSettings", "GeneticPruner", "GeneticSettings"} <= set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_every_command_that_runs_has_its_function() -> None:
    assert callable(gp_prune.evolve)
    assert callable(gp_prune.autoencode)
    assert callable(gp_prune.GeneticPruner().prune)


def test_every_command_is_there(run: Run) -> None:
    text = run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name}" in text
        assert run(name, "--help").exit_code == 0
    assert run().stdout == text


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"gp-prune {gp_prune.__version__}\n"


def test_unknown_command(run: Run) -> None:
    for name, words in (("aply", "no command 'aply', did you mean 'apply'?"), ("xyz", "'xyz'")):
        result = run(name)
        assert result.exit_code == 2
        assert result.stderr.startswith("gp-prune: error: ")
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def fail_with(error: BaseException) -> Result:
    """What the group does when a command raises ``error``."""
    group = CommandGroup("probe", lazy={"fail": LazyCommand("nowhere:fail", "Fails.")})

    @click.command()
    def fail() -> None:
        raise error

    group.get_command = lambda ctx, cmd_name: fail  # type: ignore[method-assign]
    return CliRunner().invoke(group, ["fail"])


def test_errors_have_one_form() -> None:
    result = fail_with(UserError("this is\n  wrong"))
    assert (result.exit_code, result.stderr) == (2, "gp-prune: error: this is wrong\n")
    result = fail_with(click.UsageError("that is wrong."))
    assert result.exit_code == 2
    assert result.stderr == "gp-prune: error: that is wrong; see 'probe fail --help'\n"
    result = fail_with(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr.strip() == "gp-prune: interrupted"


def test_faults_of_the_program_keep_their_traceback() -> None:
    assert isinstance(fail_with(ZeroDivisionError()).exception, ZeroDivisionError)


def test_warnings_are_one_line() -> None:
    group = CommandGroup("probe", lazy={"warn": LazyCommand("nowhere:warn", "Warns.")})

    @click.command()
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn("take\ncare", stacklevel=1)

    group.get_command = lambda ctx, cmd_name: warn  # type: ignore[method-assign]
    before = warnings.showwarning
    result = CliRunner().invoke(group, ["warn"])
    assert result.stderr == "gp-prune: warning: take care\n"
    assert warnings.showwarning is before


def test_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "gp_prune", "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_interrupt_is_one_line() -> None:
    code = (
        "import os, signal\nfrom gp_prune.cli import main\n"
        # A shell starts jobs in the background with interrupts ignored, and that is inherited.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import gp_prune.cli.metric_facts\n"
        "gp_prune.cli.metric_facts.bundled_metrics = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
        "main(['show', 'l1'])\n"
    )
    done = python(code)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.split() == ["gp-prune:", "interrupted"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_json_loses_no_character_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", stdout)
    print_json({"name": "\u2264 \xe9"})
    stdout.flush()
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"name": "\u2264 \xe9"}
    assert ("\u2264" in text) is (encoding == "utf-8")
