"""Every picture is written in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gp_prune.report.plots import save_figure
from gp_prune.report.plots import save_figure as of_autoencode
from gp_prune.report.plots import save_figure as of_genetic
from gp_prune.report.plots import save_figure as of_pruning

pytest.importorskip("matplotlib")


def line() -> Any:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4], label="a line")
    return figure


def test_all_pictures_are_written_by_one_function() -> None:
    assert of_autoencode is of_genetic is of_pruning is save_figure


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for path in paths:
        save_figure(line, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_cannot_be_written_is_one_sentence(
    refuses_bad_targets: Callable[..., None],
) -> None:
    refuses_bad_targets(lambda path: save_figure(line, path))
