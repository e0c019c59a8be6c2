from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import FILES, load_pruned, save_pruned
from gp_prune.errors import UserError
from gp_prune.pruning.modules import masked_parameters


@pytest.fixture
def pruned(residual: nn.Module, images: torch.Tensor) -> PrunedModel:
    return prune(residual, "l1", images, keep_macs=0.5)


@pytest.fixture
def saved(pruned: PrunedModel, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    save_pruned(pruned, folder, model="mine")
    return folder


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs)  # type: ignore[no-any-return]


def other_weights(model: nn.Module) -> nn.Module:
    """The same build with other weights."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(-1.5)
    return changed


@pytest.mark.skipif(os.name != "posix", reason="there is no umask")
def test_the_umask_says_who_may_read_the_folder(pruned: PrunedModel, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_pruned(pruned, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o640}


def test_what_a_kill_left_beside_the_folder_is_deleted(pruned: PrunedModel, tmp_path: Path) -> None:
    def leave(name: str, *files: str, old: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).touch()
        if old:
            os.utime(folder, (0, 0))
        return folder

    left = leave(".out.0123abcd", "weights.safetensors", ".plan.json.0123abcd")
    earlier = leave(".out.q1w2e3r4", *FILES)
    kept = [
        leave(".out.01234567", "report.json", old=False),  # of another process
        leave(".out.holidays", "picture.png"),
        leave(".other.0123abcd", "report.json"),
    ]
    save_pruned(pruned, tmp_path / "out")
    assert not left.exists()
    assert earlier.exists(), "it may be the only one: the kill was between two renames"
    save_pruned(pruned, tmp_path / "out")
    assert not earlier.exists()
    assert all(folder.exists() for folder in kept)


@pytest.mark.parametrize(
    ("metric", "mode"), [("l1", "compact"), ("l1", "mask"), ("magnitude", "mask")]
)
def test_round_trip_is_bit_equal(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, metric: str, mode: str
) -> None:
    pruned = prune(residual, metric, images, keep_params=0.5, mode=mode)
    with torch.no_grad():  # as after fine-tuning
        for parameter in pruned.model.parameters():
            parameter.mul_(1.01)
    save_pruned(pruned, tmp_path / "a" / "b")
    fresh = other_weights(residual)
    before = copy.deepcopy(fresh.state_dict())
    loaded = load_pruned(tmp_path / "a" / "b", fresh)
    if mode == "mask":
        for _, module, name in masked_parameters(loaded):
            mask = getattr(module, f"{name}_mask")
            assert torch.equal(getattr(module, name), getattr(module, f"{name}_orig") * mask)
    assert torch.equal(outputs(loaded, images), outputs(pruned.model, images))
    assert all(torch.equal(fresh.state_dict()[name], before[name]) for name in before)


def test_files(saved: Path, pruned: PrunedModel) -> None:
    assert {path.name for path in saved.iterdir()} == FILES
    assert not [path for path in saved.parent.iterdir() if path != saved]
    plan = json.loads((saved / "plan.json").read_text())
    assert (plan["model"], plan["metric"], plan["input_shapes"]) == ("mine", "l1", [[2, 3, 10, 10]])
    assert plan["metric_digest"] == pruned.metric_digest
    assert json.loads((saved / "report.json").read_text())["after"]["macs"] == pruned.after.macs
    assert saved.stat().st_mode & 0o755 == 0o755


def test_earlier_output_is_replaced(saved: Path, residual: nn.Module, images: torch.Tensor) -> None:
    again = prune(residual, "l2", images, keep_macs=0.3)
    save_pruned(again, saved)
    assert json.loads((saved / "plan.json").read_text())["metric"] == "l2"
    assert [path.name for path in saved.parent.iterdir()] == ["out"]
    assert torch.equal(outputs(load_pruned(saved, residual), images), outputs(again.model, images))


def test_foreign_folders_are_refused(pruned: PrunedModel, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (saved / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text('{"kind": "holiday"}')
    for name, word in (
        ("file", "is a file"),
        ("full", "'thesis.tex'"),
        ("out", "'notes.txt'"),
        ("other", "'plan.json'"),
    ):
        with pytest.raises(UserError, match=word):
            save_pruned(pruned, tmp_path / name)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "x"
    assert (saved / "notes.txt").exists()


def test_empty_folder_is_used(pruned: PrunedModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_pruned(pruned, tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_failure_leaves_nothing_half_written(
    pruned: PrunedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    from gp_prune.apply import saving

    def full_disk(path: Path, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_json", full_disk)
    with pytest.raises(UserError, match="No space left"):
        save_pruned(pruned, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["out"]


def test_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    pruned: PrunedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == saved and (Path(source) / "plan.json").exists() and not seen:
            seen.append(source)
            raise PermissionError(13, "Permission denied")
        real(source, target)

    seen: list[Path] = []
    monkeypatch.setattr("gp_prune.apply.saving.os.replace", replace)
    with pytest.raises(UserError, match="Permission denied"):
        save_pruned(pruned, saved)
    assert seen
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["out"]


class Tied(nn.Module):
    """Two layers with one weight, and a buffer that is a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.d = nn.Linear(6, 2)
        self.b.weight = self.a.weight
        self.register_buffer("view", self.d.weight.detach().t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = (
            self.d(self.c(self.b(self.a(x).relu()).relu()).relu())
            @ self.get_buffer("view").t()[:, :2]
        )
        return output


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, other = Tied().eval(), Tied().eval()
    inputs = torch.rand(3, 4)
    pruned = prune(model, "l1", inputs, keep_channels=0.5, mode="mask", interface=["a", "b"])
    save_pruned(pruned, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["shared"] == {
        "b.weight": "a.weight"
    }
    loaded: Any = load_pruned(tmp_path / "out", other)
    assert torch.equal(outputs(loaded, inputs), outputs(pruned.model, inputs))
    assert loaded.a.weight is loaded.b.weight


def test_state_that_is_no_tensor(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> object:
            return "text"

        def set_extra_state(self, state: object) -> None:
            pass

    with torch.random.fork_rng():
        model = nn.Sequential(Odd(3, 4), nn.Linear(4, 2))
    pruned = prune(model, "l1", torch.rand(1, 3), keep_channels=0.5)
    with pytest.raises(UserError, match="only tensors"):
        save_pruned(pruned, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def _edit(folder: Path, **changes: object) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "plan.json").unlink(), "No such file"),
        (lambda f: (f / "weights.safetensors").unlink(), "is missing; prune the network again"),
        (lambda f: (f / "plan.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "plan.json").write_text("[]"), "must be an object"),
        (lambda f: (f / "plan.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
        (lambda f: _edit(f, schema_version=99), "schema version 99"),
        (lambda f: _edit(f, kind="tale"), "'tale'"),
        (lambda f: _edit(f, more=1), "unknown field 'more'"),
        (lambda f: _edit(f, mode="shrink"), "mode 'shrink'"),
        (lambda f: _edit(f, plan={"kind": "channel plan"}), "no field"),
        (lambda f: _edit(f, shared={"x": "nowhere"}), "'nowhere'"),
        (lambda f: _edit(f, weights_sha256="0"), "SHA-256"),
        (lambda f: (f / "architecture.json").write_text("{}"), "SHA-256"),
        (lambda f: (f / "weights.safetensors").write_bytes(b"x" * 50), "SHA-256"),
    ],
)
def test_damaged_folders(saved: Path, residual: nn.Module, damage: object, words: str) -> None:
    damage(saved)  # type: ignore[operator]
    with pytest.raises(UserError, match=words) as caught:
        load_pruned(saved, residual)
    assert "\n" not in str(caught.value)


def test_plan_that_was_changed(saved: Path, residual: nn.Module) -> None:
    plan = json.loads((saved / "plan.json").read_text())["plan"]
    plan["removed"]["third"] = plan["removed"]["third"][:-1]
    _edit(saved, plan=plan)
    with pytest.raises(UserError, match="digest"):
        load_pruned(saved, residual)


def test_other_networks_are_refused(saved: Path, perceptron: nn.Module) -> None:
    with pytest.raises(UserError, match="no layer 'first'"):
        load_pruned(saved, perceptron)


def test_network_with_more_state_is_refused(saved: Path, residual: nn.Module) -> None:
    residual.register_buffer("extra", torch.zeros(1))
    with pytest.raises(UserError, match="lacks 'extra'"):
        load_pruned(saved, residual)


def _reseal(folder: Path, plan: dict[str, Any]) -> None:
    """Write a plan file whose digests fit the other files, as whoever changes them can."""
    for name in ("architecture.json", "weights.safetensors"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        plan[f"{name.partition('.')[0]}_sha256"] = digest
    (folder / "plan.json").write_text(json.dumps(plan))


@pytest.mark.parametrize("shape", [[2**40], [6, 3, 2**30, 1], [1] * 500_000])
def test_a_mask_of_another_shape_is_not_unpacked(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, shape: list[int]
) -> None:
    folder = tmp_path / "out"
    save_pruned(prune(residual, "magnitude", images, keep_params=0.5), folder)
    plan = json.loads((folder / "plan.json").read_text())
    name = next(iter(plan["plan"]["kept"]))
    bits = base64.b64encode(zlib.compress(bytes(2**26), 9)).decode()
    plan["plan"]["kept"][name] = {"shape": shape, "bits": bits}
    _reseal(folder, plan)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"mask of layer {name!r}|layer {name!r} has shape"):
        load_pruned(folder, residual)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26, "nothing near what the mask would take"


@pytest.mark.parametrize("name", ["plan.json", "architecture.json", "weights.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_refused(
    saved: Path, residual: nn.Module, pruned: PrunedModel, name: str
) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(UserError, match=f"{name}.*it is a pipe or a device"):
        load_pruned(saved, residual)
    if name == "plan.json":
        with pytest.raises(UserError, match="it is a pipe or a device"):
            save_pruned(pruned, saved)


@pytest.mark.parametrize("name", ["plan.json", "architecture.json", "weights.safetensors"])
def test_a_file_too_large_for_the_network_is_refused(
    saved: Path, residual: nn.Module, name: str
) -> None:
    with (saved / name).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=f"{name}.*it has more than the 16 MB"):
        load_pruned(saved, residual)


def test_a_mask_is_that_of_the_plan(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    save_pruned(prune(residual, "magnitude", images, keep_params=0.5), folder)
    plan = json.loads((folder / "plan.json").read_text())
    state = load_file(folder / "weights.safetensors")
    name = next(key for key in state if key.endswith("weight_mask"))
    for value in (5.0, torch.nan, 1.0 - float(state[name].flatten()[0])):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        changed[name].view(-1)[0] = value
        save_file(changed, folder / "weights.safetensors")
        _reseal(folder, plan)
        with pytest.raises(UserError, match=f"the mask '{name}' .* is not that of its plan"):
            load_pruned(folder, residual)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("interface", [1], "an entry of 'interface'"),
        ("input_shapes", [2], "an entry of 'input_shapes'"),
        ("input_shapes", [[-2]], "a size of 'input_shapes'"),
        ("mode", [], "mode"),
    ],
)
def test_fields_of_a_plan_file_are_named(
    saved: Path, residual: nn.Module, field: str, value: object, words: str
) -> None:
    _edit(saved, **{field: value})
    with pytest.raises(UserError, match=words):
        load_pruned(saved, residual)


def test_a_slot_of_a_module_of_another_kind_is_refused(saved: Path, residual: nn.Module) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    path = saved / "architecture.json"
    for side in ("reshape", "heads", "norm", "size", "parameter", "depthwise"):
        architecture = json.loads(path.read_text())
        for group in architecture["groups"]:
            group["slots"][0]["side"] = side
        path.write_text(json.dumps(architecture))
        _reseal(saved, plan)
        with pytest.raises(UserError):
            load_pruned(saved, residual)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float8_e4m3fn, "'first.bias' of type torch.float8_e4m3fn, with which networks"),
        (torch.float8_e5m2, "'first.bias' of type torch.float8_e5m2, with which networks"),
        (torch.float16, "'first.weight' of type .*float32 and 'first.bias' of type .*float16 in"),
        (torch.float64, "'first.weight' of type .*float32 and 'first.bias' of type .*float64 in"),
        (torch.int8, "'first.bias' of type torch.int8, the network of type torch.float32"),
        (torch.complex64, "'first.bias' of type torch.complex64"),
    ],
)
def test_a_layer_is_of_one_real_type(
    saved: Path, residual: nn.Module, dtype: torch.dtype, words: str
) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    state = load_file(saved / "weights.safetensors")
    state["first.bias"] = state["first.bias"].to(dtype)
    save_file(state, saved / "weights.safetensors")
    _reseal(saved, plan)
    with pytest.raises(UserError, match=words):
        load_pruned(saved, residual)


def test_a_network_in_which_all_is_float8_is_refused(saved: Path, residual: nn.Module) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    state = load_file(saved / "weights.safetensors")
    small = {
        name: tensor.to(torch.float8_e4m3fn) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    save_file(small, saved / "weights.safetensors")
    _reseal(saved, plan)
    with pytest.raises(UserError, match="with which networks do not compute"):
        load_pruned(saved, residual)
