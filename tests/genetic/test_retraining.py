"""Jobs on plans, and the weights that they keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.genetic.plan import GeneLayout, GeneticPlan
from gp_prune.genetic.retraining import (
    WORST,
    EvaluatePlan,
    RetrainPlan,
    add_teacher_outputs,
)
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.source import NamedModel, PreparedModel
from gp_prune.genetic.weights import DENSE, cut_network, load_state, save_state, state_path
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.training import FineTuning, Samples

Digits = tuple[NamedModel, PreparedModel, GeneLayout, Workbench]


@pytest.fixture(scope="module")
def digits(task_cache: Path) -> Digits:
    """The network of lenet-digits, its layout, and a worker's workbench."""
    tasks = TaskSource(str(task_cache))
    source, bench = NamedModel(GeneticSettings(model="lenet-digits"), tasks), Workbench(tasks)
    prepared = source.prepare(bench)
    return source, prepared, GeneLayout(prepared.model, prepared.architecture, "auto"), bench


def half(layout: GeneLayout) -> GeneticPlan:
    masks = [mask.copy() for mask in layout.full()]
    for mask in masks[:-1]:
        mask[::2] = False
    return layout.plan(masks)


def test_a_trial_judges_the_network_of_its_plan(digits: Digits, tmp_path: Path) -> None:
    source, prepared, layout, bench = digits
    task = prepared.loaded.task
    assert task is not None
    plan = half(layout)
    outcome = EvaluatePlan(source, str(tmp_path), DENSE, plan, 10_000).run(bench)
    smaller = cut_network(prepared.model, plan, prepared.architecture)
    assert outcome.error == pytest.approx(task.error(smaller, task.validation))
    job = EvaluatePlan(source, str(tmp_path), DENSE, plan, 10)
    assert job.failed("lost") == (WORST, "", "lost")


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_retraining_keeps_what_is_pruned_at_zero_and_is_no_worse(
    digits: Digits, tmp_path: Path, distill: float
) -> None:
    source, prepared, layout, bench = digits
    plan = half(layout)
    settings = FineTuning(epochs=2, optimiser="adamw", learning_rate=3e-3)
    job = RetrainPlan(source, str(tmp_path), DENSE, plan, settings, distill)
    outcome = job.run(bench)
    before = prepared.error(cut_network(prepared.model, plan, prepared.architecture))
    assert outcome.error < before
    state = load_state(tmp_path, outcome.weights)
    dense = prepared.model.state_dict()
    mask = plan.marks()["linear1"]
    # What was pruned is kept as it was, so that it can come back.
    assert torch.equal(state["linear1.weight"][~mask], dense["linear1.weight"][~mask])
    assert not torch.equal(state["linear1.weight"][mask], dense["linear1.weight"][mask])
    again = EvaluatePlan(source, str(tmp_path), outcome.weights, plan, 10_000).run(bench)
    assert again.error == pytest.approx(outcome.error)
    assert job.run(bench) == outcome
    assert job.key != replace(job, distill=0.25).key


def test_training_that_goes_astray_is_a_failure(digits: Digits, tmp_path: Path) -> None:
    source, _, layout, bench = digits
    settings = FineTuning(epochs=1, optimiser="sgd", learning_rate=1e9)
    outcome = RetrainPlan(source, str(tmp_path), DENSE, half(layout), settings, 0.0).run(bench)
    assert outcome.failure
    assert not list(tmp_path.iterdir())


def test_the_teacher_takes_samples_of_another_device() -> None:
    samples = Samples(torch.rand(9, 4), torch.arange(9) % 2)
    teacher = nn.Linear(4, 2, device="meta")
    taught = add_teacher_outputs(teacher, samples, Workbench(TaskSource()), "own")
    assert taught is not None
    assert taught.target[1].device.type == "meta"
    assert taught.target[1].shape == (9, 2)


def test_lost_or_damaged_weights_are_named(tmp_path: Path) -> None:
    digest = save_state({"a": torch.ones(3)}, tmp_path)
    assert torch.equal(load_state(tmp_path, digest)["a"], torch.ones(3))
    path = state_path(tmp_path, digest)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="missing or damaged"):
        load_state(tmp_path, digest)
    path.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        load_state(tmp_path, digest)
