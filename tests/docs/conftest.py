"""The folder that a reader of the pages would have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


if TYPE_CHECKING:
    from reader_folder import Caches


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory, task_cache: Path) -> Caches:
    """Folders with trained networks of tasks."""
    from reader_folder import Caches

    return Caches(task_cache, tmp_path_factory.mktemp("brief"))


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory, caches: Caches) -> Path:
    """A folder with all files that the pages name, made once; it is copied before it is used."""
    from reader_folder import fill

    folder = tmp_path_factory.mktemp("reader")
    fill(folder, caches)
    return folder
