"""Checks of the project: ``nox`` runs lint, types and tests; ``nox -l`` lists all.

The checks run in the active environment, because torch is too large for one environment per check:
`pip install -c constraints.txt -e '.[test,dev,docs]'`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.run("ruff", "check", ".", external=True)
    session.run("ruff", "format", "--check", ".", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, and the order of imports with import-linter."""
    session.run("mypy", "--strict", "tests", "benchmarks", "examples", external=True)
    # primitives/ and evolved_metrics/ are part of the package only when it is installed, so both
    # tools look at a copy that is laid out as an installed package.
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "gp_prune"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "gp_prune", package, ignore=ignore)
        for content in ("primitives", "evolved_metrics"):
            shutil.copytree(ROOT / content, package / content, ignore=ignore)
        configuration = ROOT / "pyproject.toml"
        with session.chdir(folder):
            session.run(
                "mypy", "--strict", f"--config-file={configuration}", "-p", "gp_prune",
                external=True,
            )  # fmt: skip
            session.run(
                "lint-imports", "--no-cache", f"--config={configuration}",
                env={"PYTHONPATH": folder}, external=True,
            )  # fmt: skip


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but the slow ones; arguments after ``--`` go to pytest."""
    session.run("pytest", *session.posargs, external=True)


@nox.session
def smoke(session: nox.Session) -> None:
    """Run the few tests that give a first answer in seconds."""
    session.run("pytest", "-m", "smoke", *session.posargs, external=True)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests."""
    session.run("pytest", "-m", "slow", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the code of README and docs/, build the site, and compile all formulas."""
    session.run("pytest", "-n", "0", "tests/docs/test_pages.py", external=True)
    with tempfile.TemporaryDirectory() as folder:
        session.run(
            "python", "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", folder,
            external=True,
        )  # fmt: skip
    if shutil.which("pdflatex"):
        session.run("bash", ".ci/latex", external=True)
    else:
        session.log("LEFT OUT: there is no pdflatex on the PATH, so no formula was compiled")
