"""Code of a user that takes too long is ended, whatever it does."""

from __future__ import annotations

import contextlib
import copy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gp_prune.cli.options import MODEL_TIMEOUT as SHOWN
from gp_prune.errors import UserError
from gp_prune.statistics.running import call_model
from gp_prune.statistics.time_limit import (
    MODEL_TIMEOUT,
    TimeLimitError,
    check_timeout,
    limit_forward,
    time_limit,
)


def sleep() -> None:
    time.sleep(600)


def compute() -> None:
    while True:
        pass


def wait() -> None:
    threading.Event().wait(600)


def run_a_program() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], check=True)


def swallow_errors() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(600)


def swallow_everything_once() -> None:
    try:
        time.sleep(600)
    except BaseException:
        time.sleep(600)


HANGING = [sleep, compute, wait, run_a_program, swallow_errors, swallow_everything_once]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarm here")
@pytest.mark.parametrize("hang", HANGING)
def test_whatever_hangs_is_ended(hang: Callable[[], None]) -> None:
    started = time.monotonic()
    before = signal.getsignal(signal.SIGALRM)
    words = (
        r"^the function 'f' took more than 0\.1 s; mend it, or give it longer with --model-timeout"
    )
    with pytest.raises(TimeLimitError, match=words), time_limit(0.1, "the function 'f'"):
        hang()
    assert time.monotonic() - started < 300
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_what_computes_is_ended() -> None:
    found: list[BaseException] = []

    def work() -> None:
        try:
            with time_limit(0.1, "it"):
                compute()
        except TimeLimitError as error:
            found.append(error)
        time.sleep(0.01)
        sum(range(1000))  # nothing comes later

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(300)
    assert not thread.is_alive() and len(found) == 1


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_what_is_in_time_is_left_alone(seconds: float) -> None:
    with (
        time_limit(seconds, "it"),
        time_limit(0.001, "a part of it") if seconds else time_limit(0, "it"),
    ):
        time.sleep(0.05)
    with pytest.raises(ZeroDivisionError), time_limit(seconds, "it"):
        1 / 0  # noqa: B018


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarm here")
def test_an_alarm_of_the_program_still_comes() -> None:
    heard: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with time_limit(600, "it"):
            time.sleep(0.05)
        while not heard and time.monotonic() - started < 300:
            time.sleep(0.01)
        assert heard and heard[0] - started >= 0.2, "it comes, and when it is due"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Hangs(nn.Module):
    """A network that hangs in its second pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.passes = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes > 1:
            time.sleep(600)
        output: torch.Tensor = self.layer(inputs)
        return output


def test_a_pass_of_a_network_and_of_its_copies_is_limited() -> None:
    model = Hangs()
    limit_forward(model, 1.0, "own.py:build")  # the first pass takes less on any machine
    state = model.state_dict()
    for network in (model, copy.deepcopy(model)):
        network.passes = 0
        call_model(network, torch.zeros(1, 2))
        with pytest.raises(TimeLimitError, match=r"a forward pass of 'own\.py:build' took more"):
            call_model(network, torch.zeros(1, 2))
        assert network.state_dict().keys() == state.keys()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_limit_must_be_a_number(seconds: float) -> None:
    with pytest.raises(UserError, match="the model timeout is"):
        check_timeout(seconds)


def test_the_command_line_shows_the_default() -> None:
    assert SHOWN == MODEL_TIMEOUT
