"""Plots: complete, the same for the same content, and refused in one sentence."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.report.plots import plot_pruning, save_figure

pytest.importorskip("matplotlib")


@pytest.fixture
def refuses_bad_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`refuses_bad_targets(write)`: `write(path)` says in one sentence why it cannot, and leaves
    no file behind."""

    def check(write: Callable[[Path], None]) -> None:
        with pytest.raises(UserError, match=r"must end with one of \.png"):
            write(tmp_path / "plot.jpg")
        (tmp_path / "file").write_text("x")
        with pytest.raises(UserError, match="cannot be written"):
            write(tmp_path / "file" / "plot.png")
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UserError, match=r"pip install 'gp-prune\[plot\]'"):
            write(tmp_path / "plot.png")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    return check


def draw_line() -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4], label="a line")
    return figure


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for path in paths:
        save_figure(draw_line, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_cannot_be_written_is_one_sentence(refuses_bad_targets: Callable[..., None]) -> None:
    refuses_bad_targets(lambda path: save_figure(draw_line, path))


def report(depth: int, **budget: Any) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(6, 6) for _ in range(depth)]
    metric = "l1" if "keep_channels" in budget else "magnitude"
    pruned = prune(nn.Sequential(*layers), metric, torch.zeros(1, 6), **budget)
    data: dict[str, Any] = json.loads(json.dumps(pruned.report(model="a $mine$ <&>")))
    return data


def texts(path: Path) -> list[str]:
    root = xml.etree.ElementTree.parse(path).getroot()
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.mark.parametrize("depth", [1, 5, 60])
def test_every_layer_and_total_is_named(tmp_path: Path, depth: int) -> None:
    told = report(depth, keep_channels=0.5) if depth > 1 else report(1, keep_params=0.5)
    told["achieved"]["latency"] = 0.62
    plot_pruning(told, tmp_path / "plot.svg")
    words = texts(tmp_path / "plot.svg")
    assert {"MACs", "parameters", "latency", "kept", "removed"} <= set(words)
    assert "a $mine$ <&> pruned by " + told["metric"] in words
    for row in told["layers"]:
        if row["channels"]:
            assert row["layer"] in words
    if depth > 1:
        assert words.count("3 of 6") == depth - 1 and words.count("6 of 6") == 1


def test_many_layers_make_a_taller_picture_of_one_width(tmp_path: Path) -> None:
    sizes = []
    for depth in (5, 60):
        plot_pruning(report(depth, keep_channels=0.5), tmp_path / "plot.png")
        sizes.append(size(tmp_path / "plot.png"))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] - sizes[0][1] > 55 * 25  # pixels for each layer more


def test_the_same_report_gives_the_same_file(tmp_path: Path) -> None:
    told = report(3, keep_params=0.4)
    for suffix in ("png", "svg", "pdf"):
        first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
        plot_pruning(told, first)
        plot_pruning(told, second)
        assert first.read_bytes() == second.read_bytes()
    assert "weights and biases" in texts(tmp_path / "first.svg")


def test_what_cannot_be_drawn_is_one_sentence(
    tmp_path: Path, refuses_bad_targets: Callable[..., None]
) -> None:
    told = report(3, keep_channels=0.5)
    with pytest.raises(UserError, match="no layers"):
        plot_pruning({**told, "layers": []}, tmp_path / "plot.png")
    refuses_bad_targets(lambda path: plot_pruning(told, path))
