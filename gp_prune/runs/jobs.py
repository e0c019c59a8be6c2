"""Jobs of a run, the tasks that they need, and digests of networks."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gp_prune.apply.own_task import NO_OPTIONS, TaskOptions, load_named_task
from gp_prune.base.files import code_digest
from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, trace
from gp_prune.runs.held import HeldTask, read_held
from gp_prune.statistics.time_limit import MODEL_TIMEOUT
from gp_prune.tasks import Task, is_task_name, is_trained

if TYPE_CHECKING:
    from torch import nn


T = TypeVar("T")

RECALLED = 8
"""Number of things that are expensive to load and that a worker keeps, the last used ones."""


class JobResult(Protocol):
    """The result of a job: a named tuple of plain data (numbers, texts, tuples, dictionaries)."""

    @property
    def failure(self) -> str:
        """Return why there is no result; empty if there is one."""

    def _asdict(self) -> dict[str, Any]:
        """Return the fields by name, as of every named tuple."""


R = TypeVar("R", bound=JobResult)
R_co = TypeVar("R_co", bound=JobResult, covariant=True)

Decoder = Callable[[Mapping[str, Any]], R]
"""Makes a result of what was written of it; any KeyError, TypeError or ValueError means damage."""


class Job(Protocol[R_co]):
    """A frozen dataclass of plain data, which travels to a worker and is run there.

    What it gives depends on its content alone: any worker may run it, and run it again. Tensors
    that are too large to travel go through a file, of which the job carries path and digest.
    """

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for jobs with the same result."""

    @property
    def task(self) -> str:
        """Return the name of the task that the worker must have loaded; empty for none."""

    @property
    def title(self) -> str:
        """Return what a person calls the job, for instance by its formula."""

    def run(self, workbench: Workbench) -> R_co:
        """Do the work, in the worker."""

    def failed(self, reason: str) -> R_co:
        """Return what counts where there is no result."""


def work(job: Job[Any]) -> int:
    """Return how many times the limits of one job a job may use: its attribute ``work``, or 1."""
    return int(getattr(job, "work", 1))


class Workbench:
    """What a worker process keeps: the tasks, with their traced networks, and what it recalls.

    Args:
        source: where the tasks are.
    """

    def __init__(self, source: TaskSource) -> None:
        self.source = source
        self._tasks: dict[str, tuple[Task, Architecture]] = {}
        self._recalled: OrderedDict[str, Any] = OrderedDict()

    def task(self, name: str) -> tuple[Task, Architecture]:
        """Return a task and its traced network, loaded when first asked for."""
        if name not in self._tasks:
            task = self.source.load(name)
            traced = trace(task.model, task.example_inputs, interface=task.keep)
            self._tasks[name] = task, traced
        return self._tasks[name]

    def recall(self, key: str, make: Callable[[], T]) -> T:
        """Return what is expensive to load: it is made once, then kept while it is used.

        Nobody may change it; only :data:`RECALLED` things are kept.

        Args:
            key: says what it is; equal keys must mean equal things.
            make: loads it.
        """
        if key not in self._recalled:
            self._recalled[key] = make()
        self._recalled.move_to_end(key)
        while len(self._recalled) > RECALLED:
            self._recalled.popitem(last=False)
        recalled: T = self._recalled[key]
        return recalled


@dataclass(frozen=True)
class TaskSource:
    """Where workers find the tasks.

    Attributes:
        cache_dir: folder of trained networks; None for the user's cache folder.
        data_root: folder of torchvision's data sets; None for the default.
        download: whether torchvision may fetch a missing data set.
        device: where networks and data are put.
        model_timeout: seconds that a user's function and a forward pass of its network may take; 0
            for any time.
        options: data, kind and weights of networks that bring none.
        code: users' files with networks, and what the main process has found there: a worker runs
            no other content.
        files: tasks that the main process holds in memory.
        held: the same in the main process, by name, and those that it has loaded with
            :meth:`load_once`; they do not travel.
    """

    cache_dir: str | None = None
    data_root: str | None = None
    download: bool = False
    device: str = "cpu"
    model_timeout: float = MODEL_TIMEOUT
    options: TaskOptions = NO_OPTIONS
    code: tuple[tuple[str, str], ...] = ()
    files: tuple[HeldTask, ...] = ()
    held: dict[str, Task] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to other processes: all but the tasks in memory."""
        return {**self.__dict__, "held": {}}

    def load(self, name: str) -> Task:
        """Load a task; see :func:`gp_prune.apply.own_task.load_named_task` for what it raises.

        Raises:
            UserError: also where a user's file is another one than that of the main process.
        """
        if name in self.held:
            return self.held[name]
        for file in self.files:
            if file.name == name:
                return read_held(file)
        for path, digest in self.code:
            if name.rpartition(":")[0] == path and code_digest(path) != digest:
                raise UserError(
                    f"a worker has {path!r} as {code_digest(path)}, and the main process as "
                    f"{digest}; copy the file from the main machine and go on with --resume"
                )
        return load_named_task(name, self.options, **self.arguments())

    def load_once(self, name: str) -> Task:
        """Load a task and keep it, so that this process has one network and one data set by it."""
        if name not in self.held:
            self.held[name] = self.load(name)
        return self.held[name]

    def trained(self, name: str) -> bool:
        """Tell whether :meth:`load` takes no training; raise as it does."""
        if name in self.held or not is_task_name(name):
            return True
        arguments = self.arguments()
        del arguments["model_timeout"]
        return is_trained(name, **arguments)

    def arguments(self) -> dict[str, Any]:
        """Return folders, device and limit as the arguments of what loads a network."""
        return {
            "cache_dir": None if self.cache_dir is None else Path(self.cache_dir),
            "data_root": None if self.data_root is None else Path(self.data_root),
            "download": self.download,
            "device": self.device,
            "model_timeout": self.model_timeout,
        }


def network_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all weights and buffers of a network, with their names."""
    import torch  # not with the module, which jobs without networks import, too

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return f"sha256:{digest.hexdigest()}"
