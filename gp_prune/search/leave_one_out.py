"""One search for each task left out: how far its winner carries to a network it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gp_prune.apply.own_task import short_names
from gp_prune.base.files import write_text
from gp_prune.errors import UserError
from gp_prune.language.primitive import primitive_set
from gp_prune.runs.folder import CONFIG, load_or_check_settings, writing
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.comparison import equal_kinds
from gp_prune.search.config import SearchConfig
from gp_prune.search.held_out import restrict
from gp_prune.search.nsga2 import make_grammar
from gp_prune.search.results import SearchResult
from gp_prune.search.run import SearchProgress, evolve
from gp_prune.search.stored import check_length


@dataclass(frozen=True, repr=False)
class LeftOut:
    """The search without one task.

    Attributes:
        task: the task left out.
        result: of the search on the others.
    """

    task: str
    result: SearchResult

    def __repr__(self) -> str:
        """Return the task and the recommended formula."""
        return f"<LeftOut {self.task!r}: {self.result.recommended.expression}>"

    def errors(self) -> dict[str, dict[str, float]]:
        """Return name -> kind of budget -> mean test error on the task left out.

        The first is the formula that was recommended, the others are the baselines.
        """
        there = restrict(self.result.held_out, [self.task])
        shown = [
            self.result.recommended,
            *(c for c in self.result.contenders if c.candidate is None),
        ]
        return {
            contender.name: {
                kind: there.mean(contender.name, "test", kind=kind)
                for kind in equal_kinds(self.result.config)
            }
            for contender in shown
        }


def leave_one_out(
    config: SearchConfig | None = None,
    folder: str | Path = "runs/evolve",
    *,
    source: TaskSource | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    changes: Mapping[str, Any] | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
    started: Callable[[str], None] = lambda task: None,
    **options: Any,
) -> list[LeftOut]:
    """Run a search for each task left out; measure every winner on the task that it never saw.

    The task left out chooses nothing. Each search has a sub-folder ``without-TASK`` of its own,
    which is a run folder: it can be resumed, read and pruned with by itself.

    Args:
        config: the settings; with ``resume`` they are read from the folder.
        folder: of all searches.
        source: where the tasks are.
        resume: continue the searches in ``folder``.
        trust: with ``resume``, the Python files that the stored settings may run.
        changes: with ``resume``, settings that replace the stored ones, see
            :func:`~gp_prune.search.run.evolve`.
        progress: hears how far the present search is.
        started: hears which task is left out next.
        options: the other options of :func:`~gp_prune.search.run.evolve`.

    Raises:
        UserError: there is one task alone, or as for :func:`~gp_prune.search.run.evolve`.
    """
    folder = Path(folder)
    config = load_or_check_settings(
        SearchConfig, None if resume else config, folder, resume=resume, trust=trust,
        changes=changes,
    )  # fmt: skip
    if resume and not config.leave_one_out:
        raise UserError(
            f"{str(folder)!r} is of one search; go on with gp_prune.evolve or the command line"
        )
    config = replace(config, leave_one_out=True)
    if len(config.tasks) < 2:
        raise UserError(
            f"to leave one out there must be two tasks or more, but there is {config.tasks[0]!r} "
            "alone; name more with --tasks"
        )
    if not config.comparison:
        raise UserError("--leave-one-out compares the winners; leave out --no-comparison")
    if not resume:
        make_grammar(config, primitive_set(*config.primitives))
    shorts = short_names(config.tasks)
    parts = {task: folder / f"without-{shorts[task]}" for task in config.tasks}
    for part in parts.values() if resume else ():
        check_length(config, part)
    with writing(folder):
        write_text(folder / CONFIG, config.to_toml())
    left = []
    for task, part in parts.items():
        started(task)
        others = tuple(name for name in config.tasks if name != task)
        settings = replace(
            config, tasks=others, leave_one_out=False, report_on=(task, *config.report_on),
        )  # fmt: skip
        result = evolve(
            settings, part, source=source, resume=(part / CONFIG).is_file(), progress=progress,
            **options,
        )  # fmt: skip
        left.append(LeftOut(task, result))
    return left
