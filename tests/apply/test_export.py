"""Files that other programs run."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.apply import export
from gp_prune.apply.export import TOLERANCE, ExportWarning, export_onnx, export_torch
from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.pruning import WeightPlan
from gp_prune.statistics.running import tensors_of

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)


class Manners(nn.Module):
    """Two inputs, and outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        z = self.b((self.a(x) * y).relu())
        return {"z": z, "parts": (z + 1, z.argmax(1)), "a": z * 2}


@pytest.fixture
def manners() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Manners()


def _load_script(path: Path) -> Any:
    return torch.jit.load(path)  # type: ignore[no-untyped-call]


def run_onnx(path: Path, *inputs: torch.Tensor) -> list[torch.Tensor]:
    onnxruntime = importlib.import_module("onnxruntime")

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return [torch.from_numpy(values) for values in session.run(None, feed)]


@needs_onnx
@pytest.mark.parametrize("mode", ["compact", pytest.param("mask", marks=pytest.mark.slow)])
def test_onnx_of_a_pruned_network(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, mode: str
) -> None:
    pruned = prune(residual, "l1", images, keep_macs=0.5, mode=mode)
    before = copy.deepcopy(list(pruned.model.named_modules()))
    pruned.model.train()
    path = tmp_path / "new" / "small.onnx"
    assert export_onnx(pruned, path, images) <= TOLERANCE
    assert [name for name, _ in pruned.model.named_modules()] == [name for name, _ in before]
    assert all(module.training for module in pruned.model.modules())
    (found,) = run_onnx(path, images)
    with torch.no_grad():
        torch.testing.assert_close(found, pruned.model.eval()(images), rtol=1e-4, atol=1e-5)
    assert [entry.name for entry in path.parent.iterdir()] == ["small.onnx"]


@needs_onnx
def test_masked_zeros_are_in_the_file(perceptron: nn.Module, tmp_path: Path) -> None:
    import onnx

    pruned = prune(perceptron, "magnitude", torch.rand(2, 6), keep_params=0.3)
    masks = {name for name, _ in pruned.model.named_buffers()}
    export_onnx(pruned, tmp_path / "a.onnx", torch.rand(2, 6))
    assert {name for name, _ in pruned.model.named_buffers()} == masks  # they are still masks
    numbers = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer
    ]
    zeros = sum(int((values == 0).sum()) for values in numbers if values.ndim == 2)
    assert isinstance(pruned.plan, WeightPlan)
    assert zeros == sum(int((~mask.unpack()).sum()) for mask in pruned.plan.kept.values())


@needs_onnx
@pytest.mark.parametrize(
    "form",
    [*(pytest.param(form, marks=pytest.mark.slow) for form in ("tuple", "list")), "mapping",
     "function"],
)  # fmt: skip
def test_onnx_of_several_inputs_and_outputs(manners: nn.Module, tmp_path: Path, form: str) -> None:
    x, y = torch.rand(3, 4), torch.rand(3, 6)
    inputs: Any = {
        "tuple": (x, y), "list": [x, y], "mapping": {"y": y, "x": x}, "function": {"pair": [x, y]}
    }[form]  # fmt: skip
    forward_fn = (lambda model, given: model(*given["pair"])) if form == "function" else None
    path = tmp_path / "a.onnx"
    assert export_onnx(manners, path, inputs, forward_fn=forward_fn) <= TOLERANCE
    assert path.stat().st_size > 100


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
@pytest.mark.parametrize("mode", ["compact", "mask"])
def test_torch_files(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, suffix: str, mode: str
) -> None:
    pruned = prune(residual, "l1", images, keep_macs=0.5, mode=mode)
    path = tmp_path / f"small{suffix}"
    assert export_torch(pruned, path, images) <= TOLERANCE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: Any = torch.export.load(path).module() if suffix == ".pt2" else _load_script(path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), pruned.model(images))


def values_of(model: nn.Module, inputs: Any) -> Any:
    """TorchScript has no dictionaries of mixed values."""
    return list(model(*inputs).values())[:1]


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_torch_files_of_several_inputs(manners: nn.Module, tmp_path: Path, suffix: str) -> None:
    x, y = torch.rand(3, 4), torch.rand(3, 6)
    for inputs in ((x, y), {"x": x, "y": y}):
        way = values_of if suffix == ".ts" else None
        write = partial(export_torch, manners, tmp_path / f"a{suffix}")
        if isinstance(inputs, tuple) or suffix == ".pt2":
            assert write(inputs, forward_fn=way) <= TOLERANCE
        else:
            with pytest.raises(UserError, match="TorchScript"):
                write(inputs)


def test_another_ending(residual: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.pt2 or \.ts"):
        export_torch(residual, tmp_path / "a.bin", images)


class Choosy(nn.Module):
    """Takes a path that depends on its data, which no graph holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.a(x) if float(x.sum()) > 0 else self.a(-x) + 1
        return output


@pytest.mark.parametrize("suffix", [pytest.param(".onnx", marks=needs_onnx), ".pt2", ".ts"])
def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    with torch.random.fork_rng():
        model = Choosy()
    path = tmp_path / f"a{suffix}"
    path.write_text("an earlier file")
    write = export_onnx if suffix == ".onnx" else export_torch
    with pytest.raises(UserError, match="save_pruned") as caught:
        write(model, path, torch.ones(2, 3))
    assert "\n" not in str(caught.value)
    assert path.read_text() == "an earlier file"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@needs_onnx
def test_a_file_that_computes_something_else_is_not_kept(
    perceptron: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tensors_of
    monkeypatch.setattr(export, "tensors_of", lambda value: [t * 1.001 for t in real(value)])
    with pytest.raises(UserError, match=r"not written.*differ"):
        export_onnx(perceptron, tmp_path / "a.onnx", torch.rand(2, 6))
    assert not list(tmp_path.iterdir())


def test_missing_extra(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"needs onnx,.*'gp-prune\[onnx\]'"):
        export_onnx(residual, tmp_path / "a.onnx", images)


def test_disk_that_is_full(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt2"
    path.write_text("an earlier file")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gp_prune.base.files.os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        export_torch(residual, path, images)
    assert path.read_text() == "an earlier file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt2"]


def test_outputs_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[0] = float("nan")
    with pytest.raises(UserError, match="differ"):
        export_torch(model, tmp_path / "a.pt2", torch.ones(1, 2))


class Branching(nn.Module):
    """A layer, with a sign that the data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class Fixed(nn.Module):
    """Takes two samples and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x.reshape(2, 4))


class Shaped(nn.Module):
    """Looks at a shape, which a trace may take for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x) if x.shape[1] == 4 else x


@pytest.mark.parametrize("suffix", [".ts", ".pt2"])
def test_branches_on_data_are_not_frozen(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    words = (
        r"branches on the values of its data \(line \d+ of" if suffix == ".ts" else "torch.export"
    )
    with pytest.raises(UserError, match=words):
        export_torch(Branching(), path, torch.ones(2, 4))
    assert not path.exists()
    assert export_torch(Shaped(), path, torch.ones(2, 4)) < 1e-6


@needs_onnx
@pytest.mark.parametrize(
    ("samples", "mapping"), [(1, False), pytest.param(3, True, marks=pytest.mark.slow)]
)
def test_an_onnx_file_takes_any_number_of_samples(
    residual: nn.Module, tmp_path: Path, samples: int, mapping: bool
) -> None:
    path, images = tmp_path / "x.onnx", torch.rand(samples, 3, 8, 8)
    inputs: Any = {"x": images} if mapping else images
    runner = (lambda model, given: model(given["x"])) if mapping else None
    assert export_onnx(residual, path, inputs, forward_fn=runner, free_batch=True) < 1e-4
    session = importlib.import_module("onnxruntime").InferenceSession(str(path))
    (node,) = session.get_inputs()
    assert isinstance(node.shape[0], str) and node.shape[1:] == [3, 8, 8]
    for count in (1, 2, 7):
        batch = torch.rand(count, 3, 8, 8)
        (output,) = session.run(None, {node.name: batch.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(output), residual.eval()(batch))


@needs_onnx
@pytest.mark.slow
def test_a_network_of_a_fixed_number_of_samples_is_told(tmp_path: Path) -> None:
    path, x = tmp_path / "x.onnx", torch.rand(2, 4)
    with pytest.warns(ExportWarning, match=r"takes batches of 2 samples alone.*free number"):
        assert export_onnx(Fixed(), path, x) < 1e-4
    assert export_onnx(Fixed(), path, x, free_batch=False) < 1e-4
    path.unlink()
    with pytest.raises(UserError, match="cannot be exported to ONNX with a free number of samples"):
        export_onnx(Fixed(), path, x, free_batch=True)
    assert not path.exists()


@needs_onnx
@pytest.mark.slow
def test_half_precision_is_compared_as_half(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 8)).half()
        x = torch.randn(2, 64).half()
    difference = export_onnx(model, tmp_path / "x.onnx", x)
    assert 1e-4 < difference < 1e-2
    with pytest.raises(UserError, match="cannot be exported to ONNX"):
        export_onnx(model.bfloat16(), tmp_path / "y.onnx", x.bfloat16())
