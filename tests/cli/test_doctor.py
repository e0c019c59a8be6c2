"""``doctor``: what is found, what is missing and for what; nothing is changed."""

from __future__ import annotations

import configparser
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import gp_prune
from gp_prune.cli import doctor

Run = Callable[..., Result]
SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"


def test_it_names_versions_folders_and_what_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / "MNIST").mkdir(parents=True)
    (tmp_path / "cache" / "lenet-digits-0").mkdir(parents=True)
    (tmp_path / "cache" / "lenet-digits-0" / "meta.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    folders = ("--cache-dir", tmp_path / "cache", "--data-root", tmp_path / "data")
    result = run("doctor", *folders)
    assert result.exit_code == 0
    assert gp_prune.__version__ in result.stdout and "MNIST" in result.stdout
    found = json.loads(run("doctor", "--json", *folders).stdout)
    assert found["cached"] == 1 and found["data_sets"] == ["MNIST"] and found["cores"] >= 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_named_with_its_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "timm" else object())
    result = run("doctor", "--cache-dir", tmp_path / "none", "--data-root", tmp_path)
    text = " ".join(result.stdout.split())
    assert "missing timm: pip install 'gp-prune[timm]' (networks timm:NAME)" in text
    assert text.count("pip install") == 1


def test_every_extra_for_users_is_looked_for() -> None:
    parser = configparser.ConfigParser()
    parser.read(SETUP, encoding="utf-8")
    extras = set(parser["options.extras_require"]) - {"test", "dev", "docs"}
    assert set(doctor.EXTRAS) == extras
