"""Ten thousand changed files: none ends in a traceback, hangs, fills the memory or runs code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fuzz_files
import pytest


def test_some_changed_files_of_each_kind(tmp_path: Path) -> None:
    files, watch = fuzz_files.Files(tmp_path), fuzz_files.Watch(tmp_path)
    names = list(files.targets())
    for number in range(5 * len(names)):
        assert fuzz_files.run(files, watch, number, names[number % len(names)]) is None


@pytest.mark.slow
def test_ten_thousand_changed_files(tmp_path: Path) -> None:
    command = [sys.executable, fuzz_files.__file__, "--mutations", "10000"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.startswith("10000 mutations, 0 faults")
    assert not list(tmp_path.iterdir()), "nothing is written where it was started"
