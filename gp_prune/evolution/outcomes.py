"""Floor 9: what is known is taken from the journal; the rest is run and written down."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from gp_prune.evolution.executors import Runner
from gp_prune.evolution.jobs import Job, R
from gp_prune.evolution.journal import Journal


def resolve(
    jobs: Iterable[Job[R]],
    runner: Runner,
    journal: Journal[R],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, R]:
    """The result of every job by its key; nothing is done twice.

    Args:
        jobs: what is wanted; the same one may stand there several times. Of an iterator, the first
            jobs are done already while it makes the others.
        runner: runs what the journal does not know.
        journal: remembers results, those of earlier runs of the same folder and of a run that
            is reused included.
        progress: hears how many of how many distinct jobs are done; of an iterator, of how many
            so far.
    """
    known_of = len({job.key for job in jobs}) if isinstance(jobs, Sequence) else 0
    found: dict[str, R] = {}
    asked: set[str] = set()
    # New jobs in the order of the requests, so that the journal is the same with and without
    # reuse; each with its result where another run has lent it.
    pending: deque[tuple[Job[R], R | None]] = deque()

    def unknown() -> Iterator[Job[R]]:
        for job in jobs:
            if job.key in asked:
                continue
            asked.add(job.key)
            known = journal.known(job)
            if known is not None:
                found[job.key] = known
                continue
            lent = journal.lent(job)
            pending.append((job, lent))
            if lent is None:
                yield job

    def record(job: Job[R], result: R) -> None:
        journal.outcome(job, result)
        found[job.key] = result
        progress(len(found), max(known_of, len(asked)))

    def record_lent() -> None:
        while pending and pending[0][1] is not None:
            record(*pending.popleft())  # type: ignore[arg-type]

    for result in runner.run(unknown()):
        record_lent()
        record(pending.popleft()[0], result)
    record_lent()
    journal.sync()
    return found
