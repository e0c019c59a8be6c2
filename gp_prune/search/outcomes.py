"""Floor 9: what is known is taken from the journal; the rest is run and written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.executors import Runner
from gp_prune.search.journal import Journal


def resolve(
    evaluations: Iterable[Evaluation],
    runner: Runner,
    journal: Journal,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Outcome]:
    """The outcome of every evaluation by its key; nothing is evaluated twice.

    Args:
        evaluations: what is wanted; the same one may stand there several times.
        runner: runs what the journal does not know.
        journal: remembers outcomes, those of earlier runs of the same folder and of a run that
            is reused included.
        progress: hears how many of how many distinct evaluations are known.
    """
    distinct = {evaluation.key: evaluation for evaluation in evaluations}
    found: dict[str, Outcome] = {}
    unknown = []
    for key, evaluation in distinct.items():
        outcome = journal.known(evaluation)
        if outcome is None:
            unknown.append(evaluation)
        else:
            found[key] = outcome
    lent = {evaluation.key: journal.lent(evaluation) for evaluation in unknown}
    results = runner.run([evaluation for evaluation in unknown if lent[evaluation.key] is None])
    # In the order of the requests, so that the journal is the same with and without reuse.
    for evaluation in unknown:
        outcome = lent[evaluation.key] or next(results)
        journal.outcome(evaluation, outcome)
        found[evaluation.key] = outcome
        progress(len(found), len(distinct))
    journal.sync()
    return found
