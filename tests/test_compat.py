from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gp_prune import _compat
from gp_prune._compat import TorchvisionWarning, import_optional, import_torchvision
from gp_prune.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# What torchvision does beside a torch of another build: a submodule is imported, then the
# registration of an implementation for an operator that is not there fails.
INIT = """
from . import extension
import torch

@torch.library.register_fake("torchvision::nms")
def fake_nms(dets, scores, iou_threshold):
    return dets

datasets = "data sets"
"""
EXTENSION = """
import builtins
builtins.runs = getattr(builtins, "runs", 0) + 1
"""
PROGRAM = """
import builtins, sys, warnings
from gp_prune._compat import TorchvisionWarning, import_torchvision

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    module = import_torchvision()
    again = import_torchvision()
assert module is again is sys.modules["torchvision"]
assert module.datasets == "data sets"
assert builtins.runs == 2, builtins.runs  # the leftover of the failed import was run again
[warning] = [entry for entry in caught if entry.category is TorchvisionWarning]
assert "nms" in str(warning.message)
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def fake_torchvision(folder: Path, init: str) -> None:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(init)
    (package / "extension.py").write_text(EXTENSION)


@pytest.mark.slow
def test_the_missing_operator_is_declared_and_the_import_tried_again(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, INIT)
    done = run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "message", ["operator torchvision::roi_align does not exist", "something else is broken"]
)
def test_every_other_failure_is_raised_as_it_is(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError(message)

    declared = len(_compat._declared)
    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(RuntimeError, match=message):
        import_torchvision()
    assert len(_compat._declared) == declared


def test_a_module_that_torchvision_lacks_is_not_mistaken_for_torchvision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="PIL"):
        import_torchvision()


def test_without_torchvision_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="pip install 'torchvision'"):
        import_torchvision()


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_optional("json", "a test", "json") is json
    monkeypatch.setitem(sys.modules, "absent.part", None)
    says = "a plot needs absent, which is not installed; install it with: pip install 'gp[plot]'"
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        import_optional("absent.part", "a plot", "gp[plot]", "absent")


def test_what_a_package_lacks_itself_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.py").write_text("import absent_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_part"):
        import_optional("there", "a plot", "gp-prune[plot]")


EXTRA = re.compile(r"gp-prune\[(\w+)\]")


def test_messages_name_extras_that_exist() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = {
        name
        for file in (ROOT / "gp_prune").rglob("*.py")
        for name in EXTRA.findall(file.read_text(encoding="utf-8"))
    }
    assert {"plot", "onnx", "timm", "transformers", "dask"} <= named
    assert named <= set(setup["options.extras_require"])


@pytest.mark.filterwarnings("ignore::gp_prune._compat.TorchvisionWarning")
def test_the_installed_torchvision_offers_data_sets_models_and_transforms() -> None:
    module = import_torchvision()
    assert callable(module.datasets.MNIST)
    assert callable(module.models.vgg11)
    assert callable(module.transforms.Compose)
    assert import_torchvision() is module


def test_the_warning_can_be_told_from_others() -> None:
    assert issubclass(TorchvisionWarning, UserWarning)


IMPORTED = """
import gc, sys
from gp_prune._compat import import_torch
collections = []
gc.callbacks.append(lambda phase, info: collections.append("torch" in sys.modules))
import_torch()
first = len(collections), gc.get_freeze_count(), gc.isenabled()
import_torch()
print(*first, gc.get_freeze_count() == first[1])
"""

FAILED = """
import gc, sys
from gp_prune._compat import import_torch
class Broken:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ImportError("damaged")
sys.meta_path.insert(0, Broken())
try:
    import_torch()
except ImportError:
    print(gc.isenabled(), gc.get_freeze_count())
"""


def run_code(code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_torch_is_imported_without_collecting_garbage() -> None:
    collections, frozen, enabled, same = run_code(IMPORTED)
    assert collections == "0"
    assert int(frozen) > 100_000
    assert (enabled, same) == ("True", "True")


def test_garbage_is_collected_again_where_torch_cannot_be_imported() -> None:
    assert run_code(FAILED) == ["True", "0"]
