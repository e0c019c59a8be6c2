"""Kills runs at random moments and resumes them; run by test_resume.py as a program.

A warm process forks the runs, so that a run takes a fraction of a second; each is a real process
that works on a run folder and is killed by SIGKILL. Prints the number of kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from gp_prune import AutoencodeSettings, autoencode
from gp_prune.runs.folder import CONFIG


def fork(folder: Path, settings: AutoencodeSettings) -> int:
    """Start a run, or go on with it, in a process of its own."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        resume = (folder / CONFIG).exists()
        autoencode(None if resume else settings, folder, resume=resume)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def killed_once(folder: Path, settings: AutoencodeSettings, seconds: float) -> bool:
    """Kill a run after so many seconds, if it is not done by then, and let it go on to its end."""
    process = fork(folder, settings)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        return False
    _, status = os.waitpid(fork(folder, settings), 0)
    if status:
        sys.exit(f"the resumed run failed with status {status}")
    return True


def main() -> None:
    whole, parent, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    settings = AutoencodeSettings.from_toml(whole / CONFIG)
    chance = random.Random(0)
    started = time.monotonic()
    os.waitpid(fork(parent / "timed", settings), 0)
    seconds = time.monotonic() - started
    kills = sum(
        killed_once(parent / str(number), settings, chance.random() * seconds)
        for number in range(count)
    )
    print(kills)


if __name__ == "__main__":
    main()
