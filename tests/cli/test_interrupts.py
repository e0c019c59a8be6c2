"""Ctrl-C where libraries catch everything; each test in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gp_prune.runs.folder import CONFIG
from gp_prune.search.config import SearchConfig

# As for the fixture `started`, the handler is set, because it may be inherited as ignored.
BEGIN = """
import signal, sys, threading, time
from gp_prune.cli.group import insistent_interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)

def ctrl_c():
    signal.raise_signal(signal.SIGINT)
"""


def ran(code: str) -> str:
    """What Python prints for code that ends well."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + code],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "wait", ["while True: pass", "lock.acquire(timeout=60)", "threading.Event().wait()"]
)
def test_an_interrupt_that_was_swallowed_comes_again(wait: str) -> None:
    code = f"""
lock = threading.Lock()
lock.acquire()
with insistent_interrupts(0.05):
    try:
        try:
            ctrl_c()
        except:
            print("swallowed")
        {wait}
    except:
        print("swallowed again")
    try:
        # Python 3.11 takes a jump back to the first line of a try for one outside of it.
        print("again")
        {wait}
    except KeyboardInterrupt:
        print("heard")
"""
    assert ran(code).splitlines() == ["swallowed", "swallowed again", "again", "heard"]


def test_an_interrupt_in_a_finalizer_comes_again() -> None:
    code = """
sys.unraisablehook = lambda raised: print("dropped", raised.exc_type.__mro__[1].__name__)

class Thing:
    def __del__(self):
        ctrl_c()

try:
    with insistent_interrupts(0.05):
        Thing()
        time.sleep(60)
except KeyboardInterrupt:
    print("heard")
"""
    assert ran(code).split() == ["dropped", "KeyboardInterrupt", "heard"]


CLEANING = {
    "finally": """
def body():
    try:
        ctrl_c()
    finally:
        time.sleep(0.5)
        print("clean")
""",
    "handling something else": """
def body():
    try:
        ctrl_c()
    finally:
        try:
            raise ValueError
        except ValueError:
            time.sleep(0.5)
            print("clean")
""",
    "a generator that is given up": """
def numbers():
    try:
        yield 1
        yield 2
    finally:
        time.sleep(0.5)
        print("clean")

def body():
    for _ in numbers():
        ctrl_c()
""",
    "a finalizer": """
class Thing:
    def __del__(self):
        time.sleep(0.5)
        print("clean")

def body():
    thing = Thing()
    ctrl_c()
""",
}


@pytest.mark.parametrize("name", CLEANING)
def test_cleaning_up_is_not_disturbed(name: str) -> None:
    code = f"""
{CLEANING[name]}
try:
    with insistent_interrupts(0.02):
        body()
except KeyboardInterrupt:
    print("heard")
time.sleep(0.1)
print("over")
"""
    assert sorted(ran(code).split()) == ["clean", "heard", "over"]


def test_a_second_interrupt_of_the_user_ends_the_cleaning_up() -> None:
    code = """
try:
    with insistent_interrupts(10.0):
        try:
            ctrl_c()
        finally:
            ctrl_c()
            print("never")
except KeyboardInterrupt:
    print("heard")
"""
    assert ran(code) == "heard"


def test_what_was_swallowed_is_forgotten_at_the_end() -> None:
    code = """
with insistent_interrupts(60.0):
    try:
        ctrl_c()
    except:
        pass
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert threading.active_count() == 1
print("over")
"""
    assert ran(code) == "over"


def test_other_handlers_are_left_alone() -> None:
    code = """
def other(number, frame): pass
for handler in (signal.SIG_IGN, other):
    signal.signal(signal.SIGINT, handler)
    with insistent_interrupts():
        assert signal.getsignal(signal.SIGINT) is handler
signal.signal(signal.SIGINT, signal.default_int_handler)
def elsewhere():
    with insistent_interrupts():
        print("untouched", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
"""
    assert ran(code).split() == ["untouched", "True"]


DEAF = """
import signal
from pathlib import Path
from gp_prune.language.primitive import Elementwise, operator

BEGUN, SWALLOWED = Path({begun!r}), Path({swallowed!r})

@operator("same", shape=Elementwise(1), meaning="x", symbol=lambda x: x)
def same(x):
    if BEGUN.exists() and not SWALLOWED.exists():
        SWALLOWED.touch()
        try:
            signal.raise_signal(signal.SIGINT)
        except:
            pass
    return x
"""


@pytest.mark.slow
def test_a_run_ends_where_a_function_of_the_user_swallowed_the_interrupt(
    tmp_path: Path, task_cache: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    folder, swallowed = tmp_path / "run", tmp_path / "swallowed"
    primitives = tmp_path / "deaf.py"
    primitives.write_text(DEAF.format(begun=str(folder / CONFIG), swallowed=str(swallowed)))
    long = SearchConfig(
        tasks=("lenet-digits",), generations=400, ladder=(0.4,), budgets=(0.4,), calibration=64,
        fine_tune_steps=2, primitives=(str(primitives),),
    )  # fmt: skip
    settings = tmp_path / "settings.toml"
    settings.write_text(long.to_toml())
    options = ["--config", settings, "--out", folder, "--cache-dir", task_cache, "--workers", 1]
    with started("evolve", *options, "--quiet") as process:
        try:
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
    assert swallowed.exists()
    assert process.returncode == 130, errors
    (sentence,) = errors.splitlines()
    assert sentence.startswith("gp-prune: interrupted ")
    assert sentence.endswith(f"go on with: gp-prune evolve --resume {folder}")
