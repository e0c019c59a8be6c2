"""Measure the structure of the code: its size, and the files that a command runs through.

    python benchmarks/structure.py

Prints one line per figure. A "way" counts the files of the package in which at least one function
is called while a command runs, and how often the running file changes from one first call to the
next. Run it from the root of a checkout whose gp_prune is the one installed.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "apply l1 torchvision:resnet18, half of the MACs": [
        "apply", "l1", "torchvision:resnet18", "--keep-macs", "0.5", "--quiet",
    ],
    "evolve, one task, in process, population 4": [
        "evolve", "--tasks", "lenet-digits", "--population", "4", "--generations", "1",
        "--workers", "1", "--quiet", "--out", "{folder}/run",
    ],
    "latex lamp": ["latex", "lamp"],
}  # fmt: skip
_TRACE = """
import inspect, sys
root, names = sys.argv[1], set()
files, changes = set(), 0
last = None
def first_calls(frame, event, argument):
    global last, changes
    code = frame.f_code
    if event != "call" or code in names:
        return
    names.add(code)
    file = code.co_filename
    is_function = code.co_flags & inspect.CO_OPTIMIZED  # the bodies of modules and classes are not
    if not is_function or not file.startswith((root + "/gp_prune/", root + "/primitives/")):
        return
    files.add(file)
    changes += file != last
    last = file
from gp_prune.cli import main
sys.setprofile(first_calls)
try:
    main(sys.argv[2:], standalone_mode=False)
finally:
    sys.setprofile(None)
    called = sum(c.co_filename in files and c.co_flags & inspect.CO_OPTIMIZED for c in names)
    print(len(files), changes, called, file=sys.stderr)
"""


def modules() -> dict[str, Path]:
    """Return every module of the package and of the primitives with its file."""
    found = {}
    for folder in ("gp_prune", "primitives"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name if folder == "gp_prune" else f"gp_prune.{name}"] = path
    return found


def importers(found: dict[str, Path]) -> Counter[str]:
    """Count the modules that import each module, with the lazy imports."""
    count: Counter[str] = Counter()
    for name, path in found.items():
        used = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    used.add(inner if inner in found else node.module)
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
        count.update(used & set(found) - {name})
    return count


def has_meaning(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a decorator documents the function by ``meaning=``, as in primitives/."""
    calls = [d for d in node.decorator_list if isinstance(d, ast.Call)]
    return any(keyword.arg == "meaning" for call in calls for keyword in call.keywords)


def functions(path: Path) -> Iterator[tuple[int, bool, bool]]:
    """Yield for each function: its lines, whether it is public, whether it has a docstring.

    The methods of a class inside primitives/ override methods that their base class documents.
    """
    overrides = "primitives" in path.parts

    def walk(node: ast.AST, public: bool) -> Iterator[tuple[int, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (child.end_lineno or 0) - child.lineno + 1
                open_to_all = public and not child.name.startswith("_")
                documented = ast.get_docstring(child) is not None or has_meaning(child)
                is_override = overrides and isinstance(node, ast.ClassDef) and bool(node.bases)
                yield lines, open_to_all, documented or is_override
                yield from walk(child, False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, public and not child.name.startswith("_"))
            else:
                yield from walk(child, public)

    return walk(ast.parse(path.read_text(encoding="utf-8")), True)


def way(arguments: list[str]) -> tuple[int, int, int]:
    """Run a command; the files it runs through, the changes of file, and the functions."""
    with tempfile.TemporaryDirectory() as folder:
        command = [argument.format(folder=folder) for argument in arguments]
        done = subprocess.run(
            [sys.executable, "-c", _TRACE, str(ROOT), *command],
            capture_output=True, text=True, check=True, cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    files, changes, called = map(int, done.stderr.splitlines()[-1].split())
    return files, changes, called


def main() -> None:
    found = modules()
    sizes = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in found.items()
    }
    print(f"lines of gp_prune/ and primitives/: {sum(sizes.values()):,}")
    print(f"files: {len(found)}")
    print(f"files over 400 lines: {sum(size > 400 for size in sizes.values())}")
    loose = [p for p in (ROOT / "gp_prune").glob("*.py")]
    print(f"modules at the root: {len(loose)}")
    count = importers(found)
    print(f"modules with exactly one importer: {sum(count[name] == 1 for name in found)}")
    every = [f for path in found.values() for f in functions(path)]
    lengths = sorted(lines for lines, _, _ in every)
    public = [documented for _, is_public, documented in every if is_public]
    print(f"functions: {len(lengths):,}, median {statistics.median(lengths):.0f} lines, "
          f"p95 {lengths[int(0.95 * len(lengths))]}, longest {lengths[-1]}")  # fmt: skip
    print(f"public functions with a docstring: {sum(public)} of {len(public)}")
    for name, arguments in WAYS.items():
        files, changes, called = way(arguments)
        print(f"{name}: {files} files, {changes} changes of file, {called} functions")


if __name__ == "__main__":
    main()
