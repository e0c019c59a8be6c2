"""Digests of declarations: what changes scores changes them, and nothing else does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gp_prune
from gp_prune import Metric, primitives
from gp_prune.language.declaration_digest import digest_declaration
from gp_prune.language.primitive import builtin_primitives, primitive_set
from gp_prune.metric.file import bundled_metrics

FILE = '''
"""Own primitives."""
import sympy
from gp_prune import Elementwise, operand, operator

LIMIT = 2.0


def helper(x):
    """Clip."""
    return x.clamp(-LIMIT, LIMIT)  # both sides


def clipped_symbol(x):
    return sympy.Max(-2, sympy.Min(2, x))


@operator("clip2", shape=Elementwise(1), meaning="x within bounds", symbol=clipped_symbol)
def clip2(x):
    """Clip to the limit."""
    return helper(x)


@operand("bias2", axes="o", meaning="bias")
def bias2(layer):
    return layer.bias * 1.0


def make(factor):
    return operand(f"w{factor}", axes="oik", meaning="w")(lambda layer: layer.weight * factor)


w3 = make(3)
'''
FORMULA = "sum[i,k](clip2(mul(w3, bias2)))"
CHANGES = {
    "the function": ("return helper(x)", "return helper(x) + 0.0"),
    "a helper": ("x.clamp(-LIMIT, LIMIT)", "(x * 1.0).clamp(-LIMIT, LIMIT)"),
    "a constant": ("LIMIT = 2.0", "LIMIT = 2"),
    "the form in sympy": ("sympy.Min(2, x)", "sympy.Min(x, 2)"),
    "a law": ('meaning="x within bounds"', 'laws=["idempotent"], meaning="x within bounds"'),
    "an operand": ("layer.bias * 1.0", "1.0 * layer.bias"),
    "what a factory does": ("layer.weight * factor", "factor * layer.weight"),
}
SAME = {
    "nothing": ("", ""),
    "a comment": ("# both sides", "# above and below"),
    "a docstring": ('"""Clip to the limit."""', '"""Clip."""'),
    "what it means": ('meaning="x within bounds"', 'meaning="x, clipped"'),
    "the symbol": ('meaning="bias"', 'latex="c", meaning="bias"'),
    "the layout": ("return helper(x)", "return helper(\n        x\n    )"),
    "another name": ('w3 = make(3)', 'other = LIMIT\nw3 = make(3)'),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CHANGES, *SAME])
def test_a_saved_metric_knows_what_has_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(FILE)
    Metric.parse(FORMULA, name="mine", primitives=primitive_set(path)).save(tmp_path / "m.json")
    old, new = {**CHANGES, **SAME}[name]
    assert old in FILE
    changed = tmp_path / "changed.py"  # a file of its own: Python keeps the source of the first
    changed.write_text(FILE.replace(old, new, 1) if old else FILE)
    loaded = Metric.load(tmp_path / "m.json", primitive_set(changed))
    assert bool(loaded.changed_primitives()) is (name in CHANGES)


@pytest.mark.parametrize("later", ["# a line more\n" + FILE.replace("x.clamp", "x.clip"), None])
def test_the_digest_is_of_the_code_that_was_run_not_of_what_its_file_holds_later(
    tmp_path: Path, later: str | None
) -> None:
    files = [tmp_path / "own.py", tmp_path / "changed.py"]
    saved = []
    for file in files:
        file.write_text(FILE)
        metric = Metric.parse(FORMULA, name="mine", primitives=primitive_set(file))
        if file.stem == "changed" and later is None:
            file.unlink()
        elif file.stem == "changed":
            file.write_text(later or "")
        metric.save(tmp_path / "m.json")
        saved.append((tmp_path / "m.json").read_bytes())
    assert saved[0] == saved[1]
    assert len(Metric.load(tmp_path / "m.json", primitive_set(files[0])).declarations) == 5
    if later is not None:
        again = Metric.load(tmp_path / "m.json", primitive_set(files[1]))
        assert again.changed_primitives() == ("clip2()",)


_UPDATED = """
from pathlib import Path
from gp_prune import primitives
from gp_prune.language.declaration_digest import digest_declaration
from gp_prune.language.primitive import builtin_primitives
loaded = list(builtin_primitives())
assert list(primitives.__path__) == [str(Path("gp_prune/primitives").absolute())], "not the copy"
for file in Path("gp_prune/primitives").glob("*.py"):
    file.write_text("# a line more\\n" + file.read_text())
print(*map(digest_declaration, loaded))
"""


def test_an_update_of_the_package_changes_no_digest_of_what_is_loaded(tmp_path: Path) -> None:
    without_bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(gp_prune.__path__[0], tmp_path / "gp_prune", ignore=without_bytecode)
    target = tmp_path / "gp_prune" / "primitives"
    shutil.copytree(primitives.__path__[0], target, ignore=without_bytecode, dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _UPDATED], cwd=tmp_path, capture_output=True, text=True, check=True,
        timeout=600,
    )  # fmt: skip
    assert (target / "operands.py").read_text().startswith("# a line more")
    assert done.stdout.split() == [digest_declaration(p) for p in builtin_primitives()]


def test_another_number_of_a_factory_is_another_declaration(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(FILE + "\nw4 = make(4)\n")
    operands = primitive_set(tmp_path / "own.py").operands
    assert digest_declaration(operands["w3"]) != digest_declaration(operands["w4"])


def test_every_builtin_primitive_has_its_own_digest() -> None:
    digests = [digest_declaration(primitive) for primitive in builtin_primitives()]
    assert all(len(digest) == 16 for digest in digests) and len(set(digests)) == len(digests)


def test_files_without_declarations_load_and_stay_as_they_are(tmp_path: Path) -> None:
    content = json.loads(bundled_metrics()["l1"].read_text())
    content.pop("declarations", None)
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Metric.load(tmp_path / "old.json")
    assert old.changed_primitives() == () and old.to_json() == content
    new = Metric.parse(str(old.expression), name="l1").to_json()
    assert sorted(new["declarations"]) == ["W", "abs()", "sum()"]


_WITHOUT_TORCH = """
import sys
from click.testing import CliRunner
from gp_prune.cli import main
result = CliRunner().invoke(main, sys.argv[1:])
assert "torch" not in sys.modules, "torch was loaded"
print(result.stderr, end="")
"""


@pytest.mark.parametrize("command", ["latex", "show"])
def test_latex_and_show_say_what_has_changed_without_loading_torch(
    tmp_path: Path, command: str
) -> None:
    metric = Metric.parse("sum[i,k](abs(W))", name="mine")
    metric.save(tmp_path / "m.json")
    told = []
    for digest in (None, "0" * 16):
        content = json.loads((tmp_path / "m.json").read_text())
        if digest is not None:
            content["declarations"]["abs()"] = digest
            (tmp_path / "m.json").write_text(json.dumps(content))
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT_TORCH, command, str(tmp_path / "m.json")],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        told.append(done.stdout)
    assert told[0] == ""
    assert told[1].startswith("gp-prune: primitive abs() of metric 'mine' changed since it was")
