"""How evolved formulas stand beside published metrics on networks that no search has seen.

There are three rounds: two with networks, searches and formulas of their own, and one that repeats
the second on other networks. Everything that is decided before a test split is read stands in
``transfer_ROUND.toml``: the evolved formulas, the networks, budgets, allocations and the text of
the pages. ``choose`` compares candidates on the validation splits of networks on which formulas may
be chosen. ``final`` reads the test splits, and refuses to while a file of the protocol has changes
that are not committed.

    python benchmarks/discovery/transfer.py choose --round 2 --runs FOLDER
    python benchmarks/discovery/transfer.py final --round 2 --runs FOLDER
    python benchmarks/discovery/transfer.py table --round 2 --runs FOLDER

Each comparison is a folder of ``gp_prune.compare`` and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from committed import check_committed
from csv_lines import as_csv
from scipy.stats import rankdata

from gp_prune import Metric, compare
from gp_prune.base.files import write_text
from gp_prune.judging.compare import CompareProgress, MetricComparison
from gp_prune.judging.records import Measurement
from gp_prune.judging.settings import BASELINES, load_metric, metric_text
from gp_prune.judging.standings import find_standings, holm, wilcoxon
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import ALLOCATIONS, bundled_metrics
from gp_prune.runs.folder import CONFIG
from gp_prune.search.start_formulas import TWO_FACTOR_NAMES

FOLDER = Path(__file__).resolve().parent
NETWORKS = FOLDER / "transfer_networks.py"
RESULTS = FOLDER.parent / "results"
ROUNDS = (1, 2, 3)
SHOWN = 15
"""Contenders that a table shows, besides those that were named beforehand."""


def settings_file(number: int) -> Path:
    """Return the file with the settings of a round."""
    return FOLDER / f"transfer_{number}.toml"


def load_settings(number: int) -> dict[str, Any]:
    """Return the settings of a round: ``metrics``, ``pages``, and a table for each comparison."""
    content: dict[str, Any] = tomllib.loads(settings_file(number).read_text(encoding="utf-8"))
    return content


def evolved_metrics(texts: Mapping[str, str]) -> dict[str, Metric]:
    """Return the evolved metrics by name.

    Args:
        texts: name -> formula; ``FORMULA by SHARES`` is one whose shares another one gives: an
            evolved metric, by its name, or a formula of the share of each layer.
    """
    found: dict[str, Metric] = {}
    for name, text in texts.items():
        formula, _, shares = text.partition(" by ")
        metric = load_metric(f"{name}={formula}", builtin_primitives())
        if shares:
            other = found.get(shares) or load_metric(shares, builtin_primitives())
            metric = metric.with_shares(other)
        found[name] = metric
    return found


def run(
    name: str, wanted: Mapping[str, Any], evolved: Mapping[str, Metric], runs: Path, workers: int
) -> MetricComparison:
    """Run a comparison, or go on with it.

    Args:
        name: of the comparison, and of its folder.
        wanted: its table of the settings; ``metrics`` and ``allocation`` name evolved metrics and
            bundled ones, and ``networks`` functions of ``transfer_networks.py`` or tasks.
        evolved: name -> metric.
        runs: folder of the run folders.
        workers: number of processes.
    """
    options = {key: value for key, value in wanted.items() if key not in ("title", "heading")}
    # A task has a hyphen in its name.
    networks = [net if "-" in net else f"{NETWORKS}:{net}" for net in options.pop("networks")]
    metrics = [evolved.get(metric, metric) for metric in options.pop("metrics")]
    options["allocation"] = tuple(
        metric_text(evolved[rule]) if rule in evolved else rule for rule in options["allocation"]
    )
    for key in ("keep", "budget_kind"):
        options[key] = tuple(options[key])
    folder = runs / name
    last = ""

    def progress(now: CompareProgress) -> None:
        nonlocal last
        text = f"{name}: {now.stage}, {10 * now.done // max(1, now.of)} of 10"
        if text != last:
            print(text, flush=True)
        last = text

    if (folder / CONFIG).exists():
        trust = [NETWORKS] if any("-" not in name for name in wanted["networks"]) else []
        return compare(folder=folder, resume=True, workers=workers, trust=trust, progress=progress)
    return compare(metrics, networks, folder, workers=workers, progress=progress, **options)


def table(
    measured: Sequence[Measurement], metrics: Sequence[Metric], evolved: Mapping[str, Metric]
) -> list[str]:
    """Return the standings under each allocation and over all, as lines of Markdown."""
    lines: list[str] = []
    known = {metric.digest for metric in evolved.values()}
    draws, baseline = BASELINES[metrics[0].granularity]
    ours = {draws, *TWO_FACTOR_NAMES, *bundled_metrics("evolved")} - {"variance_energy"}
    published = [m.name for m in metrics if m.digest not in known and m.name not in ours]
    allocations = list(dict.fromkeys(entry.allocation for entry in measured))
    for allocation in (None, *allocations) if len(allocations) > 1 else allocations:
        part = [e for e in measured if allocation in (None, e.allocation)]
        standings = find_standings(part, metrics, baseline)
        best = next(s.name for s in standings if s.name in published)
        against = {s.name: s for s in find_standings(part, metrics, best)}
        cells = len({entry.cell for entry in part})
        title = "Over all allocations" if allocation is None else f"Allocation: {allocation}"
        lines += [
            "", f"### {title} ({cells} cells)", "",
            f"| place | metric | mean rank | mean error | p against `{baseline}` | p against "
            f"`{best}` | cannot be used |",
            "|---:|---|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        for place, one in enumerate(standings, 1):
            name = f"**{one.name}**" if one.name in evolved else one.name
            other = against[one.name]
            lines.append(
                f"| {place} | {name} | {one.rank:.2f} | {one.error:.3f} | {_chance(one)} | "
                f"{_chance(other)} | {one.failures or ''} |"
            )
    by_task = {
        task: find_standings([e for e in measured if e.task == task], metrics, baseline)
        for task in dict.fromkeys(entry.task for entry in measured)
    }
    for task, standings in by_task.items():
        first = ", ".join(f"{s.name} ({s.rank:.1f}, {s.error:.3f})" for s in standings[:6])
        lines += ["", f"- `{task.rpartition(':')[2]}`, mean rank and error of the first: {first}"]
    ranks = [{s.name: s.rank for s in standings} for standings in by_task.values()]
    means = {name: statistics.fmean(row[name] for row in ranks) for name in ranks[0]}
    rivals = [min(published, key=means.__getitem__), baseline]
    return [*lines, *network_tests(ranks, [name for name in evolved if name in means], rivals)]


def network_tests(
    ranks: Sequence[Mapping[str, float]], names: Sequence[str], rivals: Sequence[str]
) -> list[str]:
    """Return tests in which each network is one value, as lines of Markdown.

    Args:
        ranks: for each network, metric -> mean rank over its cells.
        names: metrics that are tested.
        rivals: what each is tested against; Holm's correction is for all these tests.
    """
    pairs = [(name, rival) for rival in rivals for name in names if name != rival]
    if len(ranks) < 2 or not pairs:
        return []
    columns = {name: np.array([row[name] for row in ranks]) for name in {*names, *rivals}}
    chances = holm([wilcoxon(columns[name], columns[rival]) for name, rival in pairs])
    rows = [
        "", f"Each of the {len(ranks)} networks as one value, its mean rank:", "",
        "| metric | against | better on | p |", "|---|---|---:|---:|",
    ]  # fmt: skip
    for (name, rival), chance in zip(pairs, chances, strict=True):
        ahead = int((columns[name] < columns[rival]).sum())
        rows.append(f"| {name} | {rival} | {ahead} of {len(ranks)} | {chance:.4f} |")
    return rows


@dataclass(frozen=True)
class Line:
    """One network of a comparison, as it is kept.

    Attributes:
        metric: what chose the channels.
        allocation: what divided the budget.
        network: function of ``transfer_networks.py``, or task.
        kind: what the budget counts.
        keep: share to keep.
        error: 0 as the dense network, 1 as the best constant guess; the mean over the repeats.
        failed: 1 where the metric cannot be used, 0 elsewhere.
    """

    metric: str
    allocation: str
    network: str
    kind: str
    keep: float
    error: float
    failed: int


def short_lines(result: MetricComparison) -> list[Line]:
    """Return the measurements of a comparison, the repeats of each as one line."""
    repeats: dict[tuple[Any, ...], list[Measurement]] = {}
    for entry in result.measurements:
        repeats.setdefault((entry.metric, *entry.cell), []).append(entry)
    return [
        Line(
            metric, allocation, task.rpartition(":")[2], kind, keep,
            round(statistics.fmean(entry.error for entry in entries), 5),
            int(any(entry.failure for entry in entries)),
        )
        for (metric, allocation, task, kind, keep), entries in repeats.items()
    ]  # fmt: skip


def _all_channel_metrics(wanted: Mapping[str, Any]) -> bool:
    """Tell whether a comparison has all bundled metrics of channels."""
    return bool(wanted.get("bundled")) and wanted.get("granularity", "channel") == "channel"


def contender_table(lines: Sequence[Line], wanted: Mapping[str, Any]) -> list[str]:
    """Return how rules for channels and rules for shares stand as one, as lines of Markdown.

    Args:
        lines: what was measured without fine-tuning.
        wanted: ``first``, which the others are tested against, as ``METRIC, ALLOCATION``, as each
            of ``extra``; every metric under one of ``allocations`` takes part, too.
    """
    named = {wanted["first"], *wanted["extra"]}
    errors: dict[str, dict[tuple[str, str, float], float]] = {}
    for x in lines:
        name = f"{x.metric}, {x.allocation}"
        if name in named or x.allocation in wanted["allocations"]:
            errors.setdefault(name, {})[x.network, x.kind, x.keep] = x.error
    cells = sorted(set.intersection(*(set(errors[name]) for name in named)))
    errors = {name: found for name, found in errors.items() if all(c in found for c in cells)}
    columns = list(errors)
    others = [name for name in columns if name != wanted["first"]]
    column = {name: np.array([found[cell] for cell in cells]) for name, found in errors.items()}
    first = column[wanted["first"]]
    chances = dict(zip(others, holm([wilcoxon(column[n], first) for n in others]), strict=True))
    ranks = rankdata(np.stack([column[name] for name in columns], 1), axis=1).mean(0)
    order = sorted(zip(ranks.tolist(), columns, strict=True))
    shown = {name for _, name in order[:SHOWN]} | named
    rows = [
        "", f"## Rules for channels with rules for shares ({len(cells)} cells)", "",
        f"Each contender is a metric under an allocation; {len(columns)} take part, of which the "
        f"first {SHOWN} and those that were named beforehand are shown. p-values: against "
        f"`{wanted['first']}`.", "",
        "| place | channels, shares | mean rank | mean error | p |", "|---:|---|---:|---:|---:|",
    ]  # fmt: skip
    for place, (rank, name) in enumerate(order, 1):
        if name in shown:
            error = column[name].mean()
            chance = f"{chances[name]:.4f}" if name in chances else ""
            title = f"**{name}**" if name in named else name
            rows.append(f"| {place} | {title} | {rank:.1f} | {error:.3f} | {chance} |")
    return rows


def _chance(standing: Any) -> str:
    """Return a p-value with its direction."""
    if standing.p is None:
        return ""
    text = "< .0001" if standing.p < 0.0001 else f"{standing.p:.4f}"
    return f"{text} {'better' if standing.better else 'worse'}"


def page(results: Mapping[str, MetricComparison], settings: Mapping[str, Any], commit: str) -> str:
    """Return the page with the final tables."""
    texts = settings["metrics"]
    evolved = evolved_metrics(texts)
    lines = [
        settings["pages"]["final"].format(commit=commit),
        "| evolved metric | formula |",
        "|---|---|",
    ]
    lines += [f"| {name} | `{text}` |" for name, text in texts.items()]
    missing = [
        value["title"]
        for name, value in settings.items()
        if "title" in value and name not in results
    ]
    if missing:
        lines += ["", f"**Not finished:** {'; '.join(missing)}. No error of these was read."]
    joint = [result for name, result in results.items() if _all_channel_metrics(settings[name])]
    if len(joint) > 1:
        measured = [entry for result in joint for entry in result.measurements]
        lines += ["", "## All networks together", ""]
        lines += table(measured, joint[0].metrics, evolved)
    if "contenders" in settings and "shares" in results:
        untuned = [x for x in results.values() if not x.settings.fine_tune]
        measured_lines = [line for result in untuned for line in short_lines(result)]
        lines += contender_table(measured_lines, settings["contenders"])
    for name, result in results.items():
        wanted = result.settings
        keep = ", ".join(f"{100 * share:g} %" for share in wanted.keep)
        kinds = " and ".join(wanted.budget_kind)
        tuned = f"{wanted.fine_tune} mini-batches" if wanted.fine_tune else "none"
        lines += [
            "", f"## {settings[name]['title']}", "",
            f"Networks: {', '.join(t.rpartition(':')[2] for t in wanted.tasks)}. Kept: {keep} of "
            f"the {kinds}. Fine-tuning: {tuned}. Errors: {wanted.split} split, 0 as the dense "
            "network, 1 as the best constant guess.",
            *table(result.measurements, result.metrics, evolved),
        ]  # fmt: skip
        for note in result.notes:
            lines += ["", f"- {note.replace(f'{NETWORKS}:', '')}"]
    text = "\n".join([*lines, ""])
    for rule in {rule for result in results.values() for rule in result.settings.allocation}:
        if rule not in ALLOCATIONS:
            name = load_metric(rule, builtin_primitives()).name
            if name.startswith("formula_"):  # it was given as a text, and its name is a digest
                text = text.replace(f"by {name}", f"by `{rule}`")
    return text


def choose(number: int, settings: Mapping[str, Any], runs: Path, workers: int) -> None:
    """Compare the candidates of a round on validation splits, and write the page."""
    candidates = evolved_metrics(settings["candidates"])
    lines = [settings["pages"]["choice"], "| candidate | formula |", "|---|---|"]
    lines += [f"| {name} | `{text}` |" for name, text in settings["candidates"].items()]
    for name in [name for name in settings if name.startswith("choose")]:
        result = run(name, settings[name], candidates, runs, workers)
        lines += ["", f"## {settings[name]['heading']}", ""]
        lines += table(result.measurements, result.metrics, candidates)
        write_text(RESULTS / f"choice_{number}_{name}.csv", as_csv(short_lines(result)))
    write_text(RESULTS / f"choice_{number}.md", "\n".join([*lines, ""]))


def main() -> None:
    """Read the command line, compare, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("choose", "final", "table"))
    parser.add_argument("--round", type=int, choices=ROUNDS, default=ROUNDS[-1])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the comparisons")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    number = given.round
    settings, runs = load_settings(number), given.runs / f"round_{number}"
    if given.what == "choose":
        choose(number, settings, runs, given.workers)
        return
    check_committed([Path(__file__).resolve()])
    commit = check_committed((settings_file(number), NETWORKS))
    names = [name for name, value in settings.items() if "title" in value]
    if given.what == "table":
        names = [name for name in names if (runs / name / "result.json").exists()]
    evolved = evolved_metrics(settings["metrics"])
    results = {name: run(name, settings[name], evolved, runs, given.workers) for name in names}
    write_text(RESULTS / f"transfer_{number}.md", page(results, settings, commit))
    for name, result in results.items():
        write_text(RESULTS / f"transfer_{number}_{name}.csv", as_csv(short_lines(result)))


if __name__ == "__main__":
    main()
