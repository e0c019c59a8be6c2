"""What is installed: one version, every file of the package, and nothing beside it."""

from __future__ import annotations

import configparser
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gp_prune

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "gp_prune": "gp_prune",
    "primitives": "gp_prune/primitives",
    "evolved_metrics": "gp_prune/evolved_metrics",
}
"""Folders of the repository, and where the package has them."""
KINDS = {".py", ".json", ".safetensors", ".css", ".html", ".js"}
"""Endings of the files of the package."""


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def declared_requirements() -> list[Requirement]:
    parser = setup_cfg()
    extras = parser["options.extras_require"]
    texts = lines(parser["options"]["install_requires"])
    return [Requirement(text) for text in texts + [x for key in extras for x in lines(extras[key])]]


def constraints() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = (line.split("==") for line in lines(text) if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def files_of_the_package() -> set[str]:
    """Names, as in a wheel, of all that the repository has to put into one."""
    names = set()
    for folder, target in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in KINDS or path.name == "py.typed":
                names.add(f"{target}/{path.relative_to(ROOT / folder).as_posix()}")
    return names


def test_one_version() -> None:
    assert importlib.metadata.version("gp-prune") == gp_prune.__version__
    assert gp_prune.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_package_is_declared() -> None:
    found = {name.rpartition("/")[0] for name in files_of_the_package() if name.endswith(".py")}
    declared = lines(setup_cfg()["options"]["packages"])
    assert sorted(declared) == sorted(folder.replace("/", ".") for folder in found)


@pytest.mark.parametrize("requirement", declared_requirements(), ids=str)
def test_tested_version_is_within_the_bounds(requirement: Requirement) -> None:
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


def test_pre_commit_has_the_tested_version_of_ruff() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert f"rev: v{constraints()['ruff']}\n" in text


def test_citation_has_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {gp_prune.__version__}\n" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, because setuptools leaves folders beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = f"gp_prune-{gp_prune.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"gp_prune", information}
    kinds = (*KINDS, "/py.typed")
    packed = {name for name in names if name.endswith(kinds)}
    assert packed == files_of_the_package()
    assert any(name.startswith("gp_prune/primitives/") for name in packed)
    for name in ("reference/l1.json", "handwritten/square_energy.json"):
        assert f"gp_prune/evolved_metrics/{name}" in packed
    assert f"{information}/licenses/LICENSE" in names


@pytest.mark.slow
def test_wheel_metadata(wheel: Path) -> None:
    information = f"gp_prune-{gp_prune.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{information}/METADATA").decode())
        entry_points = archive.read(f"{information}/entry_points.txt").decode()
    assert metadata["Name"] == "gp-prune"
    assert metadata["Version"] == gp_prune.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert "gp-prune = gp_prune.cli:main" in entry_points


@pytest.mark.slow
def test_content_is_imported_from_the_installed_package(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import gp_prune.primitives, gp_prune.evolved_metrics\n"
        "print(gp_prune.primitives.__file__, gp_prune.evolved_metrics.__file__, sep='\\n')\n"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert lines(printed.stdout) == [
        str(tmp_path / "gp_prune" / folder / "__init__.py")
        for folder in ("primitives", "evolved_metrics")
    ]
