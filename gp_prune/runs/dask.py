"""Jobs on a Dask cluster of any number of machines.

Every Dask worker keeps worker processes (see :class:`gp_prune.runs.host.Host`) and loads tasks
from the cache folder and the data root of its machine; what travels is a job and its result. That
host limits each job and tries it again, which Dask's nanny does not: its ``memory_limit`` is that
of a whole worker, and it knows no time limit. Dask itself gives the jobs of a machine that is lost
to other machines.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gp_prune._compat import import_optional
from gp_prune.errors import UserError
from gp_prune.runs.executors import load_tasks, transform
from gp_prune.runs.host import Host, JobLost
from gp_prune.runs.inside import InsideStep
from gp_prune.runs.jobs import Job, R, TaskSource
from gp_prune.runs.processes import Facts, ResourceLimits, facts

_LOGGERS = ("distributed", "tornado", "asyncio")
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 30
_GRACE_SECONDS = 2
_EVENT_SECONDS = 0.5
"""Between two events of a job: a scheduler that is far away has more to do."""


@dataclass(frozen=True)
class ClusterRun:
    """What a machine must know to work for a run.

    Attributes:
        identity: tells runs apart that use the cluster at the same time.
        source: where the tasks are, on every machine.
        limits: what one job may use.
        followed: whether somebody wants to know how much of a job is done.
    """

    identity: str
    source: TaskSource
    limits: ResourceLimits
    followed: bool = False


class DaskCluster:
    """Runs jobs on the workers of a Dask cluster.

    Args:
        source: where the workers find the tasks; its folders are those of each machine.
        address: of the scheduler, for instance ``"tcp://10.0.0.5:8786"``.
        limits: what one job may use.
        inside: is told how much of a job is done, by events of Dask.

    Raises:
        UserError: Dask is not installed, no scheduler answers, or it has no workers.
    """

    def __init__(
        self,
        source: TaskSource,
        address: str,
        limits: ResourceLimits | None = None,
        inside: InsideStep | None = None,
    ) -> None:
        self._address = address
        self._inside = inside or InsideStep()
        self._inside.active = inside is not None
        self._run = ClusterRun(
            uuid.uuid4().hex, source, limits or ResourceLimits(), inside is not None
        )
        self._lock = threading.Lock()
        self._running = set[str]()
        self._facts: dict[str, Facts] = {}
        self._silence = ExitStack()
        self._silence.enter_context(_silenced())
        try:
            self._client = _connected(address)
        except BaseException:
            self._silence.close()
            raise
        self._executor = self._client.get_executor(pure=False)
        if self._run.followed:
            self._client.subscribe_topic(self._run.identity, self._hear)

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train or load the tasks here; the workers must find the same networks."""
        for name in load_tasks(self._run.source, tasks, self._inside):
            self._facts[name] = facts(self._run.source.load_once(name))

    def submit(self, job: Job[R]) -> Future[R]:
        """Run the job on the cluster.

        The future raises a UserError where a machine has another network or other packages than
        this one, the job's workers are lost again and again, or the cluster is gone.
        """
        with self._lock:
            self._running.add(job.key)
        remote: Future[R] = self._executor.submit(run, self._run, self._facts, job)
        return transform(remote, partial(self._result, job), remote.cancel)

    def _result(self, job: Job[R], remote: Future[R]) -> R:
        from distributed import KilledWorker

        with self._lock:  # an event that is late says nothing any more
            self._running.discard(job.key)
        try:
            return remote.result()
        except KilledWorker:
            # Dask has tried several machines already.
            raise JobLost(job.title, "every Dask worker that tried it died") from None
        except (CancelledError, OSError) as error:
            raise _gone(self._address, error) from None

    def _hear(self, event: tuple[float, tuple[str, float]]) -> None:
        """Take an event of a worker; called in the thread of the client."""
        _, (key, share) = event
        with self._lock:
            if key in self._running:
                self._inside.put(key, share)

    def close(self) -> None:
        """Let the machines end the processes of this run, and leave the cluster."""
        try:
            # The processes of a machine also end when the connection to it is lost.
            with suppress(OSError, TimeoutError, CancelledError):
                if self._client.status == "running":
                    self._client.run(release, self._run.identity, on_error="ignore")
        finally:
            with suppress(OSError, TimeoutError, CancelledError):
                self._client.close(timeout=_CONNECT_SECONDS)
            self._silence.close()


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep Dask's logs of connections, which have tracebacks, off the screen in the body."""
    try:
        import distributed  # noqa: F401  (it sets the levels of its loggers)
    except ImportError:
        yield
        return
    names = [*_LOGGERS, *(n for n in logging.root.manager.loggerDict if n.startswith(_LOGGERS))]
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _connected(address: str) -> Any:
    """Return a client of the cluster, which has at least one worker."""
    distributed: Any = import_optional("distributed", "a Dask cluster", "gp-prune[dask]")
    _check_scheduler(address)
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise _no_answer(address, type(error).__name__) from None
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except OSError as error:  # a timeout is one, too
        running = client.status == "running" and isinstance(error, TimeoutError)
        with suppress(OSError, CancelledError):
            client.close(timeout=_CONNECT_SECONDS)
        if not running:
            raise _gone(address, error) from None
        raise UserError(
            f"the Dask cluster at {address!r} has no workers; start some with "
            f"`dask worker {address} --nthreads 1`"
        ) from None
    return client


def _check_scheduler(address: str) -> None:
    """Connect once; a client of something else than a scheduler never ends properly."""
    from distributed import Security
    from distributed.comm import core
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(address)
        get_backend(scheme)
        parse_host_port(location)
        options = Security().get_connection_args("client")
        if scheme in ("tls", "wss") and options["ssl_context"] is None:
            raise UserError(
                f"{address!r} needs certificates; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
                "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and "
                "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY to their files"
            )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"{address!r} is no address of a Dask scheduler ({error}); give the one that "
            "`dask scheduler` prints, for instance tcp://127.0.0.1:8786"
        ) from None
    connect: Any = core.connect
    errors: list[Exception] = []

    async def shake_hands() -> None:
        connection = await connect(address, timeout=_CONNECT_SECONDS, **options)
        await connection.close()

    def run_alone() -> None:
        try:
            asyncio.run(shake_hands())
        except Exception as error:  # whatever is read from another program
            errors.append(error)

    # What answers with something else may keep it for ever, so nobody waits for its end.
    thread = threading.Thread(target=run_alone, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS + _GRACE_SECONDS)
    if errors or thread.is_alive():
        raise _no_answer(address, type(errors[0]).__name__ if errors else "another program does")


def _no_answer(address: str, reason: str) -> UserError:
    return UserError(
        f"no Dask scheduler answers at {address!r} ({reason}); start one with "
        "`dask scheduler` and give the address that it prints"
    )


def _gone(address: str, error: BaseException) -> UserError:
    return UserError(
        f"the Dask scheduler at {address} is gone ({type(error).__name__}); start it again and go "
        "on with --resume"
    )


class _Events(InsideStep):
    """Tells the main process by events of this Dask worker how much of a job is done."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._told = threading.local()

    def put(self, key: str, share: float) -> None:
        """Send the share, unless this thread has sent one a moment ago."""
        from distributed import get_worker

        now = time.monotonic()
        if now - getattr(self._told, "at", -math.inf) >= _EVENT_SECONDS:
            self._told.at = now
            get_worker().log_event(self._topic, (key, share))


_hosts: dict[str, Host] = {}
"""The worker processes of this Dask worker, for every run that uses it."""
_lock = threading.Lock()


def run(cluster_run: ClusterRun, expected: Mapping[str, Facts], job: Job[R]) -> R:
    """Run a job in a process of this Dask worker; called by Dask."""
    with _lock:
        if cluster_run.identity not in _hosts:
            inside = _Events(cluster_run.identity) if cluster_run.followed else None
            _hosts[cluster_run.identity] = Host(
                cluster_run.source, cluster_run.limits, expected, inside
            )
        host = _hosts[cluster_run.identity]
    return host.run(job)


def release(identity: str) -> None:
    """End the processes that this Dask worker keeps for a run; called by Dask."""
    with _lock:
        host = _hosts.pop(identity, None)
    if host is not None:
        host.close()
