"""Whole runs of the genetic pruner on the digits."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gp_prune
from gp_prune import GeneticPruner, GeneticSettings
from gp_prune.errors import UserError
from gp_prune.genetic.engine import RoundStatus
from gp_prune.genetic.front import GeneticResult
from gp_prune.genetic.plan import GeneticPlan
from gp_prune.genetic.retraining import EvaluatePlan, PlanOutcome, RetrainPlan
from gp_prune.genetic.run import (
    WEIGHTS,
    GeneticProgress,
    load_mutations,
    prune_genetically,
)
from gp_prune.report.genetic import result_lines
from gp_prune.report.plots import plot_front
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.statistics.running import derive_seed
from gp_prune.tasks import load_task

Prune = Callable[..., GeneticResult]


SMALL = GeneticSettings(
    population=8, generations=2, rounds=2, elites=2, epochs=1, final_epochs=1, samples=100,
    calibration=64, tolerance=0.5, limit=0.5, batch_size=128,
)  # fmt: skip


@pytest.fixture
def pruned(task_cache: Path, tmp_path: Path) -> Prune:
    """``pruned(rounds=1)``: the result of a small run in ``tmp_path / "run"``."""

    def run(
        folder: str = "run", *, workers: int = 1, resume: bool = False,
        progress: Callable[[GeneticProgress], None] = lambda _: None, **changes: Any,
    ) -> GeneticResult:  # fmt: skip
        return prune_genetically(
            None if resume else replace(SMALL, **changes), tmp_path / folder,
            source=TaskSource(str(task_cache)), workers=workers, resume=resume, timed=False,
            progress=progress,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def whole(task_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> GeneticResult:
    """The result of a small run that nothing stopped."""
    folder = tmp_path_factory.mktemp("genetic") / "run"
    return prune_genetically(SMALL, folder, source=TaskSource(str(task_cache)), timed=False)


def figures(result: GeneticResult) -> dict[str, Any]:
    """All that does not depend on the clock or the folder."""
    data = result.to_json()
    del data["folder"]
    return data


def test_parents_know_their_error_on_the_samples_that_plans_are_tried_on(
    pruned: Prune, task_cache: Path
) -> None:
    seen: list[RoundStatus] = []
    pruned(progress=lambda now: seen.append(now.status) if now.status else None, rounds=1)
    task = load_task("lenet-digits", cache_dir=task_cache)
    first = task.validation.select(slice(SMALL.samples))
    (network,) = {id(e): e for status in seen for e in status.front if e.number == 0}.values()
    assert network.trial_error == pytest.approx(task.error(task.model, first))
    assert network.error == pytest.approx(task.error(task.model, task.validation))


def test_a_run_leaves_what_its_result_says(whole: GeneticResult, task_cache: Path) -> None:
    result, folder = whole, whole.folder
    task = load_task("lenet-digits", cache_dir=task_cache)
    test = task.test()
    assert result.points and result.recommended in result.points
    assert [point.validation for point in result.points] == sorted(
        point.validation for point in result.points
    )
    for point in result.points:
        again = gp_prune.load_pruned(folder / "networks" / point.name, task.model)
        assert torch.equal(again(test.inputs), point.model(test.inputs))
        assert task.error(again, test) == pytest.approx(point.report)
        assert task.error(again, task.validation) == pytest.approx(point.validation)
        nonzero = sum(int(p.count_nonzero()) for p in again.parameters())
        assert nonzero == point.cost.nonzero
        plan = GeneticPlan.from_json(
            json.loads((folder / "plans" / f"{point.name}.json").read_text())
        )
        assert plan == point.elite.plan
        assert point.macs <= point.cost.macs
    statistics = json.loads((folder / "statistics.json").read_text())
    assert list(statistics["networks"]) == [result.settings.model or "network"]
    assert statistics["notes"] == []
    assert str(result).startswith("<GeneticResult in ") and len(str(result)) < 300
    assert len(str(result.dense)) < 300
    assert result.dense.report == pytest.approx(task.error(task.model, test))
    with open(folder / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    count = len(result.points)
    assert [row["name"] for row in rows[: count + 1]] == [
        "dense", *(point.name for point in result.points)
    ]  # fmt: skip
    assert set(result.baselines) == {"random", "l1"}
    for points in result.baselines.values():
        for point, other in zip(result.points, points, strict=True):
            assert other is not None
            assert other.conv_macs <= point.conv_macs
            assert other.elite.epochs == point.elite.epochs


def test_the_points_of_a_front_do_not_dominate_each_other(whole: GeneticResult) -> None:
    vectors = [(p.validation, p.elite.shares.macs, p.elite.shares.params) for p in whole.points]
    for one in vectors:
        for other in vectors:
            assert one is other or not all(a <= b for a, b in zip(one, other, strict=True))


def test_the_hypervolume_never_falls(whole: GeneticResult) -> None:
    evaluations, volumes = zip(*whole.history, strict=True)
    assert list(evaluations) == sorted(evaluations)
    assert list(volumes) == sorted(volumes)
    assert whole.evaluations == evaluations[-1]


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_was_not(
    pruned: Prune, whole: GeneticResult, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    seen = 0

    def stop(now: GeneticProgress) -> None:
        nonlocal seen
        seen += now.status is not None
        if seen == 5:
            raise Enough

    with pytest.raises(Enough):
        pruned("cut", progress=stop)
    assert figures(pruned("cut", resume=True)) == figures(whole)
    # Once more: everything is known, and lost weights are made again.
    for path in (tmp_path / "cut" / "weights").iterdir():
        path.unlink()
    assert figures(pruned("cut", resume=True)) == figures(whole)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(pruned: Prune, whole: GeneticResult) -> None:
    assert figures(whole) == figures(pruned("two", workers=2))


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_result(
    pruned: Prune, whole: GeneticResult, kill_a_worker: Callable[[], int]
) -> None:
    killed: list[int] = []

    def kill_one(now: GeneticProgress) -> None:
        if now.status is not None and len(killed) < 2:
            killed.append(kill_a_worker())

    assert figures(pruned("two", workers=2, progress=kill_one)) == figures(whole)
    assert len(set(killed)) == 2


def test_retraining_that_fails_mixes_nothing_up(
    pruned: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune, random, final = RetrainPlan._tune, derived("random"), derived("final")
    failed = []

    def sometimes(job: RetrainPlan, *args: Any) -> None:
        if job.tuning.seed == final or (job.tuning.seed == random and random not in failed):
            failed.append(job.tuning.seed)
            raise UserError("the training loss is nan")
        tune(job, *args)

    monkeypatch.setattr(RetrainPlan, "_tune", sometimes)
    result = pruned()
    assert len(result.points) > 1
    assert all(point.elite.round <= SMALL.rounds for point in result.points), "kept as they were"
    assert set(result.failures) == {"the training loss is nan"}
    assert len(result.failures) == len(failed)
    first, *others = result.baselines["random"]
    assert first is None
    for point, other in zip(result.points[1:], others, strict=True):
        assert other is not None
        assert other.name == f"random {point.name}"
        assert other.conv_macs <= point.conv_macs
    lines = result_lines(result.to_json(), io.StringIO())
    assert lines[-1].endswith("failed, at last because the training loss is nan")
    of_l1 = result.baselines["l1"][-1]
    assert other is not None and of_l1 is not None
    shown = f"{100 * other.report:.2f} % {100 * of_l1.report:.2f} %"
    assert any(" ".join(line.split()).endswith(shown) for line in lines)
    plot_front(result.to_json(), tmp_path / "front.svg")


def derived(what_for: object) -> int:
    """The seed of retraining for a purpose."""
    return derive_seed("retrain", SMALL.seed, what_for)


THIN: dict[str, Any] = {
    "granularity": "weight", "final_params": 0.05, "removal_epochs": 5, "rounds": 1, "points": 2,
}  # fmt: skip


def test_networks_end_with_the_share_of_the_parameters_that_is_asked_for(
    pruned: Prune, tmp_path: Path, task_cache: Path
) -> None:
    result = pruned(**THIN)
    task = load_task("lenet-digits", cache_dir=task_cache)
    assert result.points
    for point in result.points:
        assert point.cost.nonzero <= 0.05 * result.dense.cost.nonzero
        assert point.cost.nonzero == round(point.elite.shares.params * result.dense.cost.nonzero)
        assert point.validation == pytest.approx(task.error(point.model, task.validation))
        assert point.elite.epochs == 1 + 5 + 1
    # All that the network computes is written: it is the same when it is read again.
    again = gp_prune.load_pruned(tmp_path / "run" / "networks" / "p01", task.model)
    assert torch.equal(
        again(task.validation.inputs), result.points[0].model(task.validation.inputs)
    )
    for name, entries in result.baselines.items():
        for point, entry in zip(result.points, entries, strict=True):
            assert entry is not None and entry.cost.nonzero <= point.cost.nonzero, name


@pytest.mark.slow
def test_a_network_that_is_thinned_out_is_the_same_after_a_stop(
    pruned: Prune, tmp_path: Path
) -> None:
    whole = pruned("whole", **THIN)
    journal = (tmp_path / "whole" / "journal.jsonl").read_text().splitlines(keepends=True)
    retrained = [n for n, line in enumerate(journal) if '"retrain:' in line]
    folder = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", folder)
    (folder / "result.json").unlink()
    (folder / "journal.jsonl").write_text("".join(journal[: retrained[3]]))
    resumed = pruned("stopped", resume=True)
    assert figures(resumed) == figures(whole)


def test_the_others_start_from_and_learn_from_a_dense_network_that_is_trained_first(
    pruned: Prune, tmp_path: Path
) -> None:
    result = pruned(dense_epochs=2, rounds=1)
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "retrain:" in entry.get("key", "")]
    first, *others = entries
    assert '"epochs": 2' in first["key"] and first["error"] <= result.dense.validation
    # share of distillation, temperature, shift, distortion, parameters, teacher
    assert first["key"].endswith('0.0, 4.0, 0, 0.0, 0, "dense"]')
    assert others and all(
        entry["key"].endswith(f'0.5, 4.0, 0, 0.0, 0, "{first["weights"]}"]') for entry in others
    )
    start = first["weights"][:32]
    assert any(entry["key"].startswith(f"retrain:{start}:") for entry in others)
    assert result.dense.elite.number == 0 and result.dense.elite.epochs == 0
    assert {point.elite.epochs for point in result.points} == {2 + 1 + 1}
    again = pruned(resume=True)
    assert figures(again) == figures(result)


def test_single_weights_without_genes_cannot_be_thinned_out(pruned: Prune) -> None:
    with pytest.raises(UserError, match="no single weights of this network have genes"):
        pruned(final_params=0.1, lambdas=(1.0, 100.0, 0.0))


def test_a_run_that_finds_nothing_says_so(pruned: Prune, tmp_path: Path) -> None:
    result = pruned(learning_rate=1e9)
    assert not result.points and result.recommended is None
    assert "no pruned network was found" in result_lines(result.to_json(), io.StringIO())
    assert any("lower the learning rate" in reason for reason in result.failures)
    plot_front(result.to_json(), tmp_path / "front.svg")


@pytest.mark.slow
def test_a_full_disk_names_the_file_and_the_run_goes_on_later(
    pruned: Prune, tmp_path: Path
) -> None:
    """A limit on the size of files is a full disk: weights are the largest files."""
    resource = pytest.importorskip("resource")
    options = {"rounds": 1, "generations": 1, "baselines": False}
    whole = pruned("whole", **options)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    weights = next((tmp_path / "whole" / WEIGHTS).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.stat().st_size - 1, before[1]))
    try:
        words = (
            rf"^weights '{tmp_path}/full/weights/\w+\.safetensors' cannot be written: .* --resume$"
        )
        with pytest.raises(UserError, match=words):
            pruned("full", **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "full" / WEIGHTS).iterdir()) == [], "nothing half written"
    assert figures(pruned("full", resume=True)) == figures(whole)


def test_plans_that_were_set_aside_are_said_at_the_end(
    pruned: Prune, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = EvaluatePlan.run
    count = 0

    def sometimes(job: EvaluatePlan, workbench: Workbench) -> PlanOutcome:
        nonlocal count
        count += 1
        return job.failed("set aside") if count == 3 else evaluate(job, workbench)

    monkeypatch.setattr(EvaluatePlan, "run", sometimes)
    result = pruned(rounds=1, generations=1, baselines=False)
    (failure,) = result.failures
    assert re.fullmatch(r"plan [0-9a-f]{16} \([\d,]+ channels? removed\): set aside", failure)
    assert (
        result_lines(result.to_json(), io.StringIO())[-1]
        == f"1 plan failed, at last because {failure}"
    )


def test_the_seed_changes_the_run(pruned: Prune) -> None:
    changes = {"rounds": 1, "generations": 1, "final_epochs": 0, "baselines": False}
    one, other = (pruned(str(seed), seed=seed, **changes) for seed in (1, 2))
    assert one.history != other.history


@pytest.mark.parametrize("selection", ["truncation", "tournament", "roulette"])
def test_one_fitness(pruned: Prune, selection: str) -> None:
    result = pruned(lambdas=(1.0, 0.0, 10.0), selection=selection, rounds=1, baselines=False)
    merits = [10 * p.elite.shares.params + p.validation for p in result.points]
    best = result.recommended
    assert best is not None
    assert 10 * best.elite.shares.params + best.validation == pytest.approx(min(merits))


@pytest.mark.parametrize(
    "changes",
    [
        {"granularity": "channel"},
        {"granularity": "weight"},
        {"crossover": "uniform", "mutations": ("random",)},
        {"mutations": ("l2", "magnitude"), "adaptive": False, "restore": 0.5},
        pytest.param({"model": "cnn-digits"}, marks=pytest.mark.slow),
        pytest.param(
            {"model": "autoencoder-digits", "mutations": ("random",), "distill": 0.0},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_other_settings(pruned: Prune, changes: dict[str, Any]) -> None:
    result = pruned(**{"baselines": False, "rounds": 1, **changes})
    assert result.points
    assert all(point.cost.nonzero < result.dense.cost.nonzero for point in result.points)


def test_a_run_ends_after_so_many_evaluations(pruned: Prune) -> None:
    result = pruned(max_evaluations=20, baselines=False)
    assert result.evaluations == 20
    # One is left for the second round, which begins with two networks.
    (first,) = {e for e, _ in pruned("one", rounds=1, baselines=False).history[-1:]}
    result = pruned("more", max_evaluations=first + 1, baselines=False)
    assert result.evaluations == first + 1


def blobs() -> tuple[Tensor, Tensor]:
    """Two classes that a small network tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    inputs = torch.randn(200, 1, 6, 6, generator=generator)
    inputs[:, :, :3] += 1.5 * labels[:, None, None, None]
    return inputs, labels


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.hidden = nn.Linear(6, 8)
        self.output = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        output: Tensor = self.output(torch.relu(self.hidden(x)))
        return output


def tiny() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tiny()
    inputs, labels = blobs()
    gp_prune.fine_tune(
        model, (inputs, labels), nn.functional.cross_entropy,
        gp_prune.FineTuning(epochs=10, optimiser="adamw", learning_rate=0.01),
    )  # fmt: skip
    return model


def test_a_network_in_memory(tmp_path: Path) -> None:
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = GeneticPruner(SMALL, baselines=False)
    result = pruner.prune(model, blobs(), tmp_path / "run", timed=False)
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())
    assert result.split == "validation"
    assert result.points[-1].cost.nonzero < result.dense.cost.nonzero
    again = gp_prune.load_pruned(tmp_path / "run" / "networks" / "p01", model)
    inputs, _ = blobs()
    assert torch.equal(again(inputs), result.points[0].model(inputs))
    resumed = pruner.prune(model, blobs(), tmp_path / "run", resume=True, timed=False)
    assert figures(resumed) == figures(result)
    with pytest.raises(UserError, match="go on with it from the program that began it"):
        prune_genetically(folder=tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="cannot travel to other processes"):
        GeneticPruner(SMALL, workers=2).prune(model, blobs(), tmp_path / "two")
    with pytest.raises(UserError, match="needs data"):
        pruner.prune(model, folder=tmp_path / "none")


def test_what_does_not_fit_the_kind_of_network_is_refused(tmp_path: Path, task_cache: Path) -> None:
    source = TaskSource(str(task_cache))
    pruner = GeneticPruner(SMALL, baselines=False, rounds=1, final_epochs=0, source=source)
    loss = nn.functional.cross_entropy
    for options in ({"loss": loss}, {"example_inputs": torch.zeros(1)}, {"kind": "mse"}):
        with pytest.raises(UserError, match="'lenet-digits' has its own inputs, loss and kind"):
            pruner.prune("lenet-digits", folder=tmp_path / "run", **options)
    with pytest.raises(UserError, match="most is for networks that are loaded by name"):
        GeneticPruner(SMALL, most=50).prune(tiny(), blobs(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    pruner.prune("lenet-digits", folder=tmp_path / "run", timed=False)
    pruner.prune("lenet-digits", folder=tmp_path / "run", timed=False, resume=True)
    with pytest.raises(UserError, match="keeps its settings, but model would change"):
        pruner.prune("cnn-digits", folder=tmp_path / "run", resume=True)
    with pytest.raises(UserError, match="keeps its settings, but rounds would change"):
        GeneticPruner(pruner.settings, rounds=5).prune(
            "lenet-digits", folder=tmp_path / "run", resume=True
        )


def test_another_network_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    model = tiny()
    mine = tmp_path / "mine.json"
    gp_prune.Metric.parse("sum[i,k](abs(mul(W, G)))", name="mine").save(mine)
    pruner = GeneticPruner(
        SMALL, baselines=False, rounds=1, final_epochs=0, mutations=(str(mine), "random")
    )
    pruner.prune(model, blobs(), tmp_path / "run")
    inputs, labels = blobs()
    with pytest.raises(UserError, match=r"^the data 'own data' changed since the run was begun"):
        pruner.prune(model, (inputs + 1, labels), tmp_path / "run", resume=True)
    gp_prune.Metric.parse("sum[i,k](abs(W))", name="mine").save(mine)
    with pytest.raises(UserError, match=r"^the metric 'mine' changed since the run was begun"):
        pruner.prune(model, blobs(), tmp_path / "run", resume=True)
    gp_prune.Metric.parse("sum[i,k](abs(mul(W, G)))", name="mine").save(mine)
    with torch.no_grad():
        model.get_parameter("output.bias").add_(1)
    with pytest.raises(UserError, match=r"^the weights of the network in memory changed since"):
        pruner.prune(model, blobs(), tmp_path / "run", resume=True)


def test_the_pool_is_what_the_settings_name() -> None:
    names = [m.name for m in load_mutations(replace(SMALL, mutations=("l1", "random")))]
    assert names == ["l1", "random"]
    default = {mutation.name for mutation in load_mutations(SMALL)}
    assert {"l1", "magnitude"} <= default
    assert "random" not in default
    with pytest.raises(UserError, match="named twice"):
        load_mutations(replace(SMALL, mutations=("l1", "l1")))
    with pytest.raises(UserError, match="unknown metric"):
        load_mutations(replace(SMALL, mutations=("nothing",)))


def test_a_pool_must_reach_every_gene(pruned: Prune) -> None:
    with pytest.raises(UserError, match="none of the mutations l1 ranks weights"):
        pruned(mutations=("l1",))


@pytest.mark.parametrize(
    "changes",
    [{"granularity": "weight"}, {"lambdas": (1.0, 1.0, 0.0), "mutations": ("magnitude", "l1")}],
    ids=str,
)
def test_a_mutation_without_effect_is_refused(
    pruned: Prune, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"ranks (channels|weights), which are not pruned here"):
        pruned(**{"mutations": ("l1", "magnitude"), **changes})
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_of_the_pruner_is_named() -> None:
    with pytest.raises(UserError, match="unknown setting 'speed'"):
        GeneticPruner(speed=3)
