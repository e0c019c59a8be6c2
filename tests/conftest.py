"""What holds for every test."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from gp_prune.apply.blocks import Chain
from gp_prune.language.axes import CHANNEL, Axes
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Interpreter, evaluate
from gp_prune.language.record import NEEDS, LayerRecord, synthetic_layer

# One thread per test process: the processes of pytest-xdist share the cores, and sums then have
# one order. The variable is for the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("COLUMNS", None)  # tables have the width that a pipe has, whoever runs the tests

# No deadline, because the time of one example depends on what else the machine does.
settings.register_profile("gp-prune", deadline=None, print_blob=True)
settings.load_profile("gp-prune")

SMOKE = {
    "language/test_axes.py",
    "language/test_parser.py",
    "metric/test_file.py",
    "pruning/test_surgery.py",
    "search/test_archive.py",
    "docs/test_pages.py",
}
"""Test files, below tests/, that `pytest -m smoke` runs."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the other files unread for a first answer: importing all of them takes longest."""
    name = collection_path.relative_to(Path(__file__).resolve().parent).as_posix()
    other = collection_path.name.startswith("test_") and name not in SMOKE
    return True if config.option.markexpr == "smoke" and other else None


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a first answer."""
    folder = Path(__file__).resolve().parent
    for item in items:
        listed = item.path.relative_to(folder).as_posix() in SMOKE
        if listed and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.smoke)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test under `@pytest.mark.many(few, all)` with few examples, and slow with all."""
    if marker := metafunc.definition.get_closest_marker("many"):
        few, every = marker.args
        metafunc.parametrize("many", [few, pytest.param(every, marks=pytest.mark.slow)])


@pytest.fixture(scope="session")
def task_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `load_task(..., cache_dir=task_cache)`: each task is trained once per run."""
    base = tmp_path_factory.getbasetemp()
    # Every process of pytest-xdist has a folder of its own; what is above it belongs to the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return shared / "task-cache"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file of tokens below 40: 60 sequences of 16, each with the token that follows."""
    file = tmp_path / "tokens.npy"
    np.save(file, np.random.default_rng(0).integers(0, 40, 17 * 60))
    return file


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each chain of blocks that was begun runs its blocks by themselves."""
    found: list[bool] = []
    begin = Chain.begin

    def noted(chain: Chain, batches: Any) -> bool:
        found.append(begin(chain, batches))
        return found[-1]

    monkeypatch.setattr(Chain, "begin", noted)
    return found


@pytest.fixture(scope="session")
def started() -> Callable[..., subprocess.Popen[str]]:
    """`started("evolve", "--quiet")`: the program in a process of its own, which hears Ctrl-C.

    With `pause_at`, the process has paused (by SIGSTOP) as soon as its journal was longer than so
    many bytes, and goes on at SIGCONT. Other keywords are for `subprocess.Popen`.
    """
    # A shell without job control starts what runs in the background, and all that this starts,
    # deaf to SIGINT.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from gp_prune.cli import main; main(sys.argv[1:])"
    )
    pausing = """
import os, signal
from gp_prune.runs import journal
write = journal._write_all
def write_and_pause(file, line):
    write(file, line)
    if os.fstat(file.fileno()).st_size > {pause_at}:
        journal._write_all = write
        os.kill(os.getpid(), signal.SIGSTOP)
journal._write_all = write_and_pause
"""

    def start(
        *arguments: object, pause_at: int | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        first = "" if pause_at is None else pausing.format(pause_at=pause_at)
        process = subprocess.Popen(
            [sys.executable, "-c", first + code, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        if pause_at is not None:
            seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if seen is None or seen.si_code != os.CLD_STOPPED:
                raise AssertionError(f"it ended before it paused: {process.communicate()}")
        return process

    return start


@pytest.fixture(scope="session")
def children() -> Callable[[int], list[int]]:
    """`children(process)`: the processes that a process has started."""

    def find(process: int) -> list[int]:
        running = [int(f.name) for f in Path("/proc").iterdir() if f.name.isdecimal()]
        # After the name, which may hold anything, come the state and the parent.
        parents = {p: _of_process(p, "stat").rpartition(b")")[2].split()[1:2] for p in running}
        return [p for p, parent in parents.items() if parent == [b"%d" % process]]

    return find


@pytest.fixture
def kill_a_worker(children: Callable[[int], list[int]]) -> Callable[[], int]:
    """`kill_a_worker()`: ends one worker process of this process by SIGKILL; its number."""

    def kill() -> int:
        started = children(os.getpid())
        found = [p for p in started if b"runs.processes" in _of_process(p, "cmdline")]
        assert found, "no worker process to kill"
        os.kill(found[0], signal.SIGKILL)
        return found[0]

    return kill


def _of_process(process: int, file: str) -> bytes:
    """What the system tells of a process; nothing of one that has ended meanwhile."""
    try:
        return Path(f"/proc/{process}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture(scope="session")
def random_trees() -> Callable[..., list[Expression]]:
    """`random_trees(axes, count, seed)`: trees of a type over all searchable operands."""
    from gp_prune.language.primitive import builtin_primitives
    from gp_prune.search.grammar import Grammar
    from gp_prune.search.random_trees import Generator

    grammars: dict[Axes, Grammar] = {}

    def make(
        axes: Axes, count: int, seed: int = 0, least: int = 1, most: int = 6
    ) -> list[Expression]:
        if axes not in grammars:
            grammars[axes] = Grammar(builtin_primitives(), axes, NEEDS)
        generator = Generator(grammars[axes], random.Random(seed))
        trees = (generator.individual(least, most) for _ in range(count))
        return [grammars[axes].to_expression(tree) for tree in trees]

    return make


@pytest.fixture(scope="session")
def tree_types() -> tuple[Axes, ...]:
    """Every type that a tree over the built-in operands can have."""
    from gp_prune.language.primitive import builtin_primitives
    from gp_prune.search.grammar import Grammar

    return Grammar(builtin_primitives(), CHANNEL, NEEDS).types


class NoisyInterpreter(Interpreter):
    """Changes every value on the way by about 1e-10 of its size, like a coarse rounding."""

    def __init__(self, layer: LayerRecord, seed: int) -> None:
        super().__init__(layer)
        self.generator = torch.Generator().manual_seed(seed)
        self.leaves: dict[Expression, torch.Tensor] = {}

    def _noisy(self, value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=self.generator, dtype=torch.float64)
        return value * (1 + 1e-10 * noise)

    def _leaf(self, node: Expression) -> torch.Tensor:
        if node not in self.leaves:
            self.leaves[node] = self._noisy(super()._leaf(node))
        return self.leaves[node]

    def _apply(self, node: Expression, values: list[torch.Tensor]) -> torch.Tensor:
        return self._noisy(super()._apply(node, values))


class FlushingInterpreter(Interpreter):
    """Takes what is tiny beside its arguments for 0, which it may be with another rounding."""

    def _apply(self, node: Expression, values: list[torch.Tensor]) -> torch.Tensor:
        result = super()._apply(node, values)
        largest = max(float(value.abs().max()) for value in values)
        return result.where(result.abs() > 1e-13 * largest, 0.0)


@pytest.fixture(scope="session")
def noise_of() -> Callable[[Expression, LayerRecord], torch.Tensor]:
    """How far each value of a tree moves, at most, when its steps move by about 1e-10."""

    def noise_of(tree: Expression, layer: LayerRecord) -> torch.Tensor:
        value = evaluate(tree, layer)
        moved = [NoisyInterpreter(layer, seed).evaluate(tree) for seed in range(4)]
        return torch.stack([(other - value).abs() for other in moved]).amax(0)

    return noise_of


@pytest.fixture(scope="session")
def hangs_on_rounding(
    differ: Callable[[Any, Any, float], bool],
) -> Callable[[Expression], bool]:
    """Whether torch's own value of a tree moves by over 1e-5 when steps move by 1e-10 or vanish.

    So it does where a formula divides by what is left after a cancellation, or compares numbers
    that are equal but for rounding. Such a tree has no value to which another could be compared.
    """

    def hangs(tree: Expression) -> bool:
        value = evaluate(tree, synthetic_layer())
        changed = [NoisyInterpreter(synthetic_layer(), seed) for seed in range(4)]
        others = (one.evaluate(tree) for one in (*changed, FlushingInterpreter(synthetic_layer())))
        return any(differ(value, other, 1e-5) for other in others)

    return hangs


@pytest.fixture(scope="session")
def differ() -> Callable[[Any, Any, float], bool]:
    """`differ(a, b, rtol)`: whether two arrays differ by more than rtol, or in what is finite."""

    def differ(a: Any, b: Any, rtol: float) -> bool:
        a, b = np.asarray(a), np.asarray(b)
        finite = np.isfinite(a)
        if a.shape != b.shape or not np.array_equal(finite, np.isfinite(b)):
            return True
        a, b = a[finite], b[finite]
        if not a.size:
            return False
        # What is left of rounding numbers near 1 is no number: variances of 1e-28 and the like.
        return bool((np.abs(a - b) > rtol * (np.abs(a) + 1e-9 * np.abs(a).max() + 1e-20)).any())

    return differ
