"""What holds for every picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gp_prune.errors import UserError


@pytest.fixture
def refuses_bad_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`refuses_bad_targets(write)`: `write(path)` says in one sentence why it cannot, and leaves
    nothing behind."""

    def check(write: Callable[[Path], None]) -> None:
        with pytest.raises(UserError, match=r"must end with one of \.png"):
            write(tmp_path / "plot.jpg")
        (tmp_path / "file").write_text("x")
        with pytest.raises(UserError, match="cannot be written"):
            write(tmp_path / "file" / "plot.png")
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UserError, match=r"pip install 'gp-prune\[plot\]'"):
            write(tmp_path / "plot.png")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    return check
