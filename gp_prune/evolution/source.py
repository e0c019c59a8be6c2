"""Floor 9: where this process and its workers find the tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_prune.tasks import Task, is_trained, load_task


@dataclass(frozen=True)
class TaskSource:
    """Where workers find the tasks.

    Attributes:
        cache_dir: folder of trained networks; None for the user's cache folder.
        data_root: folder of torchvision's data sets; None for the default.
        download: whether torchvision may fetch a missing data set.
        device: where networks and data are put.
    """

    cache_dir: str | None = None
    data_root: str | None = None
    download: bool = False
    device: str = "cpu"

    def load(self, name: str) -> Task:
        """The task of that name; see :func:`gp_prune.tasks.load_task` for what it raises."""
        return load_task(name, **self._places())

    def trained(self, name: str) -> bool:
        """Whether :meth:`load` takes no training; raises as it does."""
        return is_trained(name, **self._places())

    def _places(self) -> dict[str, Any]:
        return {
            "cache_dir": None if self.cache_dir is None else Path(self.cache_dir),
            "data_root": None if self.data_root is None else Path(self.data_root),
            "download": self.download,
            "device": self.device,
        }
