"""Bytes, times and jobs of the genetic pruner."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from gp_prune.apply.data import TuningData
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.genetic import retraining
from gp_prune.genetic.front import Convolutions, compare_convolutions, stored_bytes
from gp_prune.genetic.plan import GeneLayout
from gp_prune.genetic.retraining import (
    DENSE,
    WORST,
    EvaluatePlan,
    RetrainPlan,
    ShiftedImages,
    add_teacher_outputs,
)
from gp_prune.genetic.source import NamedModel, PreparedModel
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.statistics import Batch
from gp_prune.training import FineTuning, Samples
from gp_prune.training.samples import take


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_bytes_are_those_of_torch():
    layer = nn.Linear(40, 30)
    kept = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.1
    with torch.no_grad():
        layer.weight *= kept
    sparse = layer.weight.detach().to_sparse_csr()
    indices = [part.int() for part in (sparse.crow_indices(), sparse.col_indices())]
    expected = sum(part.nbytes for part in (*indices, sparse.values(), layer.bias))
    assert stored_bytes(layer).csr == expected
    assert stored_bytes(layer).dense == 4 * (30 * 40 + 30)


def test_a_dense_matrix_is_stored_as_it_is():
    found = stored_bytes(nn.Linear(5, 6))
    assert found.csr == found.dense == 4 * 36


def test_convolutions_run_on_what_reaches_them(networks):
    model, inputs = networks("cnn")
    alone = Convolutions(model, inputs)
    assert len(alone.layers) == 4
    seen = []
    hooks = [layer.register_forward_hook(lambda *args: seen.append(args[2])) for layer in
             alone.layers]  # fmt: skip
    alone(inputs)
    ours, seen[:] = list(seen), []
    model(inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, seen, strict=True))
    for hook in hooks:
        hook.remove()


def test_what_has_no_convolution_takes_no_time(networks):
    model, inputs = networks("autoencoder")
    assert compare_convolutions(model, model, inputs) is None
    lenet, images = networks("lenet")
    turns = compare_convolutions(lenet, lenet, images.repeat(20, 1, 1, 1))
    assert turns is not None
    assert 0.2 < turns.lower <= turns.share <= turns.upper < 5


@pytest.fixture(scope="module")
def digits(task_cache):
    """The network of lenet-digits, its layout, and a worker's bench."""
    source = TaskSource(str(task_cache))
    source = NamedModel("lenet-digits", source=source)
    bench = Workbench(source)
    prepared = source.prepare(bench)
    return source, prepared, GeneLayout(prepared.model, prepared.architecture, "auto"), bench


def half(layout):
    masks = [mask.copy() for mask in layout.full()]
    for mask in masks[:-1]:
        mask[::2] = False
    return layout.plan(masks)


def test_a_trial_judges_the_network_of_its_plan(digits, tmp_path):
    source, prepared, layout, bench = digits
    task = prepared.loaded.task
    plan = half(layout)
    outcome = EvaluatePlan(source, str(tmp_path), DENSE, plan, 10_000).run(bench)
    smaller = retraining.cut_network(prepared.model, plan, prepared.architecture)
    assert outcome.error == pytest.approx(task.error(smaller, task.validation))
    job = EvaluatePlan(source, str(tmp_path), DENSE, plan, 10)
    assert job.failed("lost") == (WORST, "", "lost")


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_retraining_keeps_what_is_pruned_at_zero_and_is_no_worse(digits, tmp_path, distill):
    source, prepared, layout, bench = digits
    plan = half(layout)
    settings = FineTuning(epochs=2, optimiser="adamw", learning_rate=3e-3)
    job = RetrainPlan(source, str(tmp_path), DENSE, plan, settings, distill)
    outcome = job.run(bench)
    before = prepared.error(retraining.cut_network(prepared.model, plan, prepared.architecture))
    assert outcome.error < before
    state = retraining.load_state(tmp_path, outcome.weights)
    dense = prepared.model.state_dict()
    mask = plan.marks()["linear1"]
    # What was pruned is kept as it was, so that it can come back.
    assert torch.equal(state["linear1.weight"][~mask], dense["linear1.weight"][~mask])
    assert not torch.equal(state["linear1.weight"][mask], dense["linear1.weight"][mask])
    again = EvaluatePlan(source, str(tmp_path), outcome.weights, plan, 10_000).run(bench)
    assert again.error == pytest.approx(outcome.error)
    assert job.run(bench) == outcome
    assert job.key != replace(job, distill=0.25).key


def test_training_that_goes_astray_is_a_failure(digits, tmp_path):
    source, _, layout, bench = digits
    settings = FineTuning(epochs=1, optimiser="sgd", learning_rate=1e20)
    outcome = RetrainPlan(source, str(tmp_path), DENSE, half(layout), settings, 0.0).run(bench)
    assert outcome.failure
    assert not list(tmp_path.iterdir())


class Reading(Dataset[Batch]):
    """Samples that remember how many of them were wanted at a time."""

    def __init__(self, samples):
        self.samples, self.most = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitems__(self, indices):
        self.most = max(self.most, len(indices))
        return self.samples.__getitems__(indices)


def test_images_are_not_all_read_into_memory():
    images = Samples(torch.rand(700, 1, 2, 2), torch.arange(700) % 3)
    reading = Reading(images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    loss = nn.functional.cross_entropy
    data = TuningData("images", images, reading, lambda: reading, "validation", "error", loss)
    prepared = PreparedModel(LoadedModel("own", model, torch.zeros(1, 1, 2, 2)), data)
    assert prepared.trivial_error == pytest.approx(1 - 234 / 700)
    assert 0 < prepared.error(model) < 1
    assert reading.most <= 250


def test_the_teacher_takes_samples_of_another_device():
    samples = Samples(torch.rand(9, 4), torch.arange(9) % 2)
    prepared = SimpleNamespace(
        model=nn.Linear(4, 2, device="meta"), data=SimpleNamespace(train=samples)
    )
    taught = add_teacher_outputs(prepared, Workbench(TaskSource()), "own")
    assert taught.target[1].device.type == "meta"
    assert taught.target[1].shape == (9, 2)


def test_shifted_images_are_the_images_moved():
    images = torch.arange(1.0, 5 * 9 + 1).reshape(5, 1, 3, 3)
    data = ShiftedImages(Samples(images, torch.arange(5)), 1)
    assert len(data) == 5
    seen = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            batch = take(data, torch.tensor([3, 1]))
            assert batch.target.tolist() == [3, 1]
            place = (batch.inputs[0, 0] == images[3, 0, 1, 1]).nonzero()[0]
            down, right = (place - 1).tolist()
            seen.add((down, right))
            rolled = images[[3, 1]].roll((down, right), (2, 3))
            same = batch.inputs == rolled
            assert bool((same | (batch.inputs == 0)).all())
            assert int((batch.inputs[0] != 0).sum()) == (3 - abs(down)) * (3 - abs(right))
    assert len(seen) == 9
    with pytest.raises(UserError, match="the training data are no images"):
        ShiftedImages(Samples(torch.zeros(4, 3), torch.zeros(4)), 1)
    with pytest.raises(UserError, match="shift is 3, but the training images have 3 x 3 pixels"):
        ShiftedImages(Samples(images, torch.arange(5)), 3)
