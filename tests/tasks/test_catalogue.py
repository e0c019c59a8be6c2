from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.tasks import (
    TASK_NAMES,
    CacheWarning,
    Task,
    catalogue,
    check_task_name,
    is_trained,
    load_task,
)
from gp_prune.tasks.catalogue import LANGUAGE_TASKS, Recipe
from gp_prune.tasks.cifar_resnet import DEVIATION, MEAN, CifarResNet
from gp_prune.tasks.data import user_folder

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ("lenet-digits", "cnn-digits", "autoencoder-digits")


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("resnet-digits", "mobilenet-digits@1")]


@pytest.fixture(params=[*DIGITS, *SLOW])
def task(request: pytest.FixtureRequest, task_cache: Path) -> Task:
    return load_task(request.param, cache_dir=task_cache)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one epoch, for tests of everything but their quality."""
    for name in catalogue._RECIPES:
        monkeypatch.setitem(catalogue._RECIPES, name, Recipe(1, 1e-3))


def same(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_the_networks_are_good_enough_to_be_worth_pruning(task: Task) -> None:
    limit = 0.03 if task.kind == "classification" else 0.25 * task.trivial_error
    assert task.dense_error <= limit
    assert task.error(task.model, task.validation) == task.dense_error
    assert task.error(task.model, task.test()) <= 2 * limit


def test_the_trivial_errors_are_those_of_their_definition(task: Task) -> None:
    if task.kind == "classification":
        frequent = task.train.target.mode().values
        expected = task.validation.target.ne(frequent).float().mean()
    else:
        expected = (task.validation.inputs - task.train.inputs.mean(0)).square().mean()
    assert task.trivial_error == pytest.approx(float(expected), rel=1e-5)


def test_a_task_holds_what_its_kind_says(task: Task) -> None:
    assert not any(module.training for module in task.model.modules())
    assert all(parameter.requires_grad for parameter in task.model.parameters())
    assert task.example_inputs.shape == (1, 1, 8, 8)
    for split, size in ((task.train, 1077), (task.validation, 360), (task.test(), 360)):
        assert split.inputs.shape == (size, 1, 8, 8)
        assert split.labels is not None
        assert split.labels.shape == (size,)
        wanted = split.labels if task.kind == "classification" else split.inputs
        assert torch.equal(split.target, wanted)
    assert task.keep == (("latent",) if task.kind == "reconstruction" else ())
    assert set(task.keep) <= dict(task.model.named_modules()).keys()


def test_batches_give_every_sample_once_and_in_order(task: Task) -> None:
    batches = list(task.batches(task.validation, 100))
    assert [len(batch.inputs) for batch in batches] == [100, 100, 100, 60]
    for name in ("inputs", "target", "labels"):
        joined = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(joined, getattr(task.validation, name))
    with pytest.raises(ValueError, match="at least 1"):
        next(task.batches(task.train, 0))


def test_fine_tuning_mends_a_damaged_copy_and_repeats_exactly(task: Task) -> None:
    state = torch.get_rng_state()
    damaged = copy.deepcopy(task.model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in damaged.parameters():
            parameter.add_(parameter.std() * torch.randn(parameter.shape, generator=noise))
    copies = [copy.deepcopy(damaged) for _ in range(3)]
    for model, seed in zip(copies, (5, 5, 6), strict=True):
        task.fine_tune(model, steps=40, seed=seed)
    assert task.error(copies[0], task.validation) < task.error(damaged, task.validation)
    assert same(copies[0], copies[1])
    assert not same(copies[0], copies[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert task.error(task.model, task.validation) == task.dense_error


def test_recalibration_uses_the_first_256_training_samples(task_cache: Path) -> None:
    task = load_task("cnn-digits", cache_dir=task_cache)
    model = copy.deepcopy(task.model)
    task.recalibrate(model)
    seen = model.get_submodule("conv1")(task.train.inputs[:256]).transpose(0, 1).flatten(1)
    norm = model.get_submodule("norm1")
    torch.testing.assert_close(norm.running_mean, seen.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, seen.var(1), atol=1e-5, rtol=1e-4)
    assert task.error(model, task.validation) <= task.dense_error + 0.02


def test_a_task_survives_the_way_to_another_process(task: Task) -> None:
    back = pickle.loads(pickle.dumps(task))
    assert same(back.model, task.model)
    assert back.dense_error == task.dense_error
    assert torch.equal(back.test().inputs, task.test().inputs)


@pytest.mark.usefixtures("quick")
def test_the_seed_decides_the_weights_and_nothing_else_does(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first = load_task("cnn-digits", cache_dir=tmp_path / "a", seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        second = load_task("cnn-digits", cache_dir=tmp_path / "b", seed=4)
    other = load_task("cnn-digits", cache_dir=tmp_path / "a", seed=5)
    assert same(first.model, second.model)
    assert not same(first.model, other.model)
    assert torch.equal(first.train.inputs, other.train.inputs)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("quick")
def test_a_second_load_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_task("lenet-digits", cache_dir=tmp_path)

    def fail(*args: object) -> float:
        raise AssertionError("trained although the cache holds the network")

    monkeypatch.setattr(catalogue, "_train", fail)
    second = load_task("lenet-digits", cache_dir=str(tmp_path))
    assert same(first.model, second.model)
    assert second.dense_error == first.dense_error
    assert not any(module.training for module in second.model.modules())
    for name, seed in (("lenet-digits", 1), ("cnn-digits", 0)):
        with pytest.raises(AssertionError, match="trained"):
            load_task(name, cache_dir=tmp_path, seed=seed)
    monkeypatch.setitem(catalogue._RECIPES, "lenet-digits", Recipe(2, 1e-3))
    with pytest.raises(AssertionError, match="trained"):
        load_task("lenet-digits", cache_dir=tmp_path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("pattern", ["meta.json", "*.safetensors"])
def test_a_damaged_entry_is_made_again_with_a_warning(tmp_path: Path, pattern: str) -> None:
    first = load_task("lenet-digits", cache_dir=tmp_path)
    [path] = tmp_path.glob(f"*/{pattern}")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(CacheWarning, match=path.name):
        second = load_task("lenet-digits", cache_dir=tmp_path)
    assert same(first.model, second.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task("lenet-digits", cache_dir=tmp_path)  # whole again


@pytest.mark.usefixtures("quick")
def test_a_name_with_a_seed_is_the_task_trained_from_that_seed(tmp_path: Path) -> None:
    named = load_task("lenet-digits@3", cache_dir=tmp_path, seed=5)
    assert named.name == "lenet-digits@3"
    assert is_trained("lenet-digits", cache_dir=tmp_path, seed=3)  # one entry of the cache
    given = load_task("lenet-digits", cache_dir=tmp_path, seed=3)
    assert same(named.model, given.model)
    assert is_trained("lenet-digits@3", cache_dir=tmp_path)
    assert not is_trained("lenet-digits@5", cache_dir=tmp_path, seed=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet-digit@2", "did you mean 'lenet-digits@2'"),
        ("lenet-digits@", "whole number, for instance 'lenet-digits@1'"),
        ("lenet-digits@-1", "whole number"),
        ("lenet-digits@01", "whole number"),
        ("lenet-digits@1@2", "whole number"),
        (f"lenet-digits@{2**63}", "must be"),
    ],
)
def test_a_seed_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_task_name(name)


RACE = """
import sys, torch
torch.set_num_threads(1)
from gp_prune.tasks import catalogue, load_task
catalogue._RECIPES["lenet-digits"] = catalogue.Recipe(1, 1e-3)
task = load_task("lenet-digits", cache_dir=sys.argv[1])
print(float(task.model.output.weight.detach().double().sum()), task.dense_error)
"""


@pytest.mark.slow
def test_two_processes_may_train_the_same_task_at_the_same_time(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACE, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0]
    [folder] = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]


def test_an_unknown_name_is_refused_with_the_nearest_and_all_names() -> None:
    with pytest.raises(UserError) as caught:
        load_task("lenet-digit")
    message = str(caught.value)
    assert "did you mean 'lenet-digits'?" in message
    assert all(name in message for name in TASK_NAMES)
    for name in ("", "digits-lenet", "lenet-", "lenet-digits-digits", "nothing at all"):
        with pytest.raises(UserError, match="unknown task"):
            load_task(name)


def test_every_name_is_a_model_and_a_data_set() -> None:
    assert TASK_NAMES[:3] == DIGITS
    assert len(TASK_NAMES) == len(set(TASK_NAMES)) == 28 + len(LANGUAGE_TASKS)
    assert {name.split("-")[1] for name in TASK_NAMES} == {
        "digits",
        "mnist",
        "fashionmnist",
        "cifar10",
        "pydoc",
    }


@pytest.mark.filterwarnings("ignore::gp_prune._compat.TorchvisionWarning")
def test_a_missing_data_set_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data-root"):
        load_task("lenet-mnist", data_root=tmp_path, cache_dir=tmp_path)


def test_the_default_folders_are_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        platformdirs, "user_cache_path", lambda name, appauthor: Path("/cache") / name
    )
    assert user_folder(None, "tasks") == Path("/cache/gp-prune/tasks")
    assert user_folder("~/x", "tasks") == Path.home() / "x"


def test_a_network_is_known_once_it_was_trained(task_cache: Path, tmp_path: Path) -> None:
    load_task("lenet-digits", cache_dir=task_cache)
    assert is_trained("lenet-digits", cache_dir=task_cache)
    assert not is_trained("lenet-digits", cache_dir=task_cache, seed=1)
    assert not is_trained("lenet-digits", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_network_is_none(task_cache: Path, tmp_path: Path) -> None:
    load_task("lenet-digits", cache_dir=task_cache)
    folder = next(p.parent for p in task_cache.glob("lenet-digits-*/meta.json"))
    copied = tmp_path / folder.name
    copied.mkdir()
    (copied / "meta.json").write_bytes((folder / "meta.json").read_bytes())
    assert not is_trained("lenet-digits", cache_dir=tmp_path)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="unknown task 'lenet-digit'"):
        is_trained("lenet-digit")


def test_a_residual_network_takes_its_weights_from_a_file(tmp_path: Path) -> None:
    root = write_cifar(tmp_path / "data")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CifarResNet(3).eval()
    file = tmp_path / "resnet20.th"
    entries = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": entries, "best_prec1": 10.0}, file)
    name = f"resnet20-cifar10:{file}"
    check_task_name(name)
    task = load_task(name, cache_dir=tmp_path / "cache", data_root=root)
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, DEVIATION))
    images = task.validation.inputs
    torch.testing.assert_close(task.model(images), model((images - mean) / deviation))
    wrong = model((images - mean) / deviation).argmax(1) != task.validation.labels
    assert task.dense_error == pytest.approx(float(wrong.float().mean()))
    assert load_task(name, cache_dir=tmp_path / "cache", data_root=root).name == name
    with pytest.raises(UserError, match="weights"):
        load_task(f"resnet56-cifar10:{file}", cache_dir=tmp_path, data_root=root)
    with pytest.raises(UserError, match=r"missing\.th"):
        load_task("resnet20-cifar10:missing.th", cache_dir=tmp_path, data_root=root)


@pytest.mark.parametrize("name", ["resnet20-cifar10", "resnet20-cifar10:"])
def test_a_missing_file_is_asked_for(name: str) -> None:
    with pytest.raises(UserError, match="write resnet20-cifar10:FILE"):
        check_task_name(name)


def write_cifar(root: Path) -> Path:
    """Write a CIFAR-10 of 20 random images in each of its files."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for file in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        records.tofile(folder / f"{file}.bin")
    return root
